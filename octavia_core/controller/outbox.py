"""The outbox: events go to plugins in order, at least once, each plugin on a thread of its own, so that none waits for another.

A batch counts as delivered when its listener returned or raised. One that hangs keeps its place: what it was not given yet
waits in the database, across restarts too.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence

from octavia_core.controller.duty import LATE, Duty
from octavia_core.controller.reminders import Reminders
from octavia_core.domain.operation import Event
from octavia_core.errors import OctaviaError
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.storage import Storage

__all__ = ["EVENTS", "Outbox"]

log = logging.getLogger("octavia_core.events")

Listener = Callable[..., None]
BATCH = 500
EVENTS = "events"
"""Name of the duty."""
GATHER = 0.05
"""Seconds between two deliveries: on a busy worker operations end every few milliseconds, and nobody waits for one event."""


class Outbox:
    """Delivers events to listeners. One that raises, whatever it raises, is counted, logged and passed over; one that takes
    too long is counted and logged once, and what comes for it meanwhile waits for its return. The others notice nothing.

    Args:
        storage: whose events.
        listeners: of plugins, by name.
        timeout: seconds that a listener may spend on one batch.
        pause: seconds between two looks for new events.
        deputy: of several processes with the same listeners one delivers: another than this (True), this one (False), each
            steps in when nobody does; None: there are no others.
    """

    def __init__(
        self,
        storage: Storage,
        listeners: Sequence[tuple[str, Listener]],
        *,
        timeout: float,
        pause: float,
        deputy: bool | None = None,
    ) -> None:
        self._storage, self._timeout, self._pause = storage, timeout, pause
        self._duty: Duty | None = None
        if deputy is not None:
            longest = 3 * (timeout + 1.0)  # a batch may take its time
            self._duty = Duty(storage, SystemClock(), EVENTS, deputy=deputy, least=max(LATE, longest))
        self._stop, self._nudge = threading.Event(), threading.Event()
        self._said = Reminders(log, SystemClock())
        self._lanes = [_Lane(name, listener, timeout, self._nudge.set) for name, listener in listeners]
        self._thread: threading.Thread | None = None

    @property
    def failures(self) -> dict[str, int]:
        """Plugin name -> batches that raised or took longer than the time limit."""
        return {lane.name: lane.failures for lane in self._lanes}

    def start(self) -> None:
        """Start delivering, if anybody listens. A plugin not seen before begins after the newest event that exists.

        Raises:
            TransientError: the database does not answer.
        """
        if not self._lanes:
            return
        for (
            lane
        ) in self._lanes:  # stored at once: read anew at each look, "the newest" would always be after everything
            self._storage.transaction(lambda tx, lane=lane: tx.set_delivered(lane.name, tx.delivered(lane.name)))  # type: ignore[misc]
        self._thread = threading.Thread(target=self._loop, name="octavia-events", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """There may be something to deliver."""
        self._nudge.set()

    def stop(self) -> None:
        """Deliver what there is, then end. What a listener that hangs has not taken is delivered by the next start."""
        self._stop.set()
        self._nudge.set()
        if self._thread is not None:
            self._thread.join(self._timeout + 1)
        for lane in self._lanes:
            lane.close()

    def _loop(self) -> None:
        end: float | None = None
        while True:
            stopping = self._stop.is_set()
            if stopping and end is None:
                end = time.monotonic() + self._timeout
            busy = False
            try:
                for lane in self._lanes:
                    self._remember(lane)
                if self._duty is None or self._duty.mine(0.0):
                    for lane in self._lanes:
                        self._hand(lane)
                busy = any(lane.in_time() for lane in self._lanes)
                self._said.over("read")
            except OctaviaError as error:
                self._said.say("read", f"events cannot be read, trying again: {error}")
            except Exception:  # a bug of ours must not cost the thread that all plugins depend on
                log.exception("events were not read, trying again")
            if end is not None and (not busy or time.monotonic() >= end):
                return
            self._nudge.wait(min(self._pause, *(lane.left() for lane in self._lanes)))
            if not any(lane.more and lane.free() for lane in self._lanes):
                self._stop.wait(GATHER)  # what ends together is told together
            self._nudge.clear()

    def _remember(self, lane: _Lane) -> None:
        """What it has returned from is delivered."""
        if lane.taken is not None and lane.free():
            last = lane.taken
            self._storage.transaction(lambda tx: tx.set_delivered(lane.name, last))
            lane.taken = None

    def _hand(self, lane: _Lane) -> None:
        """Give it what there is; nobody waits for it, its return nudges."""
        if lane.taken is None:
            batch = self._storage.read(lambda tx: tx.undelivered(lane.name, limit=BATCH))
            lane.more = len(batch) == BATCH
            if batch:
                lane.hand(batch)


class _Lane:
    """One plugin's thread: a listener that hangs holds up nobody else, and is not called again until it returns.

    Attributes:
        taken: the sequence of the last event of a batch that was handed over, until that is remembered.
        more: whether there may be events besides those of that batch.
    """

    def __init__(self, name: str, listener: Listener, timeout: float, returned: Callable[[], None]) -> None:
        self.name, self.failures = name, 0
        self.taken: int | None = None
        self.more = False
        self._listener, self._timeout, self._returned = listener, timeout, returned
        self._jobs: queue.SimpleQueue[Sequence[Event] | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._done.set()
        self._late_at, self._told = 0.0, False
        self._thread = threading.Thread(target=self._loop, name=f"octavia-events-{name}", daemon=True)
        self._thread.start()

    def free(self) -> bool:
        """Whether it is not busy with a batch."""
        return self._done.is_set()

    def hand(self, batch: Sequence[Event]) -> None:
        """Deliver; returns at once."""
        self.taken = batch[-1].sequence
        self._late_at, self._told = time.monotonic() + self._timeout, False
        self._done.clear()
        self._jobs.put(batch)

    def left(self) -> float:
        """Seconds until it has taken too long; without end when it does not matter any more."""
        return math.inf if self.free() or self._told else max(0.0, self._late_at - time.monotonic())

    def in_time(self) -> bool:
        """Whether there is something to wait for; that a listener takes too long is told once for a batch."""
        if self.free():
            return self.taken is not None
        if self._told:
            return False
        if time.monotonic() < self._late_at:
            return True
        self._told = True
        self._failed(f"takes longer than {self._timeout:g} s for a batch of events; what comes waits for it")
        return False

    def close(self) -> None:
        self._jobs.put(None)

    def _failed(self, why: str) -> None:
        log.warning("plugin %s %s", self.name, why)
        self.failures += 1

    def _loop(self) -> None:
        while (batch := self._jobs.get()) is not None:
            try:
                self._listener(events=batch)
            except BaseException as error:  # a plugin may raise anything; its next batch comes all the same
                said = f": {error}" if str(error) else ""
                self._failed(f"did not take a batch of events: {type(error).__name__}{said}")
            finally:
                self._done.set()
                self._returned()
