"""TLS of listeners and of pools towards their members: words on bind and server lines, and the files behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from octavia_core.domain.secret import CertificateBundle
from octavia_core.domain.tree import Listener, Pool
from octavia_core.domain.vocabulary import ClientAuthentication
from octavia_core.errors import SecretMissing
from octavia_core.ports.amphora import Material
from octavia_haproxy.render import check
from octavia_haproxy.render.model import Facts, PemFile, Tls
from octavia_haproxy.render.names import pem_name

__all__ = ["DEFAULT_CIPHERS", "TLS13_CIPHERS", "alpn", "listener_tls", "pool_tls"]

TLS13_CIPHERS = frozenset(
    {
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_CCM_8_SHA256",
    }
)
"""Names of TLS 1.3 cipher suites (RFC 8446 appendix B.4): HAProxy takes them by a keyword of their own."""

DEFAULT_CIPHERS = (
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305"
)
"""Upstream's default cipher string; used in place of one that cannot be a cipher string at all."""

_CIPHERS = re.compile(r"[A-Za-z0-9\-+!:@=_.]+")
_VERSIONS = ("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_SWITCHES = ("no-sslv3", "no-tlsv10", "no-tlsv11", "no-tlsv12", "no-tlsv13")
_BOUNDS = ("SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3")  # HAProxy's spelling
_AUTHORITY, _REVOCATIONS = "CERTIFICATE", "X509 CRL"  # labels of PEM, RFC 7468
_VERIFY = {
    ClientAuthentication.NONE: "none",
    ClientAuthentication.OPTIONAL: "optional",
    ClientAuthentication.MANDATORY: "required",
}


def listener_tls(listener: Listener, material: Material, directory: str, facts: Facts, *, partly: bool = False) -> Tls:
    """The TLS of a bind line: `ssl crt-list FILE` first, where the agent looks for it.

    Args:
        listener: whose it is.
        material: the secrets.
        directory: where the PEM files are in the amphora.
        facts: about the amphora.
        partly: leave out SNI certificates that could not be had. What checks clients is never left out.

    Raises:
        SecretMissing: a certificate (`partly`: the first, which is the default one), client CA or CRL could not be had.
        PermanentError: the listener names no certificate, or a field cannot be written.
    """
    owner = f"listener {listener.id}"
    refs = [ref for ref in (listener.tls_certificate_id, *listener.sni_container_ids) if ref]
    if not refs:
        raise check.refuse(owner, "tls_certificate_id", "is missing, and so are SNI certificates: it cannot end TLS")
    refs = [ref for ref in refs if ref == refs[0] or ref in material.bundles] if partly else refs
    certificates = _unique(_certificate(_bundle(material, ref)) for ref in refs)
    paths = "".join(f"{directory}/{file.name}\n" for file in certificates)
    crt_list = PemFile.of(f"{listener.id}.pem", paths, public=True)
    words = ["ssl", "crt-list", f"{directory}/{crt_list.name}"]
    files = [crt_list, *certificates]
    if listener.client_ca_tls_certificate_id:
        authority = _payload(material, listener.client_ca_tls_certificate_id, _AUTHORITY)
        files.append(authority)
        words += ["ca-file", f"{directory}/{authority.name}", "verify", _VERIFY[listener.client_authentication]]
        if listener.client_crl_container_id:
            revoked = _payload(material, listener.client_crl_container_id, _REVOCATIONS)
            files.append(revoked)
            words += ["crl-file", f"{directory}/{revoked.name}"]
    words += _parameters(owner, listener.tls_ciphers, listener.tls_versions, facts)
    words += alpn("alpn", owner, listener.alpn_protocols)
    return Tls(words=tuple(words), files=tuple(files))


def pool_tls(pool: Pool, material: Material, directory: str, facts: Facts) -> Tls:
    """The TLS of the server lines of a pool that re-encrypts; empty for one that does not.

    Raises:
        SecretMissing: its certificate, CA or CRL could not be had.
    """
    if not pool.tls_enabled:
        return Tls()
    owner = f"pool {pool.id}"
    words, files = ["ssl"], []
    if pool.tls_certificate_id:
        certificate = _certificate(_bundle(material, pool.tls_certificate_id))
        files.append(certificate)
        words += ["crt", f"{directory}/{certificate.name}"]
    if pool.ca_tls_certificate_id:
        authority = _payload(material, pool.ca_tls_certificate_id, _AUTHORITY)
        files.append(authority)
        words += ["ca-file", f"{directory}/{authority.name}"]
        if pool.crl_container_id:
            revoked = _payload(material, pool.crl_container_id, _REVOCATIONS)
            files.append(revoked)
            words += ["crl-file", f"{directory}/{revoked.name}"]
        words += ["verify", "required"]
    else:
        words += ["verify", "none"]
    words += ["sni", "ssl_fc_sni", *_parameters(owner, pool.tls_ciphers, pool.tls_versions, facts)]
    if facts.haproxy_version >= (1, 9):
        words += alpn("alpn", owner, pool.alpn_protocols)
    return Tls(words=tuple(words), files=tuple(_unique(files)))


def _parameters(owner: str, ciphers: str | None, versions: tuple[str, ...], facts: Facts) -> list[str]:
    wanted = versions or _VERSIONS
    unknown = sorted(set(wanted) - set(_VERSIONS))
    if unknown:
        raise check.refuse(owner, "tls_versions", f"{unknown[0]!r} is not one of {', '.join(_VERSIONS)}")
    words: list[str] = []
    if ciphers:
        names = (ciphers if _CIPHERS.fullmatch(ciphers) else DEFAULT_CIPHERS).split(":")
        older = [name for name in names if name and name not in TLS13_CIPHERS]
        newer = [name for name in names if name in TLS13_CIPHERS]
        if older and any(version != "TLSv1.3" for version in wanted):
            words += ["ciphers", ":".join(older)]
        if newer and "TLSv1.3" in wanted and facts.haproxy_version >= (1, 9):
            words += ["ciphersuites", ":".join(newer)]
    return words + _versions(versions, facts)


def _versions(versions: tuple[str, ...], facts: Facts) -> list[str]:
    """Switch off what is not listed. HAProxy 2.2 and newer begin at TLS 1.2 unless told otherwise, and being told
    excludes the switches; so a list that begins below and has no hole is written as bounds.
    """
    if not versions:
        return []
    listed = [index for index, version in enumerate(_VERSIONS) if version in versions]
    old = listed[0] < _VERSIONS.index("TLSv1.2") and facts.haproxy_version >= (2, 2)
    if old and listed == list(range(listed[0], listed[-1] + 1)):
        return ["ssl-min-ver", _BOUNDS[listed[0]], "ssl-max-ver", _BOUNDS[listed[-1]]]
    return [switch for index, switch in enumerate(_SWITCHES) if index not in listed]


def alpn(keyword: str, owner: str, protocols: tuple[str, ...]) -> list[str]:
    """The keyword and its protocols, nothing when there are none."""
    for protocol in protocols:
        if protocol not in ("h2", "http/1.1", "http/1.0"):
            raise check.refuse(owner, "alpn_protocols", f"{protocol!r} is not one of h2, http/1.1, http/1.0")
    return [keyword, ",".join(protocols)] if protocols else []


def _bundle(material: Material, ref: str) -> CertificateBundle:
    found = material.bundles.get(ref)
    if found is None:
        raise SecretMissing(f"certificate {ref}: {material.missing.get(ref, 'it was not fetched')}")
    return found


def _payload(material: Material, ref: str, label: str) -> PemFile:
    """A secret may be there for one who refers to it, and of the wrong kind for another: HAProxy would take either."""
    found = material.payloads.get(ref)
    if found is None or f"-----BEGIN {label}-----" not in found:
        raise SecretMissing(f"secret {ref}: {material.missing.get(ref, 'it was not fetched')}")
    return PemFile.of(pem_name(found), found, public=True)


def _certificate(bundle: CertificateBundle) -> PemFile:
    """Leaf, key, intermediates in one file, named after the leaf (agent API, section 5)."""
    parts = [bundle.certificate, bundle.private_key.reveal().decode(), *bundle.intermediates]
    return PemFile.of(pem_name(bundle.certificate), "".join(f"{part.strip()}\n" for part in parts))


def _unique(files: Iterable[PemFile]) -> list[PemFile]:
    return list({file.name: file for file in files}.values())
