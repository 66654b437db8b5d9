"""Operations: accepted, undone, closed. Who may claim them is in queue.py."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Row, String, and_, bindparam, case, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from octavia_core.db.clock import db_now, db_utcnow
from octavia_core.db.prepared import Prepared
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.tables.own import oc_operation
from octavia_core.db.transaction.journal import Journal
from octavia_core.db.transaction.session import from_text, to_text
from octavia_core.domain.codec import from_json
from octavia_core.domain.operation import Operation, OperationState, Subject, cancelled_entry
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.errors import LoadBalancerBusy, NotFound, Refused

__all__ = ["OPEN", "Operations", "lock_key", "operation_of"]

OPEN = tuple(str(state) for state in OperationState if not state.final)
"""The states in which something may still happen."""

_SAME = (
    "id",
    "flow",
    "flow_version",
    "load_balancer_id",
    "amphora_id",
    "internal",
    "actor",
    "request_id",
    "holder",
    "fence",
    "lease_until",
    "wake_at",
    "undoing",
    "attempts",
    "error",
    "created_at",
    "updated_at",
    "finished_at",
)


_BY_ID = Prepared(select(oc_operation).where(oc_operation.c.id == bindparam("id")))
_OPEN_ID = and_(oc_operation.c.id == bindparam("b_id"), oc_operation.c.state.in_(OPEN))


@functools.cache
def _close(with_error: bool) -> Prepared:
    """The end of an open operation: a state, and a reason."""
    changes: dict[str, Any] = {"state": bindparam("b_state"), "updated_at": db_now(), "finished_at": db_now()}
    changes |= {"lock_key": None, "holder": None, "lease_until": 0, "wake_at": 0, "wait": None, "wait_kind": None}
    if with_error:
        changes["error"] = bindparam("b_error")
    return Prepared(update(oc_operation).where(_OPEN_ID).values(changes))


@functools.cache
def _in_the_way(requested: bool, keyed: bool, balancer: bool) -> Prepared:
    """The database's time beside each operation with that id, that request or that key; a row of NULL when there is none."""
    of, key = oc_operation.c, bindparam("key", type_=String())
    which: list[ColumnElement[bool]] = [of.id == bindparam("id")]
    if requested:
        which.append(and_(of.flow == bindparam("flow"), of.request_id == bindparam("request_id")))
    if keyed:
        mine = of.load_balancer_id == key
        if not balancer:
            mine = and_(of.amphora_id == key, of.load_balancer_id.is_(None))
        which += [of.lock_key == key, and_(of.state.in_(OPEN), mine)]
    one = select(db_now().label("database_now")).subquery()
    columns = (one.c.database_now, of.id, of.flow, of.request_id, of.state)
    return Prepared(select(*columns).outerjoin_from(one, oc_operation, or_(*which)))


def lock_key(operation: Operation) -> str | None:
    """What the operation keeps others from: its load balancer, or its amphora where it has none."""
    return operation.load_balancer_id or operation.amphora_id


def operation_of(row: Row[Any]) -> Operation:
    """An operation from its row."""
    values = row._mapping
    return Operation(
        **{name: values[name] for name in _SAME},
        state=OperationState(values["state"]),
        arguments=from_text(values["arguments"]),
        subjects=from_json(from_text(values["subjects"]), tuple[Subject, ...]),
        wait=from_text(values["wait"]),
    )


