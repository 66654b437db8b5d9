"""Failovers that failed, and amphorae in ERROR, come back: wanted against observed, by the rows, with backoff.

Rule 1: whatever should be replaced while nothing replaces it has a row in `oc_comeback` with its attempts, the time of
the next one and the reason; the row goes when it is replaced, serves again, or is gone. Rule 2: an attempt costs a
token like every failover, and a pause holds it. Rule 3: somebody else's failover in between begins the count anew.
Nothing is ever given up: the pauses grow to the longest one and stay there.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence

import attrs

from octavia_core.controller.governing import bucket_of
from octavia_core.domain.operation import Event, Operation, Subject
from octavia_core.domain.vocabulary import Kind
from octavia_core.policy.retry import RetryPolicy
from octavia_core.ports.fleet import Comeback, Unserving
from octavia_core.ports.storage import Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["Comebacks"]

log = logging.getLogger("octavia_core.health")

ACTOR = "health"
"""Who asks for failovers that nobody asked for."""
EVERY = 10.0
"""Seconds between two looks of all health managers together; half the first pause where that is shorter."""
_MANY = 100_000
"""More than there are: what is left out would count as served."""
_MICRO = 1_000_000


class Comebacks:
    """Looks now and then; any number of health managers may, and they take turns.

    Args:
        on_failover: called when something was stored that a worker can start at once.
    """

    def __init__(self, storage: Storage, settings: Settings, on_failover: Callable[[], None]) -> None:
        engine = settings.engine
        self._storage, self._on_failover = storage, on_failover
        self._rate = engine.failovers_per_minute
        first, longest = engine.failover_retry_first, engine.failover_retry_longest
        self._pauses = RetryPolicy(attempts=1, first=first, longest=max(first, longest), jitter=0.0)
        self._every = min(EVERY, first / 2)
        self._next = 0.0

    def tick(self, now: float) -> int:
        """Look, unless it is too early or another manager's turn; how many failovers were stored.

        Args:
            now: monotonic seconds.

        Raises:
            TransientError: the database does not answer.
        """
        if now < self._next:
            return 0
        self._next = now + self._every
        if not self._storage.turn("comebacks", 0.9 * self._every):
            return 0
        return self.look()

    def look(self) -> int:
        """Look now; how many failovers were stored."""
        due, known = self._storage.read(lambda tx: (tx.unserving(limit=1), tx.comebacks()))
        if not due and not known:
            return 0
        stored = self._storage.transaction(self._settle)
        for amphora_id, operation_id in stored:
            log.warning("amphora %s: its failover is tried again as operation %s", amphora_id, operation_id)
        if stored:
            self._on_failover()
        return len(stored)

    def _settle(self, tx: Transaction) -> Sequence[tuple[str, str]]:
        shared = tx.governing(hold=True)
        tokens = bucket_of(shared, self._rate).tokens
        wanted = {one.amphora_id: one for one in tx.unserving(limit=_MANY)}
        rows = {one.amphora_id: one for one in tx.comebacks()}
        tx.forget_comebacks([id for id, row in rows.items() if id not in wanted and _over(tx, row)])
        stored: dict[str, tuple[str, str]] = {}
        for one in wanted.values():
            row = self._planned(tx, one, rows.get(one.amphora_id), shared.now)
            due = row.next_at <= shared.now and shared.paused_by is None and one.load_balancer_id not in stored
            if due and tokens >= 1:
                tokens -= 1
                stored[one.load_balancer_id] = (one.amphora_id, self._again(tx, row, shared.now))
        tx.set_tokens(tokens)
        return list(stored.values())

    def _planned(self, tx: Transaction, one: Unserving, row: Comeback | None, now: int) -> Comeback:
        """Its row as it is to be, stored."""
        reason = one.reason or "it is in ERROR or was declared dead, and nothing replaced it"
        by_hand = one.operation_id is not None and one.actor != ACTOR
        begun = row is None or (by_hand and row.operation_id != one.operation_id)
        if begun:
            planned = Comeback(
                amphora_id=one.amphora_id,
                load_balancer_id=one.load_balancer_id,
                attempts=0,
                next_at=max(now if one.failed_at is None else one.failed_at, 0) + self._pause(1),
                since=now if row is None else row.since,
                reason=reason,
                operation_id=one.operation_id,
            )
        else:
            assert row is not None
            next_at = row.next_at
            if one.failed_at is not None and one.operation_id == row.operation_id:
                next_at = max(next_at, one.failed_at + self._pause(row.attempts + 1))
            planned = attrs.evolve(row, next_at=next_at, reason=reason)
        if planned != row:
            tx.set_comeback(planned)
            _announce(tx, planned, now)
        return planned

    def _again(self, tx: Transaction, row: Comeback, now: int) -> str:
        """Store the next attempt."""
        operation = Operation(
            id=str(uuid.uuid4()),
            flow="failover",
            load_balancer_id=row.load_balancer_id,
            amphora_id=row.amphora_id,
            subjects=(Subject(Kind.LOAD_BALANCER, row.load_balancer_id),),
            internal=True,
            actor=ACTOR,
        )
        tx.add_operation(operation)
        attempt = row.attempts + 1
        pause = now + self._pause(attempt + 1)
        tx.set_comeback(attrs.evolve(row, attempts=attempt, operation_id=operation.id, next_at=pause))
        text = f"amphora {row.amphora_id} is to be replaced: attempt {attempt} begins; before: {row.reason}"
        _emit(tx, row, "failover.again", text, {"attempt": attempt, "reason": row.reason}, operation.id)
        return operation.id

    def _pause(self, attempt: int) -> int:
        return round(self._pauses.delay(attempt) * _MICRO)


def _over(tx: Transaction, row: Comeback) -> bool:
    """Whether it needs no comeback any more: what is being replaced now may fail, all else is well or gone."""
    return not tx.operations(load_balancer_id=row.load_balancer_id, open_only=True, limit=1)


def _announce(tx: Transaction, row: Comeback, now: int) -> None:
    seconds = max(0.0, (row.next_at - now) / _MICRO)
    text = f"amphora {row.amphora_id} is not replaced; it is tried again in {seconds:.0f} s: {row.reason}"
    data = {"attempts": row.attempts, "next_at": row.next_at, "reason": row.reason}
    _emit(tx, row, "failover.planned", text, data, row.operation_id)


def _emit(
    tx: Transaction, row: Comeback, name: str, text: str, data: Mapping[str, object], operation_id: str | None
) -> None:
    tx.emit(
        Event(
            name=name,
            text=text,
            load_balancer_id=row.load_balancer_id,
            amphora_id=row.amphora_id,
            operation_id=operation_id,
            data=data,
        )
    )
