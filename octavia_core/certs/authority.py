"""The two authorities: one signs the certificates of agents, the other those of controllers. They are never the same.

An agent obeys every client certificate of the authority it was given at boot. Were that the authority which signs agents,
each amphora could command all others.

The profile of an agent's certificate is upstream's: subject CN = amphora id alone; SAN DNS = amphora id; BasicConstraints
CA:FALSE, KeyUsage (digitalSignature, keyEncipherment, dataEncipherment, keyAgreement) and ExtendedKeyUsage (serverAuth,
clientAuth), all three critical; subject and authority key identifiers; a random UUID as serial number. The key is of the
kind of the authority's own: EC P-256 where we made it, RSA 2048 under an RSA authority of an existing cloud.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import shutil
import uuid
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError
from octavia_core.ports.clock import Clock, SystemClock
from octavia_core.ports.secrets import IssuedCertificate
from octavia_core.settings import Settings

__all__ = ["CONTROLLER_NAME", "Authority", "check_passphrases", "create_authorities"]

_log = logging.getLogger(__name__)

CONTROLLER_NAME = "octavia-controller"
"""Common name of the controllers' client certificate; our own agent obeys no other."""

_INSECURE = "insecure-key-do-not-use-this-key"
"""Upstream's default of [certificates] server_certs_key_passphrase: known to everybody."""

