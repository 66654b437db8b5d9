"""Time, passed in, so that tests and simulations own it."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Two readings and a sleep."""

    def now(self) -> float:
        """Seconds since the epoch (UTC). May jump; never used to decide who may act."""

    def monotonic(self) -> float:
        """Seconds that only grow; for durations and for a holder's own view of its lease."""

    def sleep(self, seconds: float, until: threading.Event | None = None) -> bool:
        """Wait; True when `until` was set before the time was over."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float, until: threading.Event | None = None) -> bool:
        if until is not None:
            return until.wait(seconds)
        time.sleep(seconds)
        return False
