"""Deaths that somebody has proof of: judged at once, and together where they come together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from octavia_core.controller.reminders import Reminders
from octavia_core.errors import OctaviaError
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.compute import Death

__all__ = ["Deaths"]

log = logging.getLogger("octavia_core.health")


class Deaths:
    """Takes deaths from any thread; one of its own has them judged. What arrives while it is busy is judged together next,
    so that a host which dies costs some decisions and transactions, not one for each of its amphorae.

    Args:
        judge: is given server -> evidence; twice the same is harmless. It raises TransientError while the database is away.
        again: seconds until what could not be judged is tried again.
    """

    def __init__(self, judge: Callable[[Mapping[str, str]], None], again: float) -> None:
        self._judge, self._again = judge, again
        self._lock = threading.Condition()
        self._said = Reminders(log, SystemClock())
        self._told: dict[str, str] = {}
        self._judging, self._stopping = False, False
        self._thread: threading.Thread | None = None

    @property
    def open(self) -> int:
        """Deaths that nobody has decided about yet."""
        with self._lock:
            return len(self._told) + self._judging

    def start(self) -> None:
        """Start judging; what was told before comes first."""
        self._thread = threading.Thread(target=self._run, name="octavia-health-deaths", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Judge what is known, and end. Twice is harmless."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(5)

    def tell(self, death: Death) -> None:
        """A server ended. Returns at once."""
        with self._lock:
            self._told.setdefault(death.server_id, death.evidence)
            self._lock.notify()

    def _run(self) -> None:
        while (some := self._next()) is not None:
            judged = False
            try:
                self._judge(some)
                judged = True
                self._said.over("judge")
            except OctaviaError as error:
                self._said.say("judge", f"the deaths of servers cannot be judged now: {error}")
            except Exception:  # a mistake here must not end the thread that everybody's failovers depend on
                log.exception("the deaths of %d servers were not judged", len(some))
            with self._lock:
                self._judging = False
                if judged:
                    continue
                if self._stopping:
                    return  # the next controller sees that they ended
                self._told = {**some, **self._told}
                self._lock.wait_for(lambda: self._stopping, self._again)

    def _next(self) -> Mapping[str, str] | None:
        with self._lock:
            self._lock.wait_for(lambda: self._told or self._stopping)
            some, self._told = self._told, {}
            self._judging = bool(some)
            return some or None
