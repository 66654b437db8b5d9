"""What HAProxy complains of, in terms of what was asked for: it names files, lines, binds and servers that nobody has seen.

Each rule reads one form of sentence, as HAProxy 2.6 to 3.2 write them; what none of them reads is told as it was said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from octavia_core.domain.secret import CertificateBundle
from octavia_core.domain.tree import LoadBalancer
from octavia_core.errors import AmphoraRefused
from octavia_core.ports.amphora import Delivery, Material
from octavia_haproxy.client import complaints, condensed
from octavia_haproxy.render.names import pem_name, pool_of

__all__ = ["explained", "plainly"]

_SERVER = re.compile(r"'server (?P<backend>[^'/]+)/(?P<member>[^']+)' : (?P<what>.+)")
_PROXY = re.compile(r"Proxy '(?P<proxy>[^']+)': (?P<what>.+?)(?: for bind '[^']*')?(?: at \[[^\]]*\])?")
_CRT_LIST = re.compile(
    r"'bind [^']*' in section 'frontend' : 'crt-list' : error processing line (?P<line>\d+) in file '(?P<file>[^']+)' : "
    r"(?P<what>.+)"
)
_UNLOADED = re.compile(r"unable to load SSL certificate into SSL Context '[^']*'(?:: (?P<why>.+))?")
_RULE = re.compile(r"error detected (?:in \w+ '[^']*' )?while parsing ACL '(?P<rule>[^']+)' : (?P<what>.+)")
_ECHO = re.compile(r".*no such ACL : '(?P<rule>[^']+)'")

_ENOUGH = {"RSA": 2048, "EC": 224}
"""Bits of a key from which on OpenSSL takes it at its security level 2, which distributions choose (SSL_CTX_set_security_level(3))."""
_OLD_HASHES = ("md5", "sha1")


def explained(refused: AmphoraRefused, delivery: Delivery) -> AmphoraRefused:
    """The same refusal, its complaints in terms of listeners, pools and secrets; itself when there is nothing to say better."""
    said = condensed(refused.details)
    better = plainly(refused.details, delivery.load_balancer, delivery.material)
    message = str(refused)
    if not said or better == said or not message.endswith(said):
        return refused
    return AmphoraRefused(message.removesuffix(said) + better, status=refused.status, details=refused.details)


def plainly(details: str, load_balancer: LoadBalancer, material: Material) -> str:
    """HAProxy's complaints, each once, joined by "; "."""
    said = complaints(details)
    bad_rules = {found["rule"] for found in map(_RULE.fullmatch, said) if found}
    reader = _Reader(load_balancer, material, said)
    told = [
        reader.read(complaint)
        for complaint in said
        if not ((echo := _ECHO.fullmatch(complaint)) and echo["rule"] in bad_rules)
    ]
    return "; ".join(dict.fromkeys(told))


class _Reader:
    def __init__(self, load_balancer: LoadBalancer, material: Material, said: Sequence[str]) -> None:
        self._tree, self._material = load_balancer, material
        found = [match for match in map(_SERVER.fullmatch, said) if match]
        self._often = Counter((pool_of(match["backend"]), match["what"]) for match in found)

    def read(self, complaint: str) -> str:
        if found := _CRT_LIST.fullmatch(complaint):
            return self._crt_list(found) or complaint
        if found := _SERVER.fullmatch(complaint):
            return self._server(found)
        if found := _PROXY.fullmatch(complaint):
            return f"{_section(found['proxy'])}: {found['what']}"
        if found := _RULE.fullmatch(complaint):
            return f"L7 rule {found['rule']}: {found['what']}"
        return complaint

    def _crt_list(self, found: re.Match[str]) -> str | None:
        listener = next((one for one in self._tree.listeners if one.id in found["file"]), None)
        if listener is None:
            return None
        place = f"listener {listener.id}"
        refs = [listener.tls_certificate_id, *listener.sni_container_ids]
        ref = self._at(int(found["line"]), (ref for ref in refs if ref))
        return f"{place}: {self._certificate(ref, found['what'])}"

    def _at(self, line: int, refs: Iterable[str]) -> str | None:
        """Whose certificate stands in that line of the list: each file is named once, by the first that has it."""
        bundles = ((ref, self._material.bundles.get(ref)) for ref in refs)
        files: dict[str, str] = {}
        for ref, bundle in bundles:
            if bundle is not None:
                files.setdefault(pem_name(bundle.certificate), ref)
        listed = list(files.values())
        return listed[line - 1] if 0 < line <= len(listed) else None

    def _server(self, found: re.Match[str]) -> str:
        pool = self._tree.pool(pool_of(found["backend"]))
        place, what = _section(found["backend"]), found["what"]
        if pool is not None and _UNLOADED.fullmatch(what):
            return f"{place}: {self._certificate(pool.tls_certificate_id, what)}"
        if self._often[pool_of(found["backend"]), what] > 1:
            return f"{place}: {what}"
        return f"member {found['member']} of {place}: {what}"

    def _certificate(self, ref: str | None, what: str) -> str:
        bundle = self._material.bundles.get(ref or "")
        unloaded = _UNLOADED.fullmatch(what)
        if bundle is None or unloaded is None:
            return f"certificate {ref}: {what}" if ref else what
        why = _weakness(bundle) or unloaded["why"]
        return f"HAProxy cannot load certificate {ref}" + (f": {why}" if why else "")


def _section(name: str) -> str:
    """What a proxy of HAProxy's stands for, by its name: a pool below a listener, or a listener."""
    return f"pool {pool_of(name)}" if ":" in name else f"listener {name}"


def _weakness(bundle: CertificateBundle) -> str | None:
    """Why a TLS library may find it too weak, where that can be seen."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        certificate = x509.load_pem_x509_certificate(bundle.certificate.encode())
        key, signed = certificate.public_key(), certificate.signature_hash_algorithm
    except ValueError:  # what else is wrong with it HAProxy may say
        return None
    kind = "RSA" if isinstance(key, rsa.RSAPublicKey) else "EC" if isinstance(key, ec.EllipticCurvePublicKey) else ""
    bits = int(getattr(key, "key_size", 0))
    if kind and bits < _ENOUGH[kind]:
        return (
            f"its {kind} key has {bits} bits, which is too weak for the TLS library there; {_ENOUGH[kind]} are enough"
        )
    if signed is not None and signed.name in _OLD_HASHES:
        return f"it is signed with {signed.name.upper()}, which is too weak for the TLS library there"
    return None
