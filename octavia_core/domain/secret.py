"""Values that must never be printed, logged, journaled or pickled."""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import NoReturn

import attrs

__all__ = ["CertificateBundle", "PublicSecret", "Secret", "SecretKind"]


class Secret:
    """Bytes that only `reveal()` gives out: `repr`, `str` and formatting show `<secret>`, pickling and copying to JSON fail."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves; call it where they are used, and nowhere else."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __format__(self, spec: str) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(("octavia_core.Secret", self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")


@attrs.frozen(kw_only=True)
class CertificateBundle:
    """A certificate with its private key, ready for a TLS server.

    Attributes:
        certificate: the leaf, PEM text, without surrounding white space.
        private_key: the unencrypted key, PEM.
        intermediates: further certificates, PEM texts, in sending order.
        names: host names from CN and subjectAltName, lower case.
        not_after: expiry, seconds since the epoch (UTC).
        not_before: from when it holds, likewise; 0 when that is not known.
    """

    certificate: str
    private_key: Secret
    intermediates: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    not_after: int = 0
    not_before: int = 0


class SecretKind(StrEnum):
    """What a secret without private key holds, in the words of messages."""

    AUTHORITIES = "certificates of authorities"
    CERTIFICATES = "certificates, and none of them is one of an authority"
    REVOCATIONS = "revocation lists"


@attrs.frozen(kw_only=True)
class PublicSecret:
    """Client authorities or revocation lists: nothing in it is to be hidden.

    Attributes:
        text: PEM, all that the secret holds.
        kind: what that is.
        not_after: when the first of it ends to hold (of a revocation list: its `nextUpdate`), seconds since the epoch
            (UTC); None when nothing of it ends.
    """

    text: str
    kind: SecretKind
    not_after: int | None = None
