"""The outbox: events go to plugins in order, at least once, on a thread of their own, each plugin by itself."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from octavia_core.domain.operation import Event
from octavia_core.errors import TransientError
from octavia_core.ports.storage import Storage

__all__ = ["Outbox"]

log = logging.getLogger("octavia_core.events")

Listener = Callable[..., None]
BATCH = 500


class Outbox:
    """Delivers events to listeners; one that raises or takes too long is counted, logged and passed over."""

    def __init__(
        self, storage: Storage, listeners: Sequence[tuple[str, Listener]], *, timeout: float, pause: float
    ) -> None:
        self._storage, self._timeout, self._pause = storage, timeout, pause
        self._lanes = [_Lane(name, listener, timeout) for name, listener in listeners]
        self._stop, self._nudge = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def failures(self) -> dict[str, int]:
        """Plugin name -> batches that raised or ran out of time."""
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
        """Deliver what there is, then end."""
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
                self._deliver()
            except TransientError as error:
                log.warning("events cannot be read, trying again: %s", error)
            if stopping:
                return
            self._nudge.wait(self._pause)
            self._nudge.clear()

    def _deliver(self) -> None:
        for lane in self._lanes:
            while True:
                batch = self._storage.read(lambda tx, lane=lane: tx.events(after=tx.delivered(lane.name), limit=BATCH))  # type: ignore[misc]
                if not batch:
                    break
                lane.hand(batch)
                last = batch[-1].sequence
                self._storage.transaction(lambda tx, lane=lane, last=last: tx.set_delivered(lane.name, last))  # type: ignore[misc]
                if len(batch) < BATCH:
                    break  # what came meanwhile has nudged


class _Lane:
    """One plugin's thread: a listener that hangs holds up nobody else, and is not called again until it returns."""

    def __init__(self, name: str, listener: Listener, timeout: float) -> None:
        self.name, self.failures = name, 0
        self._listener, self._timeout = listener, timeout
        self._jobs: queue.SimpleQueue[tuple[Sequence[Event], threading.Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=f"octavia-events-{name}", daemon=True)
        self._thread.start()
        self._hanging: threading.Event | None = None

    def hand(self, batch: Sequence[Event]) -> None:
        """Deliver within the time limit, or count a failure."""
        if self._hanging is not None and not self._hanging.is_set():
            self._failed("still busy with an earlier batch")
            return
        done = threading.Event()
        self._jobs.put((batch, done))
        if not done.wait(self._timeout):
            self._hanging = done
            self._failed(f"took longer than {self._timeout:g} s")

    def close(self) -> None:
        self._jobs.put(None)

    def _failed(self, why: str) -> None:
        self.failures += 1
        log.warning("plugin %s did not take a batch of events: %s", self.name, why)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch, done = job
            try:
                self._listener(events=batch)
            except Exception as error:  # a plugin may raise anything; it must not hurt anybody else
                self._failed(f"{type(error).__name__}: {error}")
            finally:
                done.set()
