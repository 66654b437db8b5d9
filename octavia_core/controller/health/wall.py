"""The database's clock without a query each time."""

from __future__ import annotations

from octavia_core.ports.clock import Clock
from octavia_core.ports.storage import Storage

__all__ = ["Wall"]

GOOD_FOR = 30.0
"""Seconds after which the two clocks are compared again."""


class Wall:
    """Microseconds of the database's clock, from the monotonic one and their last known difference."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self._compared: tuple[float, int] | None = None

    def now(self) -> int:
        """Now. Raises TransientError when they have to be compared and the database is away."""
        return self.at(self._clock.monotonic())

    def at(self, monotonic: float) -> int:
        """The time of a monotonic reading; errors as `now`."""
        compared = self._compared
        if compared is None or not 0 <= monotonic - compared[0] <= GOOD_FOR:
            compared = self._compared = (self._clock.monotonic(), self._storage.now())
        return compared[1] + int((monotonic - compared[0]) * 1_000_000)

    def forget(self) -> None:
        """Compare them anew: something stood still."""
        self._compared = None
