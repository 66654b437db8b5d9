"""Certificates of listeners, members and clients, made on the spot."""

from __future__ import annotations

import datetime
import functools
import ssl
import tempfile
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from octavia_core.domain.secret import CertificateBundle, Secret


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes().decode()

    def below(self) -> Authority:
        """An intermediate authority: what it issues comes with its certificate, which clients need to get to this one."""
        made = Authority()
        made._ca = self._ca.create_child_ca()
        made.pem = made._ca.cert_pem.bytes().decode()
        return made

    @functools.cached_property
    def ready_made(self) -> tuple[CertificateBundle, ...]:
        """Four certificates, for tests that need many and look at none."""
        return tuple(self.issue(f"{number}.test") for number in range(4))

    @functools.cached_property
    def empty_revocation_list(self) -> str:
        """A CRL that revokes nothing."""
        return self.revocation_list()

    def issue(
        self, *names: str, common_name: str | None = None, days: tuple[float, float] = (0, 30)
    ) -> CertificateBundle:
        """A certificate for these host names, from and to so many days from now."""
        now = datetime.datetime.now(datetime.UTC)
        begin, end = (now + datetime.timedelta(days=day) for day in days)
        leaf = self._ca.issue_cert(*names, common_name=common_name, not_before=begin, not_after=end)
        chain = [blob.bytes().decode().strip() for blob in leaf.cert_chain_pems]
        return CertificateBundle(
            certificate=chain[0],
            private_key=Secret(leaf.private_key_pem.bytes()),
            intermediates=tuple(chain[1:]),
            names=names,
        )

    def revocation_list(self, *revoked: CertificateBundle, days: float = 1) -> str:
        """A CRL with these on it, to be renewed in so many days."""
        now = datetime.datetime.now(datetime.UTC)
        issuer = x509.load_pem_x509_certificate(self.pem.encode())
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(now - datetime.timedelta(days=9))
            .next_update(now + datetime.timedelta(days=days))
        )
        for bundle in revoked:
            serial = x509.load_pem_x509_certificate(bundle.certificate.encode()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
        key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def server_context(self, bundle: CertificateBundle, clients: Authority | None = None) -> ssl.SSLContext:
        """For a server with this certificate, which asks its clients for one of `clients`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load(context, bundle)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=clients.pem)
        return context

    def client_context(self, bundle: CertificateBundle | None = None) -> ssl.SSLContext:
        """For a client that trusts this authority only, with a certificate of its own if one is given."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem)
        if bundle is not None:
            _load(context, bundle)
        return context


def _load(context: ssl.SSLContext, bundle: CertificateBundle) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pem")
        parts = [bundle.certificate, bundle.private_key.reveal().decode(), *bundle.intermediates]
        path.write_text("\n".join(parts))
        context.load_cert_chain(path)
