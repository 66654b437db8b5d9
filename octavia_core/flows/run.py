"""A run: one attempt of one worker to carry an operation on, step by step, along its journal.

The rules (the design's, in short):
1. A flow is a plain function, run from the top each time; a recorded step returns what it returned.
2. A step's key is committed before its effect; the intent of a step commits with the result of the one before.
3. Every transaction shows the claim; when the fence is lost the run ends at once and changes nothing.
4. What a flow branches on is an argument or a recorded result.
5. A step that fails for good is recorded as failed; from then on the operation only undoes, in reverse order.
6. Parking unwinds by a BaseException, so a flow holds no try, with or finally around steps.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Protocol, TypeVar, cast

import attrs

from octavia_core.domain.codec import from_json, to_json
from octavia_core.domain.operation import CANCELLED_PATH, EntryKind, JournalEntry, Operation, OperationState, Outcome
from octavia_core.errors import OctaviaError, PermanentError, StepTimeout, TransientError
from octavia_core.flows.patience import Patience
from octavia_core.flows.waits import Wait, check, wait_to_json
from octavia_core.flows.world import World
from octavia_core.policy.retry import RetryPolicy
from octavia_core.ports.storage import Claim, FenceLost, Storage, Transaction

__all__ = ["MAX_RESULT", "FlowChanged", "Parked", "Probe", "Run", "Undo", "Unwind"]

K = TypeVar("K")
R = TypeVar("R")
MAX_RESULT = 64 * 1024
"""Bytes of JSON that a step may return: a journal holds ids and facts, not documents."""


class Parked(BaseException):
    """The operation lets go of its worker until something happens or time has passed."""

    def __init__(
        self, wake_in: float, wait: Mapping[str, Any] | None, error: str | None, entry: JournalEntry | None
    ) -> None:
        super().__init__(f"parked for {wake_in:.3f} s")
        self.wake_in, self.wait, self.error, self.entry = wake_in, wait, error, entry


class Unwind(BaseException):
    """A step failed for good, now or in an earlier run: leave the flow and undo."""


class FlowChanged(OctaviaError):
    """The flow's code no longer matches the journal of an operation that is under way."""


class Probe(Protocol):
    """Where tests stop a run: called before a step, after its effect, and after its entry is committed."""

    def __call__(self, point: str, path: str) -> None: ...


@attrs.frozen
class Undo:
    """How to take a step back. `path` is the step's."""

    path: str
    sequence: int
    work: Callable[[], None] | None
    record: Callable[[Transaction], None] | None


@attrs.frozen
class _Deferred:
    """A record that nothing waits for: it is carried out by the next commit, whatever that is for."""

    entry: JournalEntry
    do: Callable[[Transaction], object]

    @property
    def done(self) -> JournalEntry:
        return attrs.evolve(self.entry, outcome=Outcome.DONE)


def _no_probe(point: str, path: str) -> None:
    """The probe of production: nothing."""


@attrs.define
class _Shared:
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
    undos: dict[str, Undo] = attrs.field(factory=dict)
    lease_until: float = 0.0
    closed: bool = False
    next_sequence: int = 0


