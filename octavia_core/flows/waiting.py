"""Waiting: for what the outside makes true, and for what the database says, without holding a thread for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import attrs

from octavia_core.domain.codec import to_json
from octavia_core.domain.operation import EntryKind, Outcome
from octavia_core.errors import OctaviaError, StepTimeout
from octavia_core.flows.ledger import Ledger
from octavia_core.flows.signals import Parked, Unwind
from octavia_core.flows.waits import Wait, check, limit_of, wait_to_json
from octavia_core.policy.retry import RetryPolicy
from octavia_core.ports.storage import Transaction

__all__ = ["LINGER", "Waiting"]

R = TypeVar("R")
LINGER = 0.5
"""Seconds that a run keeps looking at a condition with a short poll interval before it parks (a local process boots
faster than a park and a claim are worth)."""


class Waiting(Ledger):
    """The part of a run that waits."""

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
            self._outlive(limit_of(shared.world, condition))
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


def _words(condition: Wait) -> str:
    return type(condition).__name__
