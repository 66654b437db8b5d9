"""What one process does for all of them: who does it now, and who steps in when that one stands still.

The processes of a supervisor share some duties: looking at what operations wait for, sweeping, giving events to plugins.
Each time it is the database that says whose turn it is, so nothing is done by two at once for long. One process is meant to
do them; the others are its deputies, who ask far less often, and take a duty over when nobody has done it for a while: the
first was stopped, hangs in a call, or is gone. Whoever has taken it keeps it until it misses a turn itself.
"""

from __future__ import annotations

from octavia_core.ports.clock import Clock
from octavia_core.ports.storage import Storage

__all__ = ["LATE", "SHARED", "Duty", "late"]

SHARED = 1.0
"""Seconds between two questions to the database, whose turn it is, at least."""
LATE = 5.0
"""Seconds without anybody at a duty after which a deputy takes it, at least; three rounds of it when those are longer."""
_OWN = 0.8
"""Part of a round after which the one who does it may do it again: hosts that share a duty come out at about one round."""


def late(every: float, least: float = LATE) -> float:
    """Seconds without anybody at a duty of such rounds after which a deputy takes it over."""
    return max(3 * every, least)


class Duty:
    """One process's part in a duty. Not thread-safe.

    Args:
        storage: which gives the turns.
        clock: to ask no oftener than needed.
        name: of the duty; the same for all who share it.
        deputy: it only steps in.
        least: seconds without anybody at it that a deputy waits at least.
    """

    def __init__(self, storage: Storage, clock: Clock, name: str, *, deputy: bool, least: float = LATE) -> None:
        self._storage, self._clock, self._name = storage, clock, name
        self._deputy, self._least = deputy, least
        self._mine = False
        self._next = 0.0

    def mine(self, every: float) -> bool:
        """Whether to do it now, asked at any time.

        Args:
            every: seconds of a round. Shorter ones than `SHARED` are not asked for one by one.

        Raises:
            TransientError: the database does not answer.
        """
        now = self._clock.monotonic()
        if now < self._next:
            return self._mine and every < SHARED
        patience, again = late(every, self._least), _OWN * max(every, SHARED)
        eager = self._mine or not self._deputy
        self._mine = self._storage.turn(self._name, again if eager else patience)
        self._next = now + (again if self._mine or not self._deputy else patience / 2)
        return self._mine
