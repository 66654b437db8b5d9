"""The queue: the operation table, seen by those who look for work.

Candidates are found by a plain query over indexes, then each is taken by a compare-and-set on its own row. Whoever
takes one for the first time also takes the lock of its load balancer, and a unique key decides between two takers.
Only the database's clock says what is due.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from sqlalchemy import BigInteger, Row, and_, bindparam, case, exists, func, or_, select, union_all, update
from sqlalchemy.exc import IntegrityError

from octavia_core.db.clock import db_now, db_statement_now
from octavia_core.db.prepared import Prepared
from octavia_core.db.tables.own import oc_meta, oc_operation
from octavia_core.db.transaction import SqlTransaction
from octavia_core.db.transaction.operations import operation_of
from octavia_core.db.transaction.session import chunks, fit, from_text, to_text
from octavia_core.domain.codec import to_json
from octavia_core.domain.operation import JournalEntry, Operation, OperationState
from octavia_core.ports.storage import Claim, FenceLost

__all__ = ["Queue", "microseconds"]

T = TypeVar("T")

AHEAD = 60.0
"""Seconds by which a turn may lie ahead of the database's clock: nodes of a cluster differ, a clock that was set back more so."""
_OF = oc_operation.c
_KEY = func.coalesce(_OF.load_balancer_id, _OF.amphora_id)
_HELD = tuple(str(state) for state in (OperationState.RUNNING, OperationState.UNDOING))
_QUEUED, _WAITING = str(OperationState.QUEUED), str(OperationState.WAITING)
_other = oc_operation.alias("other")
_FREE = ~exists(select(_other.c.id).where(_other.c.lock_key == _KEY, _other.c.id != _OF.id).correlate(oc_operation))
_CHOSEN = ("id", "state", "fence", "created_at")


def microseconds(seconds: float) -> int:
    """A duration as the tables count it."""
    return round(seconds * 1_000_000)


@functools.lru_cache(maxsize=32)
def _candidates(flows: frozenset[tuple[str, int]]) -> Prepared:
    """What may be claimed by a worker that knows these flows and versions, which are the same for its whole life."""
    known = or_(*(and_(_OF.flow == flow, _OF.flow_version == version) for flow, version in sorted(flows)))
    columns = [_OF[name] for name in _CHOSEN] + [_KEY.label("lock_on")]
    limit = bindparam("many", type_=BigInteger())
    queued = select(*columns).where(_OF.state == _QUEUED, known, _FREE).order_by(_OF.created_at).limit(limit)
    woken = (
        select(*columns)
        .where(_OF.state == _WAITING, _OF.wake_at <= db_statement_now(), known)
        .order_by(_OF.wake_at)
        .limit(limit)
    )
    left = (
        select(*columns)
        .where(_OF.state.in_(_HELD), _OF.lease_until < db_statement_now(), known)
        .order_by(_OF.lease_until)
        .limit(limit)
    )
    return Prepared(select(union_all(*(select(each.subquery()) for each in (left, woken, queued))).subquery("due")))


_TAKE = Prepared(
    update(oc_operation)
    .where(
        _OF.id == bindparam("b_id"),
        _OF.fence == bindparam("b_fence"),
        _OF.state == bindparam("b_state"),
        _OF.state.not_in(_HELD) | (_OF.lease_until < db_now()),
    )
    .values(
        holder=bindparam("b_holder"),
        fence=_OF.fence + 1,
        lease_until=db_now() + bindparam("b_lease", type_=BigInteger()),
        state=case((_OF.undoing, str(OperationState.UNDOING)), else_=str(OperationState.RUNNING)),
        lock_key=bindparam("b_lock"),
        wake_at=0,
        wait=None,
        wait_kind=None,
        attempts=_OF.attempts + 1,
        commit_token=bindparam("b_token"),
        updated_at=db_now(),
    )
)

_DUE = Prepared(
    select(
        db_statement_now().label("now"),
        select(func.min(_OF.wake_at)).where(_OF.state == _WAITING).scalar_subquery().label("wake"),
        select(func.min(_OF.lease_until)).where(_OF.state.in_(_HELD)).scalar_subquery().label("lease"),
        select(func.count())
        .where(exists(select(_OF.id).where(_OF.state == _QUEUED, _FREE)))
        .scalar_subquery()
        .label("queued"),
    )
)


