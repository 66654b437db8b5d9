"""How every wish is accepted: the lock, the edits, the check of the result, the operation - one transaction.

No driver is called here. The same `request_id` again returns the operation that exists and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import attrs

from octavia_core.controller.accept_trees import new_id, without_leaving
from octavia_core.controller.offer import Offer
from octavia_core.domain.operation import Event as Happening
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import Listener, LoadBalancer, Node
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, Provisioning, Topology
from octavia_core.errors import BadRequest, LoadBalancerBusy, NotFound
from octavia_core.lifecycle.provisioning import Event, allowed
from octavia_core.lifecycle.refusal import TransitionRefused
from octavia_core.policy import validity
from octavia_core.policy.validity.words import label
from octavia_core.ports.storage import Storage, Transaction

__all__ = [
    "CONFIGURE",
    "CREATE",
    "CREATE_SPARE",
    "DELETE",
    "DELETE_AMPHORA",
    "FAILOVER",
    "Accepting",
    "Asked",
    "Edits",
    "announce",
    "existing",
    "lock",
    "touch",
]

CREATE, CONFIGURE, DELETE, FAILOVER = "create", "configure", "delete", "failover"
CREATE_SPARE, DELETE_AMPHORA = "create-spare", "delete-amphora"
"""The flows that wishes are carried out by; a request id is one request per flow."""


@attrs.frozen(kw_only=True)
class Asked:
    """Who asks, and the id under which asking twice is asking once.

    Attributes:
        offer: of a worker that carries a change out at once.
    """

    actor: str = "library"
    request_id: str | None = None
    offer: Offer | None = None


@attrs.frozen
class Edits:
    """What a wish does to the rows, once the lock is had."""

    subjects: tuple[Subject, ...]
    work: Callable[[Transaction], None]


Planner = Callable[[Transaction, LoadBalancer], Edits]


@attrs.frozen
class Accepting:
    """What accepting needs.

    Attributes:
        topology: of load balancers that name none.
        objection: why the drivers in use cannot carry a topology, as `NetworkPort.objection`; they have the last word
            all the same, when a load balancer is created.
        served_at: where the drivers in use serve a port of a VIP, as `NetworkPort.reachable_at`.
    """

    storage: Storage
    topology: Topology
    objection: Callable[[Topology], str | None] = lambda _: None
    served_at: Callable[[int], object] = lambda port: port

    def known(self, flow: str, asked: Asked) -> Operation | None:
        """The operation of a request that was accepted before; None for a new one, and for one without an id."""
        request_id = asked.request_id
        return None if request_id is None else self.storage.read(lambda tx: tx.requested(flow, request_id))

    def _change(self, lb_id: str, planner: Planner, asked: Asked, by: Event = Event.LOCK) -> Operation:
        """Lock the load balancer, edit the rows, check the result, store the operation: all or nothing."""

        def accept(tx: Transaction) -> Operation:
            if asked.request_id is not None:
                known = tx.requested(CONFIGURE, asked.request_id)
                if known is not None:
                    return known
            before = existing(tx, lb_id)
            edit = planner(tx, before)
            stored = _store(tx, self._operation(CONFIGURE, lb_id, edit.subjects, asked), asked.offer)
            lock(tx, lb_id, by)
            edit.work(tx)
            after = existing(tx, lb_id)
            validity.check(without_leaving(after), edit.subjects, before=before)
            if any(subject.kind is Kind.LISTENER for subject in edit.subjects):
                self._check_places(without_leaving(after), {subject.id for subject in edit.subjects})
            lock_parents(tx, after, edit.subjects)
            what = ", ".join(f"{s.kind.words} {s.id}" for s in edit.subjects)
            announce(tx, stored, f"a change was asked for: {what}")
            return stored

        return self.storage.transaction(accept)

    def _check_places(self, tree: LoadBalancer, asked: Collection[str]) -> None:
        """Refuse a listener whose port is served where another one's is: ports that need a privilege may be moved.

        Args:
            tree: with the listener.
            asked: ids of what the wish is about.

        Raises:
            BadRequest: names both listeners.
        """
        taken: dict[tuple[object, object], Listener] = {}
        for listener in tree.listeners:
            apart = listener.protocol if listener.protocol in (ListenerProtocol.UDP, ListenerProtocol.SCTP) else None
            other = taken.setdefault((apart, self.served_at(listener.protocol_port)), listener)
            if other is not listener and (other.id in asked or listener.id in asked):
                new, old = (listener, other) if listener.id in asked else (other, listener)
                moved = min(new.protocol_port, old.protocol_port)
                raise BadRequest(
                    f"protocol_port {new.protocol_port} of {label(new)} would be served where {label(old)} with protocol_port "
                    f"{old.protocol_port} is: port {moved} needs a privilege that is not given here, and is served higher; "
                    "choose another protocol_port"
                )

    def _owner(self, kind: Kind, id: str) -> str:
        owner = self.storage.read(lambda tx: tx.owner(kind, id))
        if owner is None:
            raise NotFound(kind.words, id)
        return owner

    def _operation(self, flow: str, lb_id: str, subjects: tuple[Subject, ...], asked: Asked) -> Operation:
        return Operation(
            id=new_id(),
            flow=flow,
            load_balancer_id=lb_id,
            subjects=subjects,
            actor=asked.actor,
            request_id=asked.request_id,
        )


def _store(tx: Transaction, operation: Operation, offer: Offer | None) -> Operation:
    """Add it, as the worker's that offers to carry it out; or for whoever finds it."""
    if offer is None or not offer.take(operation.id):
        return tx.add_operation(operation)
    return tx.add_operation(attrs.evolve(operation, holder=offer.holder), lease=offer.lease)


