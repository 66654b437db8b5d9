"""From the raw payloads of a secret store to a certificate bundle: bytes in, a value or one sentence out.

Understood: certificate and key in PEM or DER, the key with or without passphrase; intermediates in PEM, DER or PKCS #7;
everything together in PKCS #12. Keys go out unencrypted in the older PEM form that HAProxy, like upstream, uses; kinds
that this form does not know (Ed25519) as PKCS #8. No message holds a byte of a secret.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12
from cryptography.x509.oid import NameOID

from octavia_core.domain.secret import CertificateBundle, PublicSecret, Secret, SecretKind
from octavia_core.errors import SecretMissing

__all__ = ["read_bundle", "read_payload"]

ServerKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_PEM = b"-----BEGIN "
_NOTHING = Secret(b"")
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def read_bundle(ref: str, payloads: Mapping[str, Secret]) -> CertificateBundle:
    """Make the bundle of a TLS listener, member or client certificate.

    The leaf is the certificate that the key belongs to, wherever it stands; all others become intermediates, each after
    the one it signed, in so far as they are linked.

    Args:
        ref: the reference, for messages.
        payloads: as `SecretStorePort.fetch` gives them.

    Raises:
        SecretMissing: something is absent, unreadable, or does not belong together.
    """
    if "pkcs12" in payloads:
        key, certificates = _pkcs12(ref, payloads)
    else:
        if (
            "certificate" not in payloads
            and b"-----BEGIN CERTIFICATE-----" in payloads.get("payload", _NOTHING).reveal()
        ):
            raise SecretMissing(f"secret {ref!r} has a certificate and no private key; put both into it")
        certificates = _certificates(ref, "certificate", _needed(ref, payloads, "certificate"))
        if "intermediates" in payloads:
            certificates += _certificates(ref, "intermediates", payloads["intermediates"].reveal())
        key = _key(ref, _needed(ref, payloads, "private_key"), payloads.get("private_key_passphrase"))
    public = key.public_key()
    leaf = next((certificate for certificate in certificates if certificate.public_key() == public), None)
    if leaf is None:
        raise SecretMissing(f"secret {ref!r}: the private key does not belong to the certificate")
    names = _names(leaf)
    if not names:
        raise SecretMissing(f"secret {ref!r}: the certificate has neither a common name nor an alternative name")
    return CertificateBundle(
        certificate=_pem(leaf),
        private_key=Secret(_key_pem(key)),
        intermediates=tuple(_pem(certificate) for certificate in _in_sending_order(leaf, certificates)),
        names=names,
        not_after=int(leaf.not_valid_after_utc.timestamp()),
        not_before=int(leaf.not_valid_before_utc.timestamp()),
    )


def read_payload(ref: str, payloads: Mapping[str, Secret]) -> PublicSecret:
    """The PEM text of client authorities or of revocation lists, all that the secret holds, and which of both it is.

    Raises:
        SecretMissing: it holds neither certificates nor revocation lists.
    """
    content = _needed(ref, payloads, "payload" if "payload" in payloads else "certificate")
    blocks = [match[0] for match in _PEM_BLOCK.finditer(content) if match[1] in (b"CERTIFICATE", b"X509 CRL")]
    with contextlib.suppress(ValueError):
        return _authorities([_as_certificate(block) for block in (blocks or [content])])
    with contextlib.suppress(ValueError):
        return _revocations([_as_revocations(block) for block in (blocks or [content])])
    if blocks:
        raise SecretMissing(
            f"secret {ref!r}: certificates or revocation lists in it are damaged, or both kinds are mixed"
        )
    raise SecretMissing(f"secret {ref!r} holds neither a certificate nor a revocation list")


def _needed(ref: str, payloads: Mapping[str, Secret], name: str) -> bytes:
    if name not in payloads:
        has = ", ".join(sorted(payloads)) or "nothing"
        raise SecretMissing(f"secret {ref!r} has no {name.replace('_', ' ')} (it has: {has})")
    return payloads[name].reveal()


def _pkcs12(ref: str, payloads: Mapping[str, Secret]) -> tuple[ServerKey, list[x509.Certificate]]:
    passphrase = payloads.get("private_key_passphrase")
    try:
        key, certificate, more = pkcs12.load_key_and_certificates(
            payloads["pkcs12"].reveal(), passphrase.reveal() if passphrase else None
        )
    except (ValueError, UnsupportedAlgorithm):
        raise SecretMissing(f"secret {ref!r} is no PKCS #12 bundle that can be opened{_with(passphrase)}") from None
    if certificate is None or key is None:
        raise SecretMissing(
            f"secret {ref!r}: its PKCS #12 bundle has no {'certificate' if certificate is None else 'key'}"
        )
    return _server_key(ref, key), [certificate, *more]


def _certificates(ref: str, what: str, content: bytes) -> list[x509.Certificate]:
    """Certificates in PEM, PKCS #7 (PEM or DER) or DER."""
    try:
        if b"-----BEGIN PKCS7-----" in content:
            return pkcs7.load_pem_pkcs7_certificates(content)
        if _PEM in content:
            return list(x509.load_pem_x509_certificates(content))
    except (ValueError, UnsupportedAlgorithm):
        raise SecretMissing(f"secret {ref!r}: its {what} holds a damaged PEM certificate") from None
    with contextlib.suppress(ValueError):
        return [x509.load_der_x509_certificate(content)]
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        return pkcs7.load_der_pkcs7_certificates(content)
    raise SecretMissing(f"secret {ref!r}: its {what} is no certificate (PEM, DER or PKCS #7)")


