"""What a run writes: the entries of its journal, each in a transaction that shows the claim, and the lease beside them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, cast

import attrs

from octavia_core.domain.codec import from_json, to_json
from octavia_core.domain.operation import EntryKind, JournalEntry, Operation, Outcome
from octavia_core.errors import OctaviaError, PermanentError, TransientError
from octavia_core.flows.patience import Patience
from octavia_core.flows.signals import FlowChanged, Parked, Probe, Undo, Unwind
from octavia_core.flows.world import World
from octavia_core.ports.storage import Claim, FenceLost, Storage, Transaction

__all__ = ["MAX_RESULT", "Deferred", "Ledger", "Shared"]

R = TypeVar("R")
MAX_RESULT = 64 * 1024
"""Bytes of JSON that a step may return: a journal holds ids and facts, not documents."""
LEASE_MARGIN = 1.0
"""Seconds by which a lease must outlive the time limit of a call (a quarter of the lease when that is less)."""


Made = JournalEntry | Sequence[JournalEntry] | None
"""The entries of a work."""


@attrs.frozen
class Deferred:
    """A record that nothing waits for: it is carried out by the next commit, whatever that is for."""

    entry: JournalEntry
    do: Callable[[Transaction], object]

    @property
    def done(self) -> JournalEntry:
        return attrs.evolve(self.entry, outcome=Outcome.DONE)


@attrs.define
class Shared:
    """What all branches of a run share."""

    storage: Storage
    claim: Claim
    operation: Operation
    world: World
    journal: dict[str, JournalEntry]
    patience: Patience
    probe: Probe
    undoing: bool
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    commits: threading.RLock = attrs.field(factory=threading.RLock)
    """Branches commit one after the other: whether a lost COMMIT arrived is read from the one mark of their operation, and
    its row is locked by each of them anyway."""
    needs: dict[int, float] = attrs.field(factory=dict)
    """Branch -> until when (monotonic) the lease must last for the call that it makes now."""
    undos: dict[str, Undo] = attrs.field(factory=dict)
    lease_until: float = 0.0
    closed: bool = False
    next_sequence: int = 0


class Ledger:
    """The part of a run that writes. Branches of one run share what is in `Shared`; what is pending is each one's own."""

    _shared: Shared
    _prefix: str
    _pending: list[JournalEntry | Deferred]

    @property
    def operation(self) -> Operation:
        """The operation as it was claimed; its arguments never change."""
        return self._shared.operation

    def _entry(self, path: str, kind: EntryKind, key: Any = None) -> JournalEntry:
        with self._shared.lock:
            sequence = self._shared.next_sequence
            self._shared.next_sequence += 1
        return JournalEntry(
            operation_id=self.operation.id, path=path, kind=kind, outcome=Outcome.INTENT, key=key, sequence=sequence
        )

    def _same(self, entry: JournalEntry, kind: EntryKind, key: Any) -> None:
        if entry.kind is not kind or (key is not None and entry.key != key):
            raise FlowChanged(
                f"operation {self.operation.id}: the journal has {entry.kind} {entry.path!r} with another key than the "
                f"code of flow {self.operation.flow} version {self.operation.flow_version}; "
                f"run: octavia-admin operation release {self.operation.id}"
            )

    def _recorded(self, entry: JournalEntry, result: type[R] | None) -> R:
        """What the journal has, as the flow sees it. The first run goes through it too, so that it sees what a replay sees."""
        if result is None or entry.result is None:
            return cast("R", entry.result)
        try:
            return from_json(entry.result, result)
        except ValueError as error:
            raise FlowChanged(
                f"operation {self.operation.id}: the result of {entry.path!r} cannot be read: {error}"
            ) from error

    def _resume_or_unwind(self, entry: JournalEntry) -> None:
        if entry.outcome is Outcome.FAILED or self._shared.undoing:
            raise Unwind

    def _remember(self, undo: Undo) -> None:
        with self._shared.lock:
            self._shared.undos[undo.path] = undo

    def _encode(self, path: str, value: Any) -> Any:
        encoded = to_json(value)
        if len(json.dumps(encoded)) > MAX_RESULT:
            raise PermanentError(f"step {path} returned more than {MAX_RESULT} bytes; store it and return its id")
        return encoded

    def _commit(
        self, entry: JournalEntry | None, work: Callable[[Transaction], Made] | None = None, *, limit: float = 0.0
    ) -> Sequence[JournalEntry]:
        """One transaction: what is pending, `entry`, and `work` with the entries that it gives, which are returned. Where a
        call of `limit` seconds comes next, the lease is made to outlive it, as `_outlive` would a moment later.
        """
        shared = self._shared
        pending = list(self._pending)
        culprit: Deferred | None = None

        def transact(tx: Transaction) -> Sequence[JournalEntry]:
            nonlocal culprit
            entries: list[JournalEntry] = []
            for earlier in pending:
                if isinstance(earlier, Deferred):
                    culprit = earlier
                    earlier.do(tx)
                    culprit = None
                entries.append(earlier.done if isinstance(earlier, Deferred) else earlier)
            if entry is not None:
                entries.append(entry)
            given = work(tx) if work is not None else None
            made = (given,) if isinstance(given, JournalEntry) else given or ()
            entries += made
            if entries:
                tx.write_entries(entries)
            return made

        try:
            with shared.commits:
                began = shared.world.clock.monotonic()
                shared.needs.pop(id(self._pending), None)
                lease = self._lease(began)
                if limit > 0:
                    lease = max(lease, limit + 2 * self._margin())
                made = shared.storage.transaction(transact, claim=attrs.evolve(shared.claim, lease=lease))
                shared.lease_until = began + lease
        except (FenceLost, TransientError):
            raise
        except Exception as error:  # a deferred record may raise anything; it is its own outcome, not its company's
            if culprit is None:
                raise
            self._pending.remove(culprit)
            del shared.journal[culprit.entry.path]
            self._fail(culprit.entry, error)
        del self._pending[: len(pending)]
        for earlier in pending:
            shared.probe("entry", earlier.entry.path if isinstance(earlier, Deferred) else earlier.path)
        for written in made if entry is None else (entry, *made):
            shared.journal[written.path] = written
        return made

    def _flush(self) -> None:
        if self._pending:
            self._commit(None)

    def _outlive(self, limit: float) -> None:
        """Renew the lease when it might end before a call of `limit` seconds does. No other branch makes it shorter."""
        shared, clock = self._shared, self._shared.world.clock
        margin = self._margin()
        with shared.commits:
            began = clock.monotonic()
            if limit > 0:
                shared.needs[id(self._pending)] = began + limit + margin
            if shared.lease_until - began < max(limit + margin, shared.claim.lease / 3):
                lease = self._lease(began)
                shared.storage.renew(shared.claim, lease)
                shared.lease_until = began + lease

    def _margin(self) -> float:
        return min(LEASE_MARGIN, self._shared.claim.lease / 4)

    def _lease(self, now: float) -> float:
        """Seconds that the lease has to last from now on: the usual ones, or what the longest call under way needs."""
        return max(self._shared.claim.lease, *(until - now for until in self._shared.needs.values()), 0.0)

    def _again(self, entry: JournalEntry, error: TransientError) -> NoReturn:
        attempts, policy = entry.attempts + 1, self._shared.patience.after(error)
        if attempts >= policy.attempts:
            self._fail(entry, PermanentError(f"{error} (after {attempts} attempts)"))
        self._flush()
        tried = attrs.evolve(entry, attempts=attempts, error={"type": type(error).__name__, "message": str(error)})
        raise Parked(policy.delay(attempts), None, str(error), tried) from error

    def _fail(self, entry: JournalEntry, error: Exception) -> NoReturn:
        """Record the failure as the step's outcome, turn the operation to undoing, and unwind."""
        reason = str(error) if isinstance(error, OctaviaError) else f"{type(error).__name__}: {error}"
        failed = attrs.evolve(
            entry,
            outcome=Outcome.FAILED,
            error={"type": type(error).__name__, "message": reason, "causes": _causes(error)},
        )

        def work(tx: Transaction) -> JournalEntry:
            tx.set_undoing(self.operation.id, reason)
            return failed

        self._commit(None, work)
        self._shared.undoing = True
        raise Unwind from error


def _causes(error: BaseException) -> list[str]:
    causes: list[str] = []
    cause = error.__cause__
    while cause is not None and len(causes) < 5:
        causes.append(f"{type(cause).__name__}: {cause}"[:500])
        cause = cause.__cause__
    return causes
