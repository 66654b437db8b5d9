"""Time that a test owns."""

from __future__ import annotations

import threading

__all__ = ["VirtualClock"]


class VirtualClock:
    """A Clock that stands still until `advance`; who sleeps on it wakes when its time has come, and not earlier.

    Args:
        now: seconds since the epoch at the beginning.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._changed = threading.Condition()
        self._begin = now
        self._elapsed = 0.0
        self._sleepers = 0

    def now(self) -> float:
        return self._begin + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float, until: threading.Event | None = None) -> bool:
        with self._changed:
            end = self._elapsed + seconds
            self._sleepers += 1
            self._changed.notify_all()
            try:
                while self._elapsed < end and not (until is not None and until.is_set()):
                    # an event has no way to wake a condition: look again now and then, in real time
                    self._changed.wait(None if until is None else 0.005)
            finally:
                self._sleepers -= 1
        return until is not None and until.is_set()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._changed:
            self._elapsed += seconds
            self._changed.notify_all()

    def wait_for_sleepers(self, count: int = 1, within: float = 10.0) -> bool:
        """Until so many threads sleep on this clock; False when `within` real seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self._sleepers >= count, within)
