"""What a secret store must hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from octavia_core.domain.secret import Secret
from octavia_core.errors import SecretMissing
from octavia_core.ports.secrets import SecretStorePort
from octavia_core.testing.contracts.words import must, raises

__all__ = ["SECRETS_CONTRACT", "SecretsCase"]


@attrs.frozen(kw_only=True)
class SecretsCase:
    """A secret store that holds one certificate with its key, and one plain payload."""

    store: SecretStorePort
    certificate_ref: str
    payload_ref: str
    absent_ref: str


def a_certificate_has_its_key(case: SecretsCase) -> None:
    payloads = case.store.fetch(case.certificate_ref)
    must(payloads.keys() >= {"certificate", "private_key"} or "pkcs12" in payloads, "a certificate comes with its key")
    _all_secret(payloads)


def a_plain_secret_is_a_payload(case: SecretsCase) -> None:
    payloads = case.store.fetch(case.payload_ref)
    must("payload" in payloads, "a plain secret is a payload")
    _all_secret(payloads)


def _all_secret(payloads: Mapping[str, Secret]) -> None:
    must(all(isinstance(value, Secret) for value in payloads.values()), "every value is a Secret")
    must(all(payloads.values()), "no value is empty")


def an_absent_secret_is_missing_by_name(case: SecretsCase) -> None:
    error = raises(SecretMissing, lambda: case.store.fetch(case.absent_ref), "an absent secret is SecretMissing")
    must(case.absent_ref in str(error), "the error names the reference")


SECRETS_CONTRACT: tuple[Callable[[SecretsCase], None], ...] = (
    a_certificate_has_its_key,
    a_plain_secret_is_a_payload,
    an_absent_secret_is_missing_by_name,
)