class Operations(Journal):
    """Rows of oc_operation."""

    def add_operation(self, operation: Operation, *, proof: bool = False, lease: float | None = None) -> Operation:
        """Store it; see the port."""
        key = lock_key(operation)
        stored, now = self._stored_or_refused(operation, None if operation.internal else key)
        if stored is not None:
            return stored
        if lease is not None:  # as `queue._TAKE` does it
            operation = attrs.evolve(
                operation,
                state=OperationState.RUNNING,
                fence=1,
                lease_until=now + round(lease * 1_000_000),
                attempts=operation.attempts + 1,
            )
        row = {name: getattr(operation, name) for name in _SAME if not name.endswith("_at")}
        row |= {
            "state": operation.state,
            "lock_key": None if operation.internal else key,
            "arguments": to_text(operation.arguments),
            "subjects": to_text(operation.subjects),
            "wait": None,
            "wake_at": operation.wake_at,
        }
        self.add_rows(oc_operation, [{**row, "created_at": now, "updated_at": now}])
        self.proof = operation.id if proof else self.proof
        plain = from_text(row["arguments"])  # as a reader finds them
        return attrs.evolve(operation, arguments=plain, wait=None, created_at=now, updated_at=now)

    def _stored_or_refused(self, operation: Operation, key: str | None) -> tuple[Operation | None, int]:
        """What is there under its id or request, or Refused for what holds or awaits its key; and the database's time.

        One query for both: between two, the same request of another caller could arrive and look like a stranger's.
        """
        query = _in_the_way(operation.request_id is not None, key is not None, operation.load_balancer_id is not None)
        asked = {"id": operation.id, "flow": operation.flow, "request_id": operation.request_id, "key": key}
        rows = self.rows(query, **asked)
        now = int(rows[0].database_now)  # there is always a time
        found = [row for row in rows if row.id is not None]
        for each in found:
            asked_for = operation.request_id is not None and each.request_id == operation.request_id
            if each.id == operation.id or (asked_for and each.flow == operation.flow):
                return self.operation(each.id), now
        if not found:
            return None, now
        if operation.load_balancer_id:
            raise LoadBalancerBusy(operation.load_balancer_id, OperationState(found[0].state), found[0].id)
        raise Refused(f"amphora {key} is held by operation {found[0].id}; wait, or run: octavia-admin why {key}")

    def operation(self, operation_id: str) -> Operation | None:
        """The row, or None."""
        found = self.row(_BY_ID, id=operation_id)
        return None if found is None else operation_of(found)

    def requested(self, flow: str, request_id: str) -> Operation | None:
        """The operation that was stored for a request, or None."""
        which = (oc_operation.c.flow == flow, oc_operation.c.request_id == request_id)
        found = self.row(select(oc_operation).where(*which))
        return None if found is None else operation_of(found)

    def operations(
        self, *, load_balancer_id: str | None = None, open_only: bool = False, limit: int = 100
    ) -> Sequence[Operation]:
        """Newest first."""
        query = select(oc_operation).order_by(oc_operation.c.created_at.desc(), oc_operation.c.id.desc()).limit(limit)
        if load_balancer_id is not None:
            query = query.where(oc_operation.c.load_balancer_id == load_balancer_id)
        if open_only:
            query = query.where(oc_operation.c.state.in_(OPEN))
        return [operation_of(row) for row in self.rows(query)]

    def later_operation(self, than: Operation) -> Operation | None:
        """What has taken its load balancer further since, or is about to; see the port."""
        of = oc_operation.c
        which = (of.load_balancer_id == than.load_balancer_id, of.id != than.id, of.created_at >= than.created_at)
        useful = of.state.in_([*OPEN, str(OperationState.SUCCEEDED)])
        first = case((of.state.in_(OPEN), 0), else_=1)
        found = self.row(
            select(oc_operation).where(*which, useful).order_by(first, of.created_at.desc(), of.id).limit(1)
        )
        return None if found is None else operation_of(found)

    def take_slot(self, operation_id: str, load_balancer_id: str) -> bool:
        """Hold a load balancer for an operation that is about none; see the port."""
        of = oc_operation.c
        if self.value(select(of.id).where(of.lock_key == load_balancer_id, of.id != operation_id)) is not None:
            return False
        try:
            with self.savepoint():
                self.write(update(oc_operation).where(of.id == operation_id).values(lock_key=load_balancer_id))
        except IntegrityError:  # somebody else took it this very moment
            return False
        return True

    def leave_slot(self, operation_id: str) -> None:
        """Let go of it; see the port."""
        self.write(update(oc_operation).where(oc_operation.c.id == operation_id).values(lock_key=None))

    def set_undoing(self, operation_id: str, error: str) -> None:
        """From now on the operation only undoes."""
        changes = {"state": str(OperationState.UNDOING), "undoing": True, "error": error, "updated_at": db_now()}
        self._change_open(operation_id, update(oc_operation).where(_OPEN_ID).values(changes))

    def close_operation(self, operation_id: str, state: OperationState, error: str | None = None) -> None:
        """Give it a final state and let go of everything; the same state twice is success."""
        if not state.final:
            raise ValueError(f"{state} is not final")
        # what was tried again and succeeded is in the journal; a reason on the row would say that it failed
        with_error = error is not None or state is OperationState.SUCCEEDED
        self._change_open(operation_id, _close(with_error), unless=state, state=str(state), error=error)

    def cancel_operation(self, operation_id: str, reason: str, *, unless_held: bool = False) -> bool:
        """Turn it to undoing; see the port. A lease that runs is left to end, since a call may be under way.

        Raises:
            NotFound: there is no such operation.
        """
        of = oc_operation.c
        held = of.state == str(OperationState.RUNNING)
        changes: list[tuple[Any, Any]] = [  # in this order: MariaDB reads what stands to the left as already set
            (of.error, case((of.undoing, of.error), else_=reason)),
            (of.state, case((held, str(OperationState.UNDOING)), else_=of.state)),
            (of.undoing, True),
            (of.fence, of.fence + 1),
            (of.wake_at, 0),
            (of.updated_at, db_now()),
        ]
        which = [of.id == operation_id, of.state.in_(OPEN)]
        if unless_held:
            which.append(of.lease_until < db_now())
        failing = self.value(select(of.undoing).where(of.id == operation_id))
        if self.write(update(oc_operation).where(*which).ordered_values(*changes)):
            if not failing:
                self.write_journal(cancelled_entry(operation_id, reason))
            return True
        if self.value(select(of.id).where(of.id == operation_id)) is None:
            raise NotFound("operation", operation_id)
        return False

    def abandon_operation(self, operation_id: str, reason: str) -> bool:
        """Close it as CANCELLED, whoever holds it; see the port."""
        of = oc_operation.c
        changes: dict[str, Any] = {"state": str(OperationState.CANCELLED), "error": reason, "fence": of.fence + 1}
        changes |= {"lock_key": None, "holder": None, "lease_until": 0, "wake_at": 0, "wait": None, "wait_kind": None}
        changes |= {"updated_at": db_now(), "finished_at": db_now()}
        which = (of.id == operation_id, of.state.in_(OPEN))
        if self.write(update(oc_operation).where(*which).values(changes)):
            return True
        if self.value(select(of.id).where(of.id == operation_id)) is None:
            raise NotFound("operation", operation_id)
        return False

    def lost_requests(self, providers: Collection[str], *, age: float, own_age: float) -> Sequence[str]:
        """Pending load balancers that no open operation is about; see the port."""
        of = oc_operation.c
        about = select(of.id).where(of.load_balancer_id == load_balancer.c.id)
        since = func.coalesce(load_balancer.c.updated_at, load_balancer.c.created_at)
        now = self.value(select(db_utcnow()))
        now = datetime.fromisoformat(now) if isinstance(now, str) else now
        query = (
            select(load_balancer.c.id)
            .where(
                load_balancer.c.provisioning_status.in_([str(s) for s in Provisioning if s.pending]),
                load_balancer.c.provider.in_(sorted(providers)),
                ~exists(about.where(of.state.in_(OPEN))),
                or_(
                    since <= now - timedelta(seconds=age),
                    and_(since <= now - timedelta(seconds=own_age), exists(about)),
                ),
            )
            .order_by(since, load_balancer.c.id)
            .limit(1000)
        )
        return [row.id for row in self.rows(query)]

    def aimless_operations(self, *, age: float) -> Sequence[str]:
        """Open operations, held by nobody, whose load balancer is gone; see the port."""
        of = oc_operation.c
        there = select(load_balancer.c.id).where(
            load_balancer.c.id == of.load_balancer_id,
            load_balancer.c.provisioning_status != str(Provisioning.DELETED),
        )
        query = select(of.id).where(
            of.state.in_(OPEN),
            of.undoing.is_(False),
            of.lease_until < db_now(),
            of.created_at <= db_now() - int(age * 1_000_000),
            of.load_balancer_id.is_not(None),
            ~exists(there),
        )
        return [row.id for row in self.rows(query)]

    def _change_open(
        self, operation_id: str, statement: Any, unless: OperationState | None = None, **values: Any
    ) -> None:
        if self.write(statement, {"b_id": operation_id, **{f"b_{name}": value for name, value in values.items()}}):
            return
        found = self.value(select(oc_operation.c.state).where(oc_operation.c.id == operation_id))
        if found is None:
            raise NotFound("operation", operation_id)
        if found != unless:
            raise Refused(f"operation {operation_id} has ended already: {found}")