@functools.cache
def _taken(count: int) -> Prepared:
    """Of so many operations, by parameters `id_0` and on, those that the transaction with that `token` took."""
    ids = [bindparam(f"id_{place}", type_=_OF.id.type) for place in range(count)]
    return Prepared(select(oc_operation).where(_OF.id.in_(ids), _OF.commit_token == bindparam("token")))


class Queue(ABC):
    """Claiming, parking and waking; the transactions are the storage's."""

    one_writer: bool
    """Whether the database writes for one at a time."""

    @abstractmethod
    def write(self, work: Callable[[SqlTransaction], T], *, claim: Claim | None = None, marks: bool = False) -> T:
        """Run `work` in one transaction."""

    @abstractmethod
    def look(self, work: Callable[[SqlTransaction], T]) -> T:
        """Run `work` on one snapshot."""

    def claim(
        self, holder: str, flows: Mapping[str, Collection[int]], *, lease: float, limit: int
    ) -> Sequence[tuple[Operation, Claim]]:
        """Take up to `limit` operations that are due; see the port. Costs one query when there is nothing."""
        known = frozenset((flow, version) for flow, versions in flows.items() for version in versions)
        if not known or limit < 1:
            return []
        order = _Order(holder=holder, lease=microseconds(lease), limit=limit)

        def look(tx: SqlTransaction) -> Sequence[Row[Any]]:
            return tx.rows(_candidates(known), many=4 * limit)

        if self.one_writer:
            order.candidates = self.look(look)  # who writes keeps others from it: so not without need
            if not order.candidates:
                return []
        taken = self.write(lambda tx: _take(tx, look, order), marks=True)
        return [
            (operation, Claim(operation_id=operation.id, holder=holder, fence=operation.fence, lease=lease))
            for operation in taken
        ]

    def renew(self, claim: Claim, lease: float) -> None:
        """Extend the lease to `lease` seconds from now."""
        self.write(
            _nothing,
            claim=Claim(operation_id=claim.operation_id, holder=claim.holder, fence=claim.fence, lease=lease),
        )

    def park(
        self,
        claim: Claim,
        *,
        wake_in: float,
        wait: Mapping[str, Any] | None,
        error: str | None = None,
        entry: JournalEntry | None = None,
    ) -> None:
        """Let go of the operation until `wake_in` seconds have passed."""
        waits_for = to_json(wait)
        changes = fit(
            oc_operation,
            {
                "state": _WAITING,
                "holder": None,
                "lease_until": 0,
                "wait": to_text(waits_for),
                "wait_kind": None if waits_for is None else waits_for.get("kind"),
            },
        )
        changes |= {
            "wake_at": db_now() + microseconds(max(wake_in, 0.0)),
            "updated_at": db_now(),
            "error": case((_OF.undoing, _OF.error), else_=error),  # the cause of an undo is not a passing one
        }

        def work(tx: SqlTransaction) -> None:
            if entry is not None:
                tx.write_journal(entry)
            which = (_OF.id == claim.operation_id, _OF.fence == claim.fence, _OF.state.in_(_HELD))
            if tx.write(update(oc_operation).where(*which).values(changes)) != 1:
                raise FenceLost(claim.operation_id, claim.fence)

        self.write(work, claim=claim)

    def waiting(self, kinds: Collection[str], *, limit: int = 10_000) -> Sequence[Operation]:
        """Parked operations that wait for one of these kinds, the longest parked first."""
        query = (
            select(oc_operation)
            .where(_OF.state == _WAITING, _OF.wait_kind.in_(sorted(kinds)))
            .order_by(_OF.updated_at, _OF.id)
            .limit(limit)
        )
        return self.look(lambda tx: [operation_of(row) for row in tx.rows(query)])

    def waits(self, kinds: Collection[str], *, limit: int = 100_000) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """(id, wait) of parked operations that wait for one of these kinds: as little as a check needs."""
        which = (_OF.state == _WAITING, _OF.wait_kind.in_(sorted(kinds)))
        query = select(_OF.id, _OF.wait).where(*which).limit(limit)
        return self.look(lambda tx: [(row.id, from_text(row.wait)) for row in tx.rows(query)])

    def turn(self, name: str, every: float) -> bool:
        """True for one caller in `every` seconds, whichever process and host asks; see the port."""
        of = oc_meta.c
        ahead = of.number > db_now() + microseconds(max(every, AHEAD))  # by a clock that was set back since
        overdue = (of.name == name, or_(of.number <= db_now() - microseconds(every), ahead))

        def work(tx: SqlTransaction) -> bool:
            if tx.write(update(oc_meta).where(*overdue).values(number=db_now())):
                return True
            if tx.value(select(of.number).where(of.name == name)) is not None:
                return False
            tx.add_rows(oc_meta, [{"name": name}], number=db_now())  # who loses this race looks again, in vain
            return True

        return self.write(work)

    def wake(self, operation_ids: Collection[str]) -> None:
        """Make parked operations due now."""

        def work(tx: SqlTransaction) -> None:
            for ids in chunks(sorted(set(operation_ids))):
                tx.write(update(oc_operation).where(_OF.id.in_(ids), _OF.state == _WAITING).values(wake_at=0))

        if operation_ids:
            self.write(work)

    def end_leases(self, *, but: str) -> int:
        """End the leases of all holders but one: for who knows that the others are dead."""
        which = (_OF.state.in_(_HELD), _OF.holder != but, _OF.lease_until > db_now())
        return self.write(lambda tx: tx.write(update(oc_operation).where(*which).values(lease_until=db_now() - 1)))

    def next_due(self) -> float | None:
        """Seconds until something may be claimed, 0 for now, None when there is nothing."""
        due = self.look(lambda tx: tx.row(_DUE))
        if due is None or due.queued:
            return None if due is None else 0.0
        times = [at for at in (due.wake, due.lease) if at is not None]
        return max(min(times) - due.now, 0) / 1_000_000 if times else None


