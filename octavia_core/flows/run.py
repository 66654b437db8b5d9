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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import attrs

from octavia_core.domain.codec import to_json
from octavia_core.domain.operation import EntryKind, JournalEntry, Operation, OperationState, Outcome
from octavia_core.errors import TransientError
from octavia_core.flows.ledger import MAX_RESULT, Deferred, Shared
from octavia_core.flows.patience import Patience
from octavia_core.flows.signals import FlowChanged, Parked, Probe, Undo, Unwind, no_probe
from octavia_core.flows.undoing import Undoing
from octavia_core.flows.waiting import Waiting
from octavia_core.flows.world import World
from octavia_core.policy.retry import RetryPolicy
from octavia_core.ports.storage import Claim, FenceLost, Storage, Transaction

__all__ = ["MAX_RESULT", "FlowChanged", "Parked", "Probe", "Run", "Undo", "Unwind"]

K = TypeVar("K")
R = TypeVar("R")


class Run(Waiting, Undoing):
    """What a flow is given. Not for use by several threads; `parallel` gives each branch a run of its own."""

    def __init__(
        self,
        storage: Storage,
        claim: Claim,
        operation: Operation,
        world: World,
        *,
        probe: Probe = no_probe,
        undoing: bool | None = None,
    ) -> None:
        first = claim.fence == 1 and claim.operation_id == operation.id and not operation.undoing
        # nobody ever held it, and who cancels it takes a fence too: so there is nothing to read
        known = [] if first else storage.read(lambda tx: tx.journal(operation.id))
        journal = {e.path: e for e in known}
        self._shared = Shared(
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
        self._pending: list[JournalEntry | Deferred] = []

    # -- what flows may look at ------------------------------------------------------------------------------------

    @property
    def patience(self) -> Patience:
        """How often a step is tried again, by what failed."""
        return self._shared.patience

    @property
    def fence(self) -> tuple[str, int]:
        """(operation id, fence), for receivers that refuse an older holder."""
        return self._shared.claim.operation_id, self._shared.claim.fence

    def age(self) -> float:
        """Inside a step: seconds since the operation was asked for, by the database's clock."""
        return (self._shared.storage.now() - self.operation.created_at) / 1_000_000

    def outlive(self, seconds: float) -> None:
        """Inside a step, before something that may take so long beyond the step's limit: make the lease last."""
        self._outlive(seconds)

    def read(self, work: Callable[[Transaction], R]) -> R:
        """Read the database *inside a step*; what it says is not recorded, so a flow must not branch on it."""
        return self._shared.storage.read(work)

    def note(self, work: Callable[[Transaction], object]) -> None:
        """Inside a step: write down what is known of the outside. Not recorded: it is done again with the step, and twice is once."""
        shared = self._shared
        with shared.commits:
            began = shared.world.clock.monotonic()
            lease = self._lease(began)
            shared.storage.transaction(work, claim=attrs.evolve(shared.claim, lease=lease))
            shared.lease_until = began + lease

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
            limit: seconds that `do` may take, and `undo`; the lease is made to outlive it.
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
            self._remember(Undo(path, entry.sequence, functools.partial(undo, key, recorded), None, limit))
        if entry.outcome is Outcome.DONE:
            return cast("R", recorded)
        self._resume_or_unwind(entry)
        self._flush()  # nothing, but for an intent that came before its turn
        shared.probe("before", path)
        self._outlive(limit)
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
            self._remember(Undo(path, entry.sequence, functools.partial(undo, key, got), None, limit))
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
        ahead: Callable[[R], Mapping[str, object]] | None = None,
        limit: float = 0.0,
    ) -> R:
        """Change (or read) the database; change and journal entry commit together, so it happens exactly once.

        Args:
            name: unique within its branch.
            do: the change.
            undo: takes it back.
            result: as in `step`.
            ahead: of what `do` returned, the steps that come next for certain, and their keys: their intents commit with it.
            limit: seconds that those steps may take: the same commit makes the lease outlive them.
        """
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

        def work(tx: Transaction) -> Sequence[JournalEntry]:
            value = do(tx)
            done = attrs.evolve(entry, outcome=Outcome.DONE, result=self._encode(path, value))
            keys = {} if ahead is None else ahead(value)
            return done, *(self._entry(self._prefix + step, EntryKind.STEP, to_json(key)) for step, key in keys.items())

        try:
            finished, *_ = self._commit(None, work, limit=limit)
        except (FenceLost, TransientError):
            raise
        except Exception as error:  # whatever a change raises is its outcome; the journal must say so
            self._fail(entry, error)
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
        deferred = Deferred(entry or self._entry(path, EntryKind.RECORD), do)
        shared.journal[path] = deferred.done
        self._pending.append(deferred)

    def last_try(self, name: str, policy: RetryPolicy | None = None) -> bool:
        """True from the last attempt of the step of that name on: who can do without it goes on now.

        Args:
            name: of the step.
            policy: says how many attempts there are; None: `[engine] step_attempts`.
        """
        entry = self._shared.journal.get(self._prefix + name)
        attempts = (policy or self._shared.patience.otherwise).attempts
        return entry is not None and entry.attempts + 1 >= attempts

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