def existing(tx: Transaction, lb_id: str) -> LoadBalancer:
    """The tree; NotFound when it is not there or DELETED."""
    tree = tx.tree(lb_id)
    if tree is None or tree.provisioning_status is Provisioning.DELETED:
        raise NotFound("load balancer", lb_id)
    return tree


def lock(tx: Transaction, lb_id: str, event: Event) -> None:
    """Move the load balancer by the lifecycle table; LoadBalancerBusy when the table says no."""
    try:
        tx.settle(Kind.LOAD_BALANCER, lb_id, event)
    except TransitionRefused as refused:
        raise LoadBalancerBusy(lb_id, str(refused.status)) from refused


def touch(tx: Transaction, kind: Kind, id: str, event: Event, lb_id: str) -> None:
    """The same for what is below it."""
    try:
        tx.settle(kind, id, event)
    except TransitionRefused as refused:
        raise LoadBalancerBusy(lb_id, str(refused.status)) from refused


def lock_parents(tx: Transaction, tree: LoadBalancer, subjects: Sequence[Subject]) -> None:
    """Parents of what changes turn PENDING_UPDATE too, as upstream's readers expect; those in ERROR stay so."""
    changed = {subject.id for subject in subjects}
    pools = {
        pool.id
        for pool in tree.pools
        if changed
        & {pool.id, *(m.id for m in pool.members), *([pool.health_monitor.id] if pool.health_monitor else [])}
    }
    parents: list[tuple[Kind, Node]] = [(Kind.POOL, pool) for pool in tree.pools if pool.id in pools]
    for listener in tree.listeners:
        policies = [p for p in listener.l7policies if changed & {p.id, *(r.id for r in p.rules)}]
        parents += [(Kind.L7POLICY, policy) for policy in policies]
        if policies or listener.default_pool_id in pools:
            parents.append((Kind.LISTENER, listener))
    for kind, node in parents:
        if node.id not in changed and node.provisioning_status in allowed(kind, Event.LOCK):
            tx.settle(kind, node.id, Event.LOCK)


def announce(tx: Transaction, operation: Operation, text: str) -> None:
    """The event that tells that it was accepted."""
    tx.emit(
        Happening(
            name="operation.accepted",
            text=f"{text} by {operation.actor}",
            load_balancer_id=operation.load_balancer_id,
            amphora_id=operation.amphora_id,
            operation_id=operation.id,
        )
    )
