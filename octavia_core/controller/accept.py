"""Accepting wishes: one transaction moves the statuses by the table, stores the wish in the rows and the operation beside it.

Here are those about a load balancer as a whole; those about what is below it are in `accept_below`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from octavia_core.controller.accept_base import (
    CONFIGURE,
    CREATE,
    CREATE_SPARE,
    DELETE,
    DELETE_AMPHORA,
    FAILOVER,
    Asked,
    Edits,
    announce,
    existing,
    lock,
    touch,
)
from octavia_core.controller.accept_below import AcceptingBelow
from octavia_core.controller.accept_trees import ascending_ids, in_error, new_id, subject_of
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Topology
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import BadRequest, ConfigurationError, NotFound, Refused
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.lifecycle.provisioning import Event
from octavia_core.policy import changes, validity
from octavia_core.policy.apply import Change, Insert
from octavia_core.policy.apply import plan as plan_edits
from octavia_core.ports.storage import Transaction
from octavia_core.settings import Settings

__all__ = [
    "CONFIGURE",
    "CREATE",
    "CREATE_SPARE",
    "DELETE",
    "DELETE_AMPHORA",
    "FAILOVER",
    "Acceptor",
    "Asked",
    "default_topology",
]


def default_topology(settings: Settings) -> Topology:
    """The topology of load balancers that name none.

    Raises:
        ConfigurationError: `[controller_worker] loadbalancer_topology` is none.
    """
    said = settings.controller_worker.loadbalancer_topology
    if said not in set(Topology):
        known = " or ".join(Topology)
        raise ConfigurationError(f"[controller_worker] loadbalancer_topology must be {known}, not {said!r}")
    return Topology(said)


def _about_amphora(flow: str, amphora_id: str, asked: Asked) -> Operation:
    return Operation(
        id=new_id(),
        flow=flow,
        amphora_id=amphora_id,
        subjects=(Subject(Kind.AMPHORA, amphora_id),),
        actor=asked.actor,
        request_id=asked.request_id,
    )


@attrs.frozen
class Acceptor(AcceptingBelow):
    """Accepts every wish; see `Accepting` for what it needs."""

    def called(self, wish: NewLoadBalancer) -> str:
        """The name that a wish has, in the form that it is looked for.

        Raises:
            BadRequest: it has none, or what cannot be one, in the words of a creation.
        """
        alone = changes.tidy(NewLoadBalancer(name=wish.name)).build(new_id, topology=self.topology)
        if not alone.name:
            raise BadRequest("apply needs a name to find the load balancer by")
        validity.check(alone)
        return alone.name

    def create_load_balancer(self, wish: NewLoadBalancer, asked: Asked) -> Operation:
        """Store the whole tree PENDING_CREATE and the operation that builds it."""
        tree = changes.tidy(wish).build(ascending_ids(), topology=self.topology)
        validity.check(tree)
        objection = self.objection(tree.topology)
        if objection is not None:
            raise BadRequest(objection)
        self._check_places(tree, {listener.id for listener in tree.listeners})
        operation = self._operation(CREATE, tree.id, (Subject(Kind.LOAD_BALANCER, tree.id),), asked)

        def accept(tx: Transaction) -> Operation:
            stored = tx.add_operation(operation)
            if stored.id == operation.id:
                tx.insert(tree)
                announce(tx, stored, f"load balancer {tree.name or tree.id} was asked for")
            return stored

        try:
            return self.storage.transaction(accept)
        except BadRequest as error:
            # the only rows of others that a new load balancer refers to
            given = {"flavor": tree.flavor_id, "availability zone": tree.availability_zone}
            named = " and ".join(f"{what} {name!r}" for what, name in given.items() if name is not None)
            if not named:
                raise
            raise BadRequest(f"load balancer {tree.name or tree.id} cannot be stored with {named}: {error}") from error

    def delete_load_balancer(self, lb_id: str, asked: Asked, *, cascade: bool) -> Operation:
        """Mark it PENDING_DELETE; without `cascade` one that still has listeners or pools is refused."""
        operation = self._operation(DELETE, lb_id, (Subject(Kind.LOAD_BALANCER, lb_id),), asked)

        def accept(tx: Transaction) -> Operation:
            tree = existing(tx, lb_id)
            if not cascade and (tree.listeners or tree.pools):
                raise Refused(
                    f"load balancer {lb_id} still has {len(tree.listeners)} listener(s) and {len(tree.pools)} pool(s); "
                    "delete them first, or ask for cascade"
                )
            stored = tx.add_operation(operation)
            if stored.id == operation.id:
                lock(tx, lb_id, Event.ACCEPT_DELETE)
                announce(tx, stored, "its deletion was asked for")
            return stored

        return self.storage.transaction(accept)

    def failover_load_balancer(self, lb_id: str, asked: Asked) -> Operation:
        """Ask for new amphorae in place of all that it has. Works in ERROR too."""
        operation = self._operation(FAILOVER, lb_id, (Subject(Kind.LOAD_BALANCER, lb_id),), asked)

        def accept(tx: Transaction) -> Operation:
            tree = existing(tx, lb_id)
            # One that never worked is tried again as a whole; otherwise what is bad stays as it last worked.
            again = () if tx.last_good(lb_id) else in_error(tree)
            stored = tx.add_operation(attrs.evolve(operation, subjects=(*operation.subjects, *again)))
            if stored.id == operation.id:
                lock(tx, lb_id, Event.ACCEPT_FAILOVER)
                for subject in again:
                    touch(tx, subject.kind, subject.id, Event.ACCEPT_UPDATE, lb_id)
                announce(tx, stored, "the rebuilding of its amphorae was asked for")
            return stored

        return self.storage.transaction(accept)

    def failover_amphora(self, amphora_id: str, asked: Asked) -> Operation:
        """Ask for a replacement of one amphora; it waits for whatever holds the load balancer now."""

        def accept(tx: Transaction) -> Operation:
            amphora = tx.amphora(amphora_id)
            if amphora is None or amphora.status is AmphoraStatus.DELETED:
                raise NotFound("amphora", amphora_id)
            if amphora.load_balancer_id is None:
                raise Refused(
                    f"amphora {amphora_id} serves no load balancer; delete it instead of replacing it: "
                    f"octavia-admin amphora delete {amphora_id}"
                )
            lb_id = amphora.load_balancer_id
            operation = attrs.evolve(
                self._operation(FAILOVER, lb_id, (Subject(Kind.LOAD_BALANCER, lb_id),), asked),
                amphora_id=amphora_id,
                internal=True,
            )
            return tx.add_operation(operation)

        return self.storage.transaction(accept)

    def create_spare(self, asked: Asked) -> Operation:
        """Ask for an amphora that runs and serves nobody yet. Its row comes with its server."""
        operation = _about_amphora(CREATE_SPARE, new_id(), asked)

        def accept(tx: Transaction) -> Operation:
            stored = tx.add_operation(operation)
            if stored.id == operation.id:
                announce(tx, stored, "a spare amphora was asked for")
            return stored

        return self.storage.transaction(accept)

    def delete_amphora(self, amphora_id: str, asked: Asked) -> Operation:
        """Mark an amphora that serves no load balancer PENDING_DELETE, so that nobody takes it any more."""
        operation = _about_amphora(DELETE_AMPHORA, amphora_id, asked)

        def accept(tx: Transaction) -> Operation:
            found = tx.amphora(amphora_id)
            if found is None or found.status is AmphoraStatus.DELETED:
                raise NotFound("amphora", amphora_id)
            tx.change_amphora(amphora_id)  # from here on nobody takes it
            amphora = tx.amphora(amphora_id)
            if amphora is not None and amphora.load_balancer_id is not None:
                raise Refused(
                    f"amphora {amphora_id} serves load balancer {amphora.load_balancer_id}; to have another one in its "
                    f"place: octavia-admin amphora failover {amphora_id}"
                )
            stored = tx.add_operation(operation)
            if stored.id == operation.id:
                tx.settle_amphora(amphora_id, AmphoraEvent.DELETE)
                announce(tx, stored, "the deletion of an amphora was asked for")
            return stored

        return self.storage.transaction(accept)

    def change_load_balancer(self, lb_id: str, values: Mapping[str, Any], asked: Asked) -> Operation:
        """Store new values of the load balancer itself."""
        subject = Subject(Kind.LOAD_BALANCER, lb_id)
        normal = changes.normalised(Kind.LOAD_BALANCER, values)

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            return Edits((subject,), lambda tx: tx.change(Kind.LOAD_BALANCER, lb_id, normal))

        return self._change(lb_id, plan, asked, Event.ACCEPT_UPDATE)

    def apply(self, lb_id: str, wanted: NewLoadBalancer, asked: Asked) -> Operation | None:
        """Make an existing load balancer what a document says; None when it is that already."""
        wanted = changes.tidy(wanted)
        tree = self.storage.read(lambda tx: existing(tx, lb_id))
        if plan_edits(tree, wanted, ascending_ids()).empty:
            return None

        def plan(tx: Transaction, tree: LoadBalancer) -> Edits:
            edits = plan_edits(tree, wanted, ascending_ids()).edits
            subjects = tuple(dict.fromkeys(subject_of(edit) for edit in edits))

            def work(tx: Transaction) -> None:
                for edit in edits:
                    if isinstance(edit, Insert):
                        tx.insert(edit.node)
                    elif isinstance(edit, Change):
                        if edit.kind is not Kind.LOAD_BALANCER:  # that one is locked already
                            touch(tx, edit.kind, edit.id, Event.ACCEPT_UPDATE, lb_id)
                        if edit.values:
                            tx.change(edit.kind, edit.id, edit.values)
                    else:
                        touch(tx, edit.kind, edit.id, Event.ACCEPT_DELETE, lb_id)

            return Edits(subjects, work)

        return self._change(lb_id, plan, asked)