class Run:
    """What a flow is given. Not for use by several threads; `parallel` gives each branch a run of its own."""

    def __init__(
        self,
        storage: Storage,
        claim: Claim,
        operation: Operation,
        world: World,
        *,
        probe: Probe = _no_probe,
        undoing: bool | None = None,
    ) -> None:
        first = claim.fence == 1 and claim.operation_id == operation.id and not operation.undoing
        # nobody ever held it, and who cancels it takes a fence too: so there is nothing to read
        known = [] if first else storage.read(lambda tx: tx.journal(operation.id))
        journal = {e.path: e for e in known}
        self._shared = _Shared(
            storage=storage,
            claim=claim,
            operation=operation,
            world=world,
            journal=journal,
            patience=Patience.of(world.settings),
            probe=probe,
            undoing=operation.undoing if undoing is None else undoing,
            next_sequence=1 + max((e.sequence for e in journal.values()), default=0),
        )
        self._shared.lease_until = world.clock.monotonic() + claim.lease
        self._prefix = ""
        self._pending: list[JournalEntry | _Deferred] = []

    # -- what flows may look at ------------------------------------------------------------------------------------
    @property
    def operation(self) -> Operation:
        """The operation as it was claimed; its arguments never change."""
        return self._shared.operation

    @property
    def fence(self) -> tuple[str, int]:
        """(operation id, fence), for receivers that refuse an older holder."""
        return self._shared.claim.operation_id, self._shared.claim.fence

    def outlive(self, seconds: float) -> None:
        """Inside a step, before something that may take so long beyond the step's limit: make the lease last."""
        self._outlive(seconds)

    def read(self, work: Callable[[Transaction], R]) -> R:
        """Read the database *inside a step*; what it says is not recorded, so a flow must not branch on it."""
        return self._shared.storage.read(work)

    # -- steps -----------------------------------------------------------------------------------------------------
    def step(
        self,
        name: str,
        key: K,
        do: Callable[[K], R],
        undo: Callable[[K, R | None], None] | None = None,
        *,
        result: type[R] | None = None,
        limit: float = 0.0,
    ) -> R:
        """Do something outside, once as far as the outside can tell.

        Args:
            name: unique within its branch.
            key: a small JSON-able value, recorded before `do` runs; `do` called twice with it does nothing twice.
            do: the effect.
            undo: takes it back, given the key and the result if there was one; "nothing found" is success.
            result: the type to rebuild a recorded result as; None when the result is None or plain JSON.
            limit: seconds that `do` may take; the lease is made to outlive it.
        """
        shared, path = self._shared, self._prefix + name
        entry = shared.journal.get(path)
        if entry is None:
            if shared.undoing:
                raise Unwind
            entry = self._entry(path, EntryKind.STEP, key=to_json(key))
            self._commit(entry)
        else:
            self._same(entry, EntryKind.STEP, to_json(key))
        recorded: R | None = self._recorded(entry, result) if entry.outcome is Outcome.DONE else None
        if undo is not None:
            self._remember(Undo(path, entry.sequence, functools.partial(undo, key, recorded), None))
        if entry.outcome is Outcome.DONE:
            return cast("R", recorded)
        self._resume_or_unwind(entry)
        shared.probe("before", path)
        self._outlive(limit or 0.0)
        try:
            value = do(key)
        except TransientError as error:
            self._again(entry, error)
        except FenceLost:
            raise
        except Exception as error:  # whatever a step raises is its outcome; the journal must say so
            self._fail(entry, error)
        shared.probe("effect", path)
        finished = attrs.evolve(entry, outcome=Outcome.DONE, result=self._encode(path, value))
        got = self._recorded(finished, result)
        if undo is not None:
            self._remember(Undo(path, entry.sequence, functools.partial(undo, key, got), None))
        shared.journal[path] = finished
        self._pending.append(finished)
        return got

    def record(
        self,
        name: str,
        do: Callable[[Transaction], R],
        undo: Callable[[Transaction], None] | None = None,
        *,
        result: type[R] | None = None,
    ) -> R:
        """Change (or read) the database; change and journal entry commit together, so it happens exactly once."""
        shared, path = self._shared, self._prefix + name
        entry = shared.journal.get(path)
        if undo is not None and entry is not None and entry.outcome is Outcome.DONE:
            self._remember(Undo(path, entry.sequence, None, undo))
        if entry is not None:
            self._same(entry, EntryKind.RECORD, None)
            if entry.outcome is Outcome.DONE:
                return self._recorded(entry, result)
            self._resume_or_unwind(entry)
        elif shared.undoing:
            raise Unwind
        entry = entry or self._entry(path, EntryKind.RECORD)
        shared.probe("before", path)

        def work(tx: Transaction) -> JournalEntry:
            return attrs.evolve(entry, outcome=Outcome.DONE, result=self._encode(path, do(tx)))

        try:
            finished = self._commit(None, work)
        except (FenceLost, TransientError):
            raise
        except Exception as error:  # whatever a change raises is its outcome; the journal must say so
            self._fail(entry, error)
        assert finished is not None
        if undo is not None:
            self._remember(Undo(path, finished.sequence, None, undo))
        shared.probe("entry", path)
        return self._recorded(finished, result)

    def later(self, name: str, do: Callable[[Transaction], object]) -> None:
        """A record without result and undo, that nothing waits for: it commits, with its entry, together with whatever this
        run commits next, which is before anything else happens outside. When it fails, it fails there, as a record does.
        """
        shared, path = self._shared, self._prefix + name
        entry = shared.journal.get(path)
        if entry is not None:
            self._same(entry, EntryKind.RECORD, None)
            if entry.outcome is Outcome.DONE:
                return
            self._resume_or_unwind(entry)
        elif shared.undoing:
            raise Unwind
        shared.probe("before", path)
        deferred = _Deferred(entry or self._entry(path, EntryKind.RECORD), do)
        shared.journal[path] = deferred.done
        self._pending.append(deferred)

    def wait(self, condition: Wait, *, within: float, name: str, result: type[R]) -> R:
        """Wait until the condition holds, without holding a thread for long.

        Args:
            condition: a value; workers check many of one kind at once.
            within: seconds from the first look until the wait fails for good.
            name: unique within its branch.
            result: the type of what the condition gives.
        """
        shared, path = self._shared, self._prefix + name
        entry = shared.journal.get(path)
        if entry is not None:
            self._same(entry, EntryKind.WAIT, to_json(condition))
            if entry.outcome is Outcome.DONE:
                return self._recorded(entry, result)
            self._resume_or_unwind(entry)
        elif shared.undoing:
            raise Unwind
        known = entry or self._entry(path, EntryKind.WAIT, key=to_json(condition))
        shared.probe("before", path)
        clock, poll = shared.world.clock, shared.world.compute.poll_interval
        linger_until = clock.monotonic() + LINGER
        while True:
            (outcome,) = check(shared.world, [condition])
            if isinstance(outcome, OctaviaError):
                self._fail(known, outcome)
            if outcome is not None:
                finished = attrs.evolve(known, outcome=Outcome.DONE, result=outcome)
                shared.journal[path] = finished
                self._pending.append(finished)
                return self._recorded(finished, result)
            if known.started_at and shared.storage.now() - known.started_at > within * 1_000_000:
                self._fail(known, StepTimeout(f"{_words(condition)} did not come true within {within:g} s"))
            if poll > LINGER or clock.monotonic() + poll > linger_until:
                self._flush()
                waited = (shared.storage.now() - known.started_at) / 1_000_000 if known.started_at else 0.0
                # until its time is over: those who check all waits in bulk wake it when it comes true
                raise Parked(max(within - waited, 0.0) + 0.001, wait_to_json(condition), None, known)
            self._outlive(0.0)
            clock.sleep(poll)

    def until(
        self, name: str, look: Callable[[Transaction], R | None], *, within: float, pauses: RetryPolicy, otherwise: R
    ) -> R:
        """Look at the database until it says something, without holding a thread for long; what it says is recorded.

        Args:
            name: unique within its branch.
            look: reads one snapshot; None means: not yet. What it gives is plain JSON or a word.
            within: seconds, from the first time that this parks.
            pauses: between two looks.
            otherwise: what is recorded when that time is over.
        """
        shared, path = self._shared, self._prefix + name
        entry = shared.journal.get(path)
        if entry is not None:
            self._same(entry, EntryKind.WAIT, None)
            if entry.outcome is Outcome.DONE:
                return cast("R", entry.result)
            self._resume_or_unwind(entry)
        elif shared.undoing:
            raise Unwind
        known = entry or self._entry(path, EntryKind.WAIT)
        shared.probe("before", path)
        clock, attempts = shared.world.clock, known.attempts
        linger_until = clock.monotonic() + LINGER
        while True:
            found = shared.storage.read(look)
            if found is None and known.started_at and self.waited(name) > within:
                found = otherwise
            if found is not None:
                finished = attrs.evolve(known, outcome=Outcome.DONE, result=self._encode(path, found))
                shared.journal[path] = finished
                self._pending.append(finished)
                return cast("R", finished.result)
            attempts += 1
            pause = pauses.delay(attempts)
            if clock.monotonic() + pause > linger_until:
                self._flush()
                raise Parked(pause, {"kind": "rows"}, None, attrs.evolve(known, attempts=attempts))
            self._outlive(0.0)
            clock.sleep(pause)

    def waited(self, name: str) -> float:
        """Seconds since the wait of that name first parked, by the database's clock; 0 before."""
        entry = self._shared.journal.get(self._prefix + name)
        if entry is None or not entry.started_at:
            return 0.0
        return (self._shared.storage.now() - entry.started_at) / 1_000_000

    def last_try(self, name: str) -> bool:
        """True from attempt number `[engine] step_attempts` of the step of that name on: who can do without it goes on now."""
        entry = self._shared.journal.get(self._prefix + name)
        return entry is not None and entry.attempts + 1 >= self._shared.patience.otherwise.attempts

    def keep(self) -> None:
        """What was done until now stays, whatever fails later: nothing of it is undone. Not for use inside a branch."""
        with self._shared.lock:
            self._shared.undos.clear()

    def parallel(self, branches: Mapping[str, Callable[[Run], R]]) -> dict[str, R]:
        """Run branches side by side; wait for all of them; then, when one failed, all are undone."""
        if len(branches) == 1:
            # alone, it is no more than a part of this run, and commits with it
            ((name, branch),) = branches.items()
            return {name: branch(self.scope(name))}
        self._flush()
        runs = {name: self._branch(name) for name in branches}

        def one(name: str) -> R | BaseException:
            try:
                value = branches[name](runs[name])
                runs[name]._flush()
            except (Unwind, Parked, FenceLost, TransientError) as ended:
                return ended
            return value

        if len(branches) < 2:
            outcomes = {name: one(name) for name in branches}
        else:
            with ThreadPoolExecutor(max_workers=min(8, len(branches)), thread_name_prefix="octavia-branch") as pool:
                outcomes = dict(zip(branches, pool.map(one, branches), strict=True))
        for kind in (FenceLost, Unwind, TransientError, Parked):
            ended = [o for o in outcomes.values() if isinstance(o, kind)]
            if ended:
                raise min(ended, key=lambda e: getattr(e, "wake_in", 0.0))
        return {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, BaseException)}

    def finish(self, do: Callable[[Transaction], None]) -> None:
        """The last step: move the statuses, write the events and close the operation, in one transaction."""

        def work(tx: Transaction) -> None:
            do(tx)
            tx.close_operation(self.operation.id, OperationState.SUCCEEDED)

        self.record("finish", work)
        self._shared.closed = True

    # -- for the runner --------------------------------------------------------------------------------------------
    @property
    def closed(self) -> bool:
        """True once `finish` has committed."""
        return self._shared.closed

    @property
    def cancelled(self) -> bool:
        """True when somebody wanted it undone before it failed by itself."""
        return CANCELLED_PATH in self._shared.journal

    def undos(self) -> list[Undo]:
        """What is to be undone, last first."""
        return sorted(self._shared.undos.values(), key=lambda u: u.sequence, reverse=True)

    def undo_step(self, undo: Undo, give_up: Callable[[Transaction, Undo, str], None]) -> None:
        """Take one step back, recorded at `undo/<path>`; one that cannot finish is handed to `give_up`."""
        shared, path = self._shared, f"undo/{undo.path}"
        entry = shared.journal.get(path)
        if entry is not None and entry.outcome is Outcome.DONE:
            return
        if undo.record is not None:
            record = undo.record
            fresh = entry or self._entry(path, EntryKind.UNDO)

            def work(tx: Transaction) -> JournalEntry:
                record(tx)
                return attrs.evolve(fresh, outcome=Outcome.DONE)

            shared.probe("before", path)
            self._commit(None, work)
            shared.probe("entry", path)
            return
        if entry is None:
            entry = self._entry(path, EntryKind.UNDO)
            self._commit(entry)
        shared.probe("before", path)
        self._outlive(0.0)
        done = attrs.evolve(entry, outcome=Outcome.DONE)
        try:
            if undo.work is not None:
                undo.work()
        except FenceLost:
            raise
        except Exception as error:  # an undo that raises anything is retried, then left to a cleanup operation
            attempts = entry.attempts + 1
            if isinstance(error, TransientError) and attempts < shared.world.settings.engine.undo_attempts:
                raise Parked(
                    shared.patience.otherwise.delay(attempts), None, str(error), attrs.evolve(entry, attempts=attempts)
                ) from error
            kind, message = type(error).__name__, str(error)

            def hand_over(tx: Transaction) -> JournalEntry:
                give_up(tx, undo, f"{kind}: {message}")
                return attrs.evolve(done, error={"type": kind, "message": message})

            self._commit(None, hand_over)
            return
        shared.probe("effect", path)
        shared.journal[path] = done
        self._pending.append(done)

    def commit(self, work: Callable[[Transaction], None]) -> None:
        """Commit pending results with something of the runner's own."""

        def run(tx: Transaction) -> None:
            work(tx)

        self._commit(None, run)

    # -- inside ----------------------------------------------------------------------------------------------------
    def _branch(self, name: str) -> Run:
        branch = object.__new__(Run)
        branch._shared = self._shared
        branch._prefix = f"{self._prefix}{name}/"
        branch._pending = []
        return branch

    def scope(self, name: str) -> Run:
        """This run with a prefix before every step's name, for a part of a flow that is used several times."""
        scoped = self._branch(name)
        scoped._pending = self._pending
        return scoped

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
        self, entry: JournalEntry | None, work: Callable[[Transaction], JournalEntry | None] | None = None
    ) -> JournalEntry | None:
        shared = self._shared
        pending = list(self._pending)
        culprit: _Deferred | None = None

        def transact(tx: Transaction) -> JournalEntry | None:
            nonlocal culprit
            entries: list[JournalEntry] = []
            for earlier in pending:
                if isinstance(earlier, _Deferred):
                    culprit = earlier
                    earlier.do(tx)
                    culprit = None
                entries.append(earlier.done if isinstance(earlier, _Deferred) else earlier)
            if entry is not None:
                entries.append(entry)
            made = work(tx) if work is not None else None
            if made is not None:
                entries.append(made)
            if entries:
                tx.write_entries(entries)
            return made

        began = shared.world.clock.monotonic()
        try:
            made = shared.storage.transaction(transact, claim=shared.claim)
        except (FenceLost, TransientError):
            raise
        except Exception as error:  # a deferred record may raise anything; it is its own outcome, not its company's
            if culprit is None:
                raise
            self._pending.remove(culprit)
            del shared.journal[culprit.entry.path]
            self._fail(culprit.entry, error)
        shared.lease_until = began + shared.claim.lease
        del self._pending[: len(pending)]
        for earlier in pending:
            shared.probe("entry", earlier.entry.path if isinstance(earlier, _Deferred) else earlier.path)
        for written in (entry, made):
            if written is not None:
                shared.journal[written.path] = written
        return made

    def _flush(self) -> None:
        if self._pending:
            self._commit(None)

    def _outlive(self, limit: float) -> None:
        """Renew the lease when it might end before a call of `limit` seconds does."""
        shared, clock = self._shared, self._shared.world.clock
        margin = min(LEASE_MARGIN, shared.claim.lease / 4)
        if shared.lease_until - clock.monotonic() < max(limit + margin, shared.claim.lease / 3):
            lease = max(shared.claim.lease, limit + margin)
            began = clock.monotonic()
            shared.storage.renew(shared.claim, lease)
            shared.lease_until = began + lease

    def _again(self, entry: JournalEntry, error: TransientError) -> NoReturn:
        attempts, policy = entry.attempts + 1, self._shared.patience.after(error)
        if attempts >= policy.attempts:
            self._fail(entry, PermanentError(f"{error} (after {attempts} attempts)"))
        self._flush()
        raise Parked(policy.delay(attempts), None, str(error), attrs.evolve(entry, attempts=attempts)) from error

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


LINGER = 0.5
"""Seconds that a run keeps looking at a condition with a short poll interval before it parks (a local process boots
faster than a park and a claim are worth)."""
LEASE_MARGIN = 1.0
"""Seconds by which a lease must outlive the time limit of a call (a quarter of the lease when that is less)."""


def _words(condition: Wait) -> str:
    return type(condition).__name__


def _causes(error: BaseException) -> list[str]:
    causes: list[str] = []
    cause = error.__cause__
    while cause is not None and len(causes) < 5:
        causes.append(f"{type(cause).__name__}: {cause}"[:500])
        cause = cause.__cause__
    return causes
