"""The outbox: events go to plugins in order, at least once, on a thread of their own, each plugin by itself.

A batch counts as delivered when its listener returned or raised. One that hangs keeps its place: what it was not given yet
waits in the database, across restarts too.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from octavia_core.controller.duty import LATE, Duty
from octavia_core.domain.operation import Event
from octavia_core.errors import TransientError
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
    """Delivers events to listeners. One that raises is counted, logged and passed over; one that takes too long is counted
    and logged, and what comes meanwhile waits for its return.

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
        while True:
            stopping = self._stop.is_set()
            try:
                if self._duty is None or self._duty.mine(0.0):
                    self._deliver()
            except TransientError as error:
                log.warning("events cannot be read, trying again: %s", error)
            if stopping:
                return
            self._nudge.wait(self._pause)
            if not self._stop.wait(GATHER):  # what ends together is told together
                self._nudge.clear()

    def _deliver(self) -> None:
        for lane in self._lanes:
            while lane.free():
                if lane.taken is None:
                    batch = self._storage.read(lambda tx, lane=lane: tx.undelivered(lane.name, limit=BATCH))  # type: ignore[misc]
                    if not batch:
                        break
                    if not lane.hand(batch):
                        break
                    full = len(batch) == BATCH
                else:
                    full = True  # it has returned at last, and more may have come meanwhile
                last = lane.taken
                self._storage.transaction(lambda tx, lane=lane, last=last: tx.set_delivered(lane.name, last))  # type: ignore[misc]
                lane.taken = None
                if not full:
                    break  # what came meanwhile has nudged


class _Lane:
    """One plugin's thread: a listener that hangs holds up nobody else, and is not called again until it returns.

    Attributes:
        taken: the sequence of the last event of a batch that was handed over, until that is remembered.
    """

    def __init__(self, name: str, listener: Listener, timeout: float, returned: Callable[[], None]) -> None:
        self.name, self.failures = name, 0
        self.taken: int | None = None
        self._listener, self._timeout, self._returned = listener, timeout, returned
        self._jobs: queue.SimpleQueue[tuple[Sequence[Event], threading.Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=f"octavia-events-{name}", daemon=True)
        self._thread.start()
        self._done: threading.Event | None = None

    def free(self) -> bool:
        """Whether it is not busy with a batch."""
        return self._done is None or self._done.is_set()

    def hand(self, batch: Sequence[Event]) -> bool:
        """Deliver; False when that takes longer than the time limit."""
        self.taken = batch[-1].sequence
        done = self._done = threading.Event()
        self._jobs.put((batch, done))
        if not done.wait(self._timeout):
            self._failed(f"takes longer than {self._timeout:g} s for a batch of events; what comes waits for it")
        return done.is_set()

    def close(self) -> None:
        self._jobs.put(None)

    def _failed(self, why: str) -> None:
        self.failures += 1
        log.warning("plugin %s %s", self.name, why)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch, done = job
            try:
                self._listener(events=batch)
            except Exception as error:  # a plugin may raise anything; it must not hurt anybody else
                self._failed(f"did not take a batch of events: {type(error).__name__}: {error}")
            finally:
                done.set()
                self._returned()
