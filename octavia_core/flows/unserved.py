"""Listeners that an amphora could not be given as they are wanted: their secret is gone, or it does not speak their protocol.

A wish about such a listener fails, and its reason is the listener's. Any other wish goes on: what the amphora still
holds of the listener serves on; one that lacks certificates for further names is served without them; and one that had
to be left out is ERROR with that reason, until a push serves it as its row asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import attrs

from octavia_core.domain.operation import Event as Happening
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.domain.vocabulary import Kind, Operating, Provisioning
from octavia_core.flows.secrets import needed, pools_of
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
        partial: served without certificates for further names.
        doubtful: served as wanted, with a certificate or a list that is not good now.
    """

    left_out: Mapping[str, str] = attrs.field(factory=dict)
    kept: Mapping[str, str] = attrs.field(factory=dict)
    partial: Mapping[str, str] = attrs.field(factory=dict)
    doubtful: Mapping[str, str] = attrs.field(factory=dict)


def unserved(tree: LoadBalancer, material: Material, pushed: Pushed) -> Unserved:
    """What a push did not do as it was wanted."""
    left_out: dict[str, str] = {}
    kept: dict[str, str] = {}
    partial: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    for listener in tree.listeners:
        refs = needed(tree, listener)
        if listener.id in pushed.skipped_listeners:
            reasons = [material.missing[ref] for ref in refs if ref in material.missing]
            said = pushed.reasons.get(listener.id) or f"this amphora serves no {listener.protocol} listeners"
            of = kept if listener.id in pushed.kept_listeners else left_out
            of = partial if listener.id in pushed.partial_listeners else of
            of[listener.id] = "; ".join(reasons) or said
        doubts = [material.doubts[ref] for ref in refs if ref in material.doubts]
        if doubts:
            doubtful[listener.id] = "; ".join(doubts)
    return Unserved(left_out=left_out, kept=kept, partial=partial, doubtful=doubtful)


def asked_for(operation: Operation, tree: LoadBalancer, found: Unserved, *, all_of_them: bool) -> str | None:
    """Why the operation cannot come true: one of these listeners, or a pool it uses, is what was asked for; else None."""
    asked = set(operation.subjects)
    for listener in tree.listeners:
        reason = found.left_out.get(listener.id) or found.kept.get(listener.id) or found.partial.get(listener.id)
        if reason is None:
            continue
        mine = {Subject(Kind.LISTENER, listener.id), *(Subject(Kind.POOL, id) for id in pools_of(listener))}
        if all_of_them or asked & mine:
            return f"listener {listener.id} cannot be served: {reason}"
    return None


def settle(
    tx: Transaction, operation: Operation, several: Iterable[Unserved], *, errors: bool = True
) -> tuple[Subject, ...]:
    """Say what is not served, and give the listeners that turn ERROR although the operation succeeds.

    A listener in ERROR that all amphorae serve now as its row asks for is ERROR no longer: it moves with the operation.
    To be called when the revision that was pushed is marked as good.

    Args:
        tx: the transaction that ends the operation.
        operation: which one.
        several: what each push did not do.
        errors: whether a listener may be in ERROR; False saves looking.
    """
    left_out: dict[str, str] = {}
    kept: dict[str, str] = {}
    partial: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    for one in several:
        left_out.update(one.left_out)
        kept.update(one.kept)
        partial.update(one.partial)
        doubtful.update(one.doubtful)
    if not (left_out or kept or partial or doubtful or errors):
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
        elif listener.id in partial:
            text = f"is served without some of its certificates: {partial[listener.id]}"
            _say(tx, operation, "listener.partial", listener, text)
        if listener.id in doubtful:
            _say(tx, operation, "listener.doubtful", listener, f"is served all the same: {doubtful[listener.id]}")
    if tree is not None:
        _recover(tx, operation, tree, {*left_out, *kept, *partial})
    return tuple(failed)


def _served_as_asked(tree: LoadBalancer, pushed: LoadBalancer) -> tuple[Listener, ...]:
    """Listeners in ERROR that a revision holds as their rows ask for: what was wrong with them is over, if it is served."""
    found = []
    for listener in tree.listeners:
        other = pushed.listener(listener.id)
        if listener.provisioning_status is Provisioning.ERROR and other is not None and _bare(listener) == _bare(other):
            found.append(listener)
    return tuple(found)


def _recover(tx: Transaction, operation: Operation, tree: LoadBalancer, troubled: Collection[str]) -> None:
    if not any(listener.provisioning_status is Provisioning.ERROR for listener in tree.listeners):
        return
    good = tx.last_good(tree.id)
    for listener in _served_as_asked(tree, good.tree) if good is not None else ():
        if listener.id not in troubled:
            tx.settle(Kind.LISTENER, listener.id, Event.ACCEPT_UPDATE)
            _say(tx, operation, "listener.served", listener, "is served again as it was asked for")


def _bare(listener: Listener) -> Listener:
    """Without statuses, and without policies, which have statuses of their own."""
    return attrs.evolve(
        listener, l7policies=(), provisioning_status=Provisioning.ACTIVE, operating_status=Operating.OFFLINE
    )


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