def _nothing(_: SqlTransaction) -> None:
    pass


@attrs.define
class _Order:
    """A claim, over all attempts at its transaction. The first hopes that nobody takes the same lock at the same time."""

    holder: str
    lease: int
    limit: int
    careful: bool = False
    candidates: Sequence[Row[Any]] | None = None
    tried: dict[str, None] = attrs.field(factory=dict)


def _take(
    tx: SqlTransaction, look: Callable[[SqlTransaction], Sequence[Row[Any]]], order: _Order
) -> Sequence[Operation]:
    if order.candidates is None:
        order.candidates = look(tx)
    # A second attempt takes nothing but what the first one tried: that may be taken already, by a COMMIT whose answer was
    # lost; it bears this token then.
    again = bool(order.tried)
    candidates = [row for row in order.candidates if row.id in order.tried] if again else order.candidates
    fences: dict[str, int] = {}
    locks: set[str] = set()
    for row in sorted(candidates, key=lambda row: (row.state == _QUEUED, row.created_at, row.id)):
        if len(fences) == order.limit:
            break
        if row.lock_on is not None and row.lock_on in locks:
            continue
        values = {"b_id": row.id, "b_fence": row.fence, "b_state": row.state, "b_lock": row.lock_on}
        values |= {"b_holder": order.holder, "b_lease": order.lease, "b_token": tx.token}
        order.tried[row.id] = None
        try:
            with tx.savepoint() if order.careful else contextlib.nullcontext():
                won = tx.write(_TAKE, values)
        except IntegrityError:  # somebody else took the lock of that load balancer first
            if tx.dialect != "postgresql" or order.careful:
                continue
            order.careful = True  # PostgreSQL gives up the whole transaction, which is run again, with savepoints
            raise
        if won:
            fences[row.id] = row.fence + 1
            locks.add(row.lock_on)
    ids = list(order.tried if again else fences)
    if not ids:
        return []
    mine = tx.rows(_taken(len(ids)), token=tx.token, **{f"id_{place}": id for place, id in enumerate(ids)})
    return sorted((operation_of(row) for row in mine), key=lambda each: ids.index(each.id))
