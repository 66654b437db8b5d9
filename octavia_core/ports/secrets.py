"""Where certificates and keys come from, and who signs those of the amphorae."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs

from octavia_core.domain.secret import CertificateBundle, PublicSecret, Secret

__all__ = ["CertificatesPort", "IssuedCertificate", "IssuerPort", "SecretStorePort"]


class SecretStorePort(Protocol):
    """A store of raw payloads (files, Barbican). The certs room turns them into bundles and caches those."""

    time_limit: float

    def fetch(self, ref: str) -> Mapping[str, Secret]:
        """The payloads behind a reference.

        Keys: `certificate`, `private_key`, and where there are any `intermediates` and `private_key_passphrase`
        (PEM or DER); or `pkcs12`; or `payload` for a plain secret such as a CA or CRL.

        Raises:
            SecretMissing: the store answers, and has no such secret.
            TransientError: the store does not answer.
        """


class CertificatesPort(Protocol):
    """Certificate bundles by reference, cached for one minute, concurrent misses shared."""

    def bundle(self, ref: str, *, younger_than: float | None = None) -> CertificateBundle:
        """A certificate with its key, checked to belong together.

        Args:
            ref: the reference.
            younger_than: seconds; a value whose fetch began longer ago does not do, not even while the store is away.
                None takes what the cache has.

        Raises:
            SecretMissing: absent, unreadable, or certificate and key do not match.
            TransientError: the store is away and nothing usable is cached.
        """

    def payload(self, ref: str, *, younger_than: float | None = None) -> PublicSecret:
        """A CA or CRL as PEM text, and which of both it is; arguments and errors as `bundle`."""


@attrs.frozen(kw_only=True)
class IssuedCertificate:
    """A fresh certificate of an amphora: PEM certificate then key in one secret, and its notAfter (epoch seconds)."""

    server_pem: Secret
    not_after: int


class IssuerPort(Protocol):
    """The authority that signs agents. A second one signs controllers; the two are never the same."""

    def issue(self, amphora_id: str) -> IssuedCertificate:
        """A new key and certificate with the amphora's id as CN and DNS name. Each call makes a new one."""

    def controller_ca(self) -> bytes:
        """PEM of the authority that signed the controllers' client certificates: what an agent must obey."""
