"""Listeners that an amphora could not be given as they are wanted: their secret is gone, or it does not speak their protocol.

A wish about such a listener fails, and its reason is the listener's. Any other wish goes on: what the amphora still
holds of the listener serves on, and one that had to be left out is ERROR with that reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from octavia_core.domain.operation import Event as Happening
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.domain.vocabulary import Kind
from octavia_core.lifecycle.provisioning import Event, allowed
from octavia_core.ports.amphora import Material, Pushed
from octavia_core.ports.storage import Transaction

__all__ = ["Unserved", "asked_for", "settle", "unserved"]


@attrs.frozen(kw_only=True)
class Unserved:
    """Listener id -> why, of one push.

    Attributes:
        left_out: not served.
        kept: served with what the amphora held before.
    """

    left_out: Mapping[str, str] = attrs.field(factory=dict)
    kept: Mapping[str, str] = attrs.field(factory=dict)


def unserved(tree: LoadBalancer, material: Material, pushed: Pushed) -> Unserved:
    """What a push did not do as it was wanted."""
    found: dict[bool, dict[str, str]] = {True: {}, False: {}}
    for listener in tree.listeners:
        if listener.id in pushed.skipped_listeners:
            kept = listener.id in pushed.kept_listeners
            reasons = [material.missing[ref] for ref in _refs(tree, listener) if ref in material.missing]
            said = pushed.reasons.get(listener.id) or f"this amphora serves no {listener.protocol} listeners"
            found[kept][listener.id] = "; ".join(reasons) or said
    return Unserved(left_out=found[False], kept=found[True])


def asked_for(operation: Operation, tree: LoadBalancer, found: Unserved, *, all_of_them: bool) -> str | None:
    """Why the operation cannot come true: one of these listeners, or a pool it uses, is what was asked for; else None."""
    asked = set(operation.subjects)
    for listener in tree.listeners:
        reason = found.left_out.get(listener.id) or found.kept.get(listener.id)
        if reason is None:
            continue
        mine = {Subject(Kind.LISTENER, listener.id), *(Subject(Kind.POOL, id) for id in _pools(listener))}
        if all_of_them or asked & mine:
            return f"listener {listener.id} cannot be served: {reason}"
    return None


def settle(tx: Transaction, operation: Operation, several: Iterable[Unserved]) -> tuple[Subject, ...]:
    """Say what is not served, and give the listeners that turn ERROR although the operation succeeds."""
    left_out: dict[str, str] = {}
    kept: dict[str, str] = {}
    for one in several:
        left_out.update(one.left_out)
        kept.update(one.kept)
    if not left_out and not kept:
        return ()
    tree = tx.tree(operation.load_balancer_id or "")
    failed = []
    for listener in tree.listeners if tree is not None else ():
        if listener.id in left_out:
            if listener.provisioning_status in allowed(Kind.LISTENER, Event.LOCK):
                tx.settle(Kind.LISTENER, listener.id, Event.LOCK)
            failed.append(Subject(Kind.LISTENER, listener.id))
            _say(tx, operation, "listener.left_out", listener, f"is not served: {left_out[listener.id]}")
        elif listener.id in kept:
            text = f"goes on with what its amphora holds: {kept[listener.id]}"
            _say(tx, operation, "listener.kept", listener, text)
    return tuple(failed)


def _say(tx: Transaction, operation: Operation, name: str, listener: Listener, text: str) -> None:
    tx.emit(
        Happening(
            name=name,
            text=f"listener {listener.name or listener.id} {text}",
            load_balancer_id=operation.load_balancer_id,
            operation_id=operation.id,
            data={"id": listener.id, "reason": text},
        )
    )


def _pools(listener: Listener) -> list[str]:
    ids = [listener.default_pool_id, *(policy.redirect_pool_id for policy in listener.l7policies)]
    return [id for id in ids if id is not None]


def _refs(tree: LoadBalancer, listener: Listener) -> list[str]:
    refs = [listener.tls_certificate_id, *listener.sni_container_ids]
    refs += [listener.client_ca_tls_certificate_id, listener.client_crl_container_id]
    for id in _pools(listener):
        pool = tree.pool(id)
        if pool is not None and pool.tls_enabled:
            refs += [pool.tls_certificate_id, pool.ca_tls_certificate_id, pool.crl_container_id]
    return list(dict.fromkeys(ref for ref in refs if ref))