_AUTHORITY_LIFE = dt.timedelta(days=3650)
_SMALLEST_EXPONENT = 65537

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    """IssuerPort: signs agents, and knows whom they must obey.

    Args:
        certificate: the agents' authority.
        key: its private key.
        controllers: PEM of the controllers' authority.
        validity: seconds that an issued certificate is valid.
        clock: for notBefore and notAfter.

    Raises:
        ConfigurationError: the key is not the certificate's, the certificate is no authority, or both are the same.
    """

    def __init__(
        self, certificate: x509.Certificate, key: PrivateKey, controllers: bytes, *, validity: int, clock: Clock
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._controllers = controllers
        self._validity = validity
        self._clock = clock
        self._key_identifier = _authority_key_identifier(certificate)

    @classmethod
    def from_settings(cls, settings: Settings, clock: Clock | None = None, *, drop_in: bool = False) -> Authority:
        """Read the authorities that `[certificates]` and `[controller_worker] client_ca` name.

        Args:
            settings: where the files are.
            clock: for the dates of certificates.
            drop_in: beside an existing cloud one authority for both is warned about, not refused.

        Raises:
            ConfigurationError: a file is missing or wrong, or the same authority is configured for both.
        """
        check_passphrases(settings)
        group = settings.certificates
        certificate = _load_certificate(group.ca_certificate, "the agents' authority, [certificates] ca_certificate")
        key = _load_key(group.ca_private_key, group.ca_private_key_passphrase)
        if certificate.public_key() != key.public_key():
            raise ConfigurationError(
                f"[certificates] ca_private_key {group.ca_private_key} is not the key of ca_certificate {group.ca_certificate}"
            )
        clock = clock or SystemClock()
        _check_authority(certificate, group.ca_certificate, clock)
        client_ca = settings.controller_worker.client_ca
        controllers = _load_certificate(client_ca, "the controllers' authority, [controller_worker] client_ca")
        if controllers.public_key() == certificate.public_key():
            sentence = (
                f"{group.ca_certificate} signs agents and {client_ca} signs controllers, and they are the same authority,"
                " so any amphora could command all others; make a second one for the controllers and set"
                " [controller_worker] client_ca and [haproxy_amphora] client_cert to it"
            )
            if not drop_in:
                raise ConfigurationError(sentence)
            _log.warning(sentence)
        pem = controllers.public_bytes(serialization.Encoding.PEM)
        return cls(certificate, key, pem, validity=group.cert_validity_time, clock=clock)

    def issue(self, amphora_id: str) -> IssuedCertificate:
        key = _new_key_like(self._key)
        begin = dt.datetime.fromtimestamp(int(self._clock.now()), dt.UTC)
        end = begin + dt.timedelta(seconds=self._validity)
        builder = (
            _builder(amphora_id, key, begin, end)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(amphora_id)]), critical=False)
            .add_extension(_key_usage(of_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._key_identifier, critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM) + _key_pem(key, None)
        return IssuedCertificate(server_pem=Secret(pem), not_after=int(end.timestamp()))

    def controller_ca(self) -> bytes:
        return self._controllers

    def __repr__(self) -> str:
        return f"<Authority {self._certificate.subject.rfc4514_string()}>"


def check_passphrases(settings: Settings) -> None:
    """Refuse what everybody knows.

    Raises:
        ConfigurationError: a passphrase is upstream's built-in one.
    """
    group = settings.certificates
    given = {"server_certs_key_passphrase": group.server_certs_key_passphrase}
    if group.ca_private_key_passphrase is not None:
        given["ca_private_key_passphrase"] = (group.ca_private_key_passphrase,)
    for option, passphrases in given.items():
        if any(passphrase.reveal() == _INSECURE.encode() for passphrase in passphrases):
            where = settings.origin(f"certificates.{option}")
            raise ConfigurationError(
                f"{where}: [certificates] {option} is upstream's built-in passphrase, which everybody knows; set 32 random"
                " characters, for example of: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'"
            )


def create_authorities(directory: str | Path, *, passphrase: Secret | None = None, clock: Clock | None = None) -> None:
    """Make both authorities and the controllers' client certificate, with random keys, for this user alone.

    Files: agents.pem and agents.key, controllers.pem and controllers.key, controller.pem (certificate and key, common name
    `octavia-controller`). The directory appears complete or not at all; when it exists already, nothing is done.

    Args:
        directory: absolute path; its parent exists.
        passphrase: encrypts agents.key and controllers.key at rest, when given.
        clock: for the dates of the certificates.

    Raises:
        ConfigurationError: the directory cannot be written.
    """
    directory = Path(directory)
    aside = directory.with_name(f".{directory.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.new")
    if directory.exists():
        return
    try:
        aside.mkdir(mode=0o700)
        try:
            for name, content in _fresh(passphrase, clock or SystemClock()).items():
                fd = os.open(aside / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(fd)
            try:
                aside.rename(directory)
            except OSError:
                if not directory.is_dir():  # another process was quicker: its authorities count
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(f"the authorities cannot be made in {directory}: {error.strerror or error}") from error


def _fresh(passphrase: Secret | None, clock: Clock) -> dict[str, bytes]:
    begin = dt.datetime.fromtimestamp(int(clock.now()), dt.UTC)
    files: dict[str, bytes] = {}
    for name in ("agents", "controllers"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = f"octavia-{name}-{uuid.uuid4().hex[:12]}"
        own_identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _builder(subject, key, begin, begin + _AUTHORITY_LIFE)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(of_authority=True), critical=True)
            .add_extension(own_identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        files[f"{name}.pem"] = certificate.public_bytes(serialization.Encoding.PEM)
        files[f"{name}.key"] = _key_pem(key, passphrase)
        if name == "controllers":
            files["controller.pem"] = _client_certificate(certificate, key, begin)
    return files


def _client_certificate(authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, begin: dt.datetime) -> bytes:
    """The controllers' certificate lives as long as its authority: both are made together, and renewed together."""
    own = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(CONTROLLER_NAME, own, begin, begin + _AUTHORITY_LIFE)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(CONTROLLER_NAME)]), critical=False)
        .add_extension(_key_usage(of_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(_authority_key_identifier(authority), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + _key_pem(own, None)


def _builder(name: str, key: PrivateKey, begin: dt.datetime, end: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(uuid.uuid4().int)
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _key_usage(*, of_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not of_authority,
        data_encipherment=not of_authority,
        key_agreement=not of_authority,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
            raise ConfigurationError("an authority must have an EC or RSA key") from None
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _new_key_like(key: PrivateKey) -> PrivateKey:
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(public_exponent=_SMALLEST_EXPONENT, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: PrivateKey, passphrase: Secret | None) -> bytes:
    if passphrase is None:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.reveal()),
    )


def _load_certificate(path: str, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{what}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{what}: {path} is no PEM certificate") from error


def _load_key(path: str, passphrase: Secret | None) -> PrivateKey:
    what = f"[certificates] ca_private_key {path}"
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{what} cannot be read: {error.strerror}") from error
    encrypted = b"ENCRYPTED" in content  # PKCS 8 says so in its label, the older form in the header Proc-Type
    if encrypted and passphrase is None:
        raise ConfigurationError(f"{what} is encrypted; set [certificates] ca_private_key_passphrase")
    try:
        key = serialization.load_pem_private_key(content, passphrase.reveal() if encrypted and passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        cause = "wrong passphrase, or no PEM private key" if encrypted else "it is no PEM private key"
        raise ConfigurationError(f"{what} cannot be used: {cause}") from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ConfigurationError(f"{what} must be an EC or RSA key")
    return key


def _check_authority(certificate: x509.Certificate, path: str, clock: Clock) -> None:
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise ConfigurationError(
            f"[certificates] ca_certificate {path} is no authority (BasicConstraints CA:TRUE is missing)"
        )
    if certificate.not_valid_after_utc.timestamp() <= clock.now():
        raise ConfigurationError(
            f"[certificates] ca_certificate {path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; make a new one"
        )
