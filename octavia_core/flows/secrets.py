"""What a push needs of the secret store: fetched before it, checked to be of the right kind, and what is doubtful said.

A wish about a listener or a pool is carried out with what the store has held since it was asked for: a secret that was
replaced under its name is served by the next wish about whoever uses it, however young the copy in memory is. All else
(a member's change, a failover) takes the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime

from octavia_core.domain.operation import Subject
from octavia_core.domain.secret import CertificateBundle, PublicSecret, SecretKind
from octavia_core.domain.tree import Listener, LoadBalancer, Pool
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import SecretMissing
from octavia_core.flows.world import World
from octavia_core.policy.chains import joined
from octavia_core.ports.amphora import Material

__all__ = ["material", "needed", "pools_of"]

_WANTED = {
    SecretKind.AUTHORITIES: "an authority's certificate is needed there",
    SecretKind.REVOCATIONS: "a revocation list is needed there",
}


def material(world: World, tree: LoadBalancer, asked: Collection[Subject], age: Callable[[], float]) -> Material:
    """Fetch every secret the tree refers to; one that is missing is said so, and does not stop the others.

    Args:
        world: its certificates and its clock.
        tree: what is to be served.
        asked: what the wish is about: what its listeners and pools refer to must not be older than the wish.
        age: seconds since the wish was asked for; called only when there is such a reference.
    """
    bundles: dict[str, CertificateBundle] = {}
    texts: dict[str, str] = {}
    missing: dict[str, str] = {}
    doubts: dict[str, str] = {}
    anew = set(_asked(tree, asked))
    limit = age() if anew else None
    now = world.clock.now()
    certificates, public = _refs(tree)
    for ref in sorted(certificates):
        try:
            bundle = world.certificates.bundle(ref, younger_than=limit if ref in anew else None)
        except SecretMissing as error:
            missing[ref] = str(error)
            continue
        bundles[ref] = bundle
        doubt = _doubtful_certificate(bundle, now)
        if doubt is not None:
            doubts[ref] = f"the certificate of secret {ref!r} {doubt}"
    bundles, claimed = joined(bundles)
    for ref, why in claimed.items():
        doubts[ref] = f"{doubts[ref]}; {why}" if ref in doubts else why
    for ref, kinds in sorted(public.items()):
        try:
            found = world.certificates.payload(ref, younger_than=limit if ref in anew else None)
        except SecretMissing as error:
            missing[ref] = str(error)
            continue
        wrong = sorted(kinds - {found.kind})
        if wrong:
            missing[ref] = f"secret {ref!r} holds {found.kind}; {_WANTED[wrong[0]]}"
        if found.kind in kinds:
            texts[ref] = found.text
            doubt = _doubtful_list(found, now)
            if doubt is not None:
                doubts[ref] = f"secret {ref!r}: {doubt}"
    return Material(bundles=bundles, payloads=texts, missing=missing, doubts=doubts)


def needed(tree: LoadBalancer, listener: Listener) -> list[str]:
    """References that a listener is served with: its own, and those of its pools."""
    refs = list(_of_listener(listener))
    for id in pools_of(listener):
        pool = tree.pool(id)
        if pool is not None:
            refs += _of_pool(pool)
    return list(dict.fromkeys(refs))


def pools_of(listener: Listener) -> list[str]:
    """Ids of the pools it uses."""
    ids = [listener.default_pool_id, *(policy.redirect_pool_id for policy in listener.l7policies)]
    return [id for id in ids if id is not None]


def _asked(tree: LoadBalancer, asked: Collection[Subject]) -> Iterator[str]:
    for listener in tree.listeners:
        if Subject(Kind.LISTENER, listener.id) in asked:
            yield from _of_listener(listener)
    for pool in tree.pools:
        if Subject(Kind.POOL, pool.id) in asked:
            yield from _of_pool(pool)


def _of_listener(listener: Listener) -> Iterator[str]:
    refs = (listener.tls_certificate_id, *listener.sni_container_ids)
    yield from filter(None, (*refs, listener.client_ca_tls_certificate_id, listener.client_crl_container_id))


def _of_pool(pool: Pool) -> Iterator[str]:
    if pool.tls_enabled:
        yield from filter(None, (pool.tls_certificate_id, pool.ca_tls_certificate_id, pool.crl_container_id))


def _refs(tree: LoadBalancer) -> tuple[set[str], Mapping[str, set[SecretKind]]]:
    """Certificates with keys; and the others, with what each has to hold."""
    certificates: set[str | None] = set()
    public: dict[str, set[SecretKind]] = {}
    named: list[tuple[str | None, SecretKind]] = []
    for listener in tree.listeners:
        certificates |= {listener.tls_certificate_id, *listener.sni_container_ids}
        named.append((listener.client_ca_tls_certificate_id, SecretKind.AUTHORITIES))
        named.append((listener.client_crl_container_id, SecretKind.REVOCATIONS))
    for pool in tree.pools:
        if pool.tls_enabled:
            certificates.add(pool.tls_certificate_id)
            named.append((pool.ca_tls_certificate_id, SecretKind.AUTHORITIES))
            named.append((pool.crl_container_id, SecretKind.REVOCATIONS))
    for ref, kind in named:
        if ref:
            public.setdefault(ref, set()).add(kind)
    return {ref for ref in certificates if ref}, public


def _doubtful_certificate(bundle: CertificateBundle, now: float) -> str | None:
    if bundle.not_after and bundle.not_after <= now:
        return f"expired on {_day(bundle.not_after)}; clients refuse it"
    if bundle.not_before > now:
        return f"holds only from {_day(bundle.not_before)}; clients refuse it until then"
    return None


def _doubtful_list(found: PublicSecret, now: float) -> str | None:
    if found.not_after is None or found.not_after > now:
        return None
    if found.kind is SecretKind.REVOCATIONS:
        return (
            f"a revocation list in it was to be renewed by {_day(found.not_after)}; every certificate is refused by it"
        )
    return f"a certificate of an authority in it expired on {_day(found.not_after)}"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
