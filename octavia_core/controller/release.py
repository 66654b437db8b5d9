"""The supported way out: giving up an operation that cannot go on, retrying one now, cancelling one.

`release` is for an operation that this code cannot carry on (its flow is unknown here, or its journal is another
version's), and for one that a person has no patience with. It lets go of the load balancer at once and builds what its
rows ask for anew. What it is going to do is said before it is done, and remembered by an event with who did it.
"""

from __future__ import annotations

import attrs

from octavia_core.controller.sweep import store_repair
from octavia_core.domain.operation import Event, Operation, OperationState
from octavia_core.errors import NotFound, Refused
from octavia_core.flows.catalogue import CLEANUP
from octavia_core.policy.sweep import Repair, repair
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Release", "plan_release", "release", "retry"]


@attrs.frozen(kw_only=True)
class Release:
    """What releasing an operation does.

    Attributes:
        operation: as it is.
        words: sentences for a person, in the order in which things happen.
        repair: what is stored instead, None when its load balancer is not pending.
        stored: id of the operation that goes on, once it is done.
    """

    operation: Operation
    words: tuple[str, ...]
    repair: Repair | None
    stored: str | None = None


def plan_release(storage: Storage, operation_id: str) -> Release:
    """Say what `release` would do; nothing is changed.

    Raises:
        NotFound: there is no such operation.
        Refused: it is over already.
    """
    return storage.read(lambda tx: _plan(tx, operation_id))


def release(storage: Storage, operation_id: str, *, actor: str) -> Release:
    """Give the operation up, and store what its load balancer needs instead; all in one transaction.

    Raises:
        NotFound, Refused: as `plan_release`; so a second release changes nothing.
    """

    def work(tx: Transaction) -> Release:
        plan = _plan(tx, operation_id)
        if not tx.abandon_operation(operation_id, f"released by {actor}"):
            raise _over(operation_id, "already")
        lb_id = plan.operation.load_balancer_id
        tx.emit(
            Event(
                name="operation.released",
                text=f"operation {operation_id} ({plan.operation.flow}) was released by {actor}: {' '.join(plan.words)}",
                load_balancer_id=lb_id,
                amphora_id=plan.operation.amphora_id,
                operation_id=operation_id,
                data={"actor": actor, "state": str(plan.operation.state), "fence": plan.operation.fence},
            )
        )
        if plan.repair is None or lb_id is None:
            return plan
        return attrs.evolve(plan, stored=store_repair(tx, lb_id, plan.repair, actor).id)

    return storage.transaction(work)


def retry(storage: Storage, operation_id: str, *, actor: str) -> Operation:
    """Have a parked operation looked at now instead of when its pause is over; what it is then.

    Raises:
        NotFound: there is no such operation.
        Refused: it is over, or it is not parked, so there is nothing to hasten.
    """

    def work(tx: Transaction) -> Operation:
        row = _open(tx, operation_id)
        if row.state is not OperationState.WAITING:
            raise Refused(
                f"operation {operation_id} is {row.state}, not parked, so there is nothing to hasten; "
                f"run: octavia-admin why {operation_id}"
            )
        tx.emit(
            Event(
                name="operation.retried",
                text=f"operation {operation_id} ({row.flow}) is tried now, asked for by {actor}",
                load_balancer_id=row.load_balancer_id,
                amphora_id=row.amphora_id,
                operation_id=operation_id,
                data={"actor": actor},
            )
        )
        return row

    storage.transaction(work)
    storage.wake([operation_id])
    row = storage.read(lambda tx: tx.operation(operation_id))
    assert row is not None  # it was there a moment ago, and open operations are not removed
    return row


def _open(tx: Transaction, operation_id: str) -> Operation:
    row = tx.operation(operation_id)
    if row is None:
        raise NotFound("operation", operation_id)
    if row.state.final:
        raise _over(operation_id, str(row.state))
    return row


def _over(operation_id: str, state: str) -> Refused:
    return Refused(f"operation {operation_id} is over ({state}); ask for what you want anew")


def _plan(tx: Transaction, operation_id: str) -> Release:
    row = _open(tx, operation_id)
    words = [f"Operation {row.id} ({row.flow}, {row.state}) ends as CANCELLED; nothing that it did is undone."]
    if row.holder and row.state in (OperationState.RUNNING, OperationState.UNDOING):
        words.append(f"Its holder {row.holder} may change nothing in the database from then on.")
    needed: Repair | None = None
    tree = tx.tree(row.load_balancer_id) if row.load_balancer_id else None
    if row.flow == CLEANUP:
        words.append(
            f"What it was to remove stays: {row.arguments.get('path')} of operation {row.arguments.get('operation_id')}."
        )
    elif tree is None:
        words.append("No load balancer is held by it.")
    else:
        others = [o for o in tx.operations(load_balancer_id=tree.id, open_only=True) if o.id != row.id]
        needed = None if others else repair(tree, tuple(tx.amphorae(tree.id)))
        if others:
            words.append(f"Operation {others[-1].id} ({others[-1].flow}), which waits behind it, is next.")
        elif needed is None:
            words.append(f"Load balancer {tree.id} stays {tree.provisioning_status}.")
        else:
            words.append(f"Load balancer {tree.id} is {tree.provisioning_status}: {needed.words}, by a new operation.")
    return Release(operation=row, words=tuple(words), repair=needed)