def _key(ref: str, content: bytes, passphrase: Secret | None) -> ServerKey:
    load = serialization.load_pem_private_key if _PEM in content else serialization.load_der_private_key
    for word in (passphrase.reveal() if passphrase else None, None):  # a passphrase may be there and not be needed
        with contextlib.suppress(TypeError, ValueError, UnsupportedAlgorithm):
            return _server_key(ref, load(content, word))
    if passphrase is None and b"ENCRYPTED" in content:
        raise SecretMissing(f"secret {ref!r}: its private key is encrypted and there is no passphrase with it")
    raise SecretMissing(f"secret {ref!r}: its private key cannot be read{_with(passphrase)} (PEM or DER is expected)")


def _with(passphrase: Secret | None) -> str:
    return " with the passphrase that is stored with it" if passphrase else ""


def _server_key(ref: str, key: object) -> ServerKey:
    if isinstance(
        key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    ):
        return key
    raise SecretMissing(
        f"secret {ref!r}: its private key is of a kind that TLS servers do not use ({type(key).__name__})"
    )


def _key_pem(key: ServerKey) -> bytes:
    older = isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey))
    form = serialization.PrivateFormat.TraditionalOpenSSL if older else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii").strip()


def _as_certificate(content: bytes) -> x509.Certificate:
    load = x509.load_pem_x509_certificate if _PEM in content else x509.load_der_x509_certificate
    return load(content)


def _as_revocations(content: bytes) -> x509.CertificateRevocationList:
    load = x509.load_pem_x509_crl if _PEM in content else x509.load_der_x509_crl
    return load(content)


def _authorities(certificates: Sequence[x509.Certificate]) -> PublicSecret:
    can_be = any(_can_be_authority(certificate) for certificate in certificates)
    return PublicSecret(
        text="".join(c.public_bytes(serialization.Encoding.PEM).decode("ascii") for c in certificates),
        kind=SecretKind.AUTHORITIES if can_be else SecretKind.CERTIFICATES,
        not_after=min(int(certificate.not_valid_after_utc.timestamp()) for certificate in certificates),
    )


def _can_be_authority(certificate: x509.Certificate) -> bool:
    """It says so (RFC 5280 section 4.2.1.9); or it is signed by itself, and so trusted for itself at least."""
    if certificate.subject == certificate.issuer:
        return True
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _revocations(lists: Sequence[x509.CertificateRevocationList]) -> PublicSecret:
    ends = [int(found.next_update_utc.timestamp()) for found in lists if found.next_update_utc is not None]
    return PublicSecret(
        text="".join(found.public_bytes(serialization.Encoding.PEM).decode("ascii") for found in lists),
        kind=SecretKind.REVOCATIONS,
        not_after=min(ends, default=None),
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Host names of common name and alternative names, lower case, without repeats, in order."""
    found = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found += alternatives.get_values_for_type(x509.DNSName)
        found += [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]
    return tuple(dict.fromkeys(name.lower() for name in found))


def _in_sending_order(leaf: x509.Certificate, certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Each after the one that it signed, as TLS sends them; what is not linked to the leaf comes last, as it stood."""
    rest = [certificate for certificate in dict.fromkeys(certificates) if certificate != leaf]
    ordered: list[x509.Certificate] = []
    last = leaf
    while (following := next((c for c in rest if c.subject == last.issuer), None)) is not None:
        rest.remove(following)
        ordered.append(following)
        last = following
    return ordered + rest
