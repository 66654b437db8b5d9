"""Reports with new words that wait in a receiving process while its health manager is busy: bounded, whoever sends what."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add

from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.domain.skim import FIELDS, Skimmed

__all__ = ["NO_ROOM", "News", "sums"]

NO_ROOM, REPEATED = "no room", "repeated"
_NUMBER, _REPORT = 56, 800
"""Bytes that a number takes, with its share of the listener's id, and what is neither listeners nor body: Python's own, rounded up."""


class News:
    """What amphorae say, in the order in which each of them began to wait. What matters is the newest state and the sum of all counters,
    so a report takes the place of the one before it that has the same listeners, with the counters of both. For one thread.

    Args:
        most: reports of one amphora at most; for one more, its oldest leaves.
        apart: only reports of the same words are joined: none of them is newer for certain.

    Attributes:
        size: bytes that they take, about.
    """

    def __init__(self, most: int, *, apart: bool = False) -> None:
        self._most, self._apart = most, apart
        self._of: dict[str, list[tuple[float, Skimmed]]] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._of)

    def __len__(self) -> int:
        """How many reports."""
        return sum(map(len, self._of.values()))

    def find(self, amphora_id: str, words: bytes) -> Skimmed | None:
        """The one with these words."""
        return next((said for _, said in self._of.get(amphora_id, ()) if said.words == words), None)

    def join(self, now: float, said: Skimmed, room: int) -> str | None:
        """Let one more wait.

        Args:
            now: when it was read, monotonic.
            said: with its listeners.
            room: bytes by which all may grow.

        Returns:
            Why something was left out, None when nothing was: `REPEATED` it, since its number is not above that of the report that it
            would be joined to; `NO_ROOM` it, or the oldest of its amphora in its favour (then `find` has it).
        """
        waiting = self._of.get(said.amphora_id, [])
        place = next((place for place, (_, one) in enumerate(waiting) if self._alike(one, said)), None)
        before = None if place is None else waiting[place][1]
        more = _weight(said) - (0 if before is None else _weight(before))
        if before is not None:
            if said.seq is not None and before.seq is not None and said.seq <= before.seq:
                return REPEATED
            if said.deltas:
                said = said._replace(counters=sums(before.counters, said.counters))
        if more > max(0, room):
            return NO_ROOM
        if place is not None:
            del waiting[place]
        waiting.append((now, said))
        self._of[said.amphora_id] = waiting
        self.size += more
        if len(waiting) <= self._most:
            return None
        self.size -= _weight(waiting.pop(0)[1])
        return NO_ROOM

    def remove(self, amphora_id: str, words: bytes) -> bool:
        """Leave out the one with these words; whether there was one."""
        waiting = self._of.get(amphora_id, [])
        kept = [(at, said) for at, said in waiting if said.words != words]
        self.size -= sum(_weight(said) for _, said in waiting if said.words == words)
        if kept:
            self._of[amphora_id] = kept
        else:
            self._of.pop(amphora_id, None)
        return len(kept) < len(waiting)

    def take(self, most: int, size: int) -> list[tuple[float, Skimmed]]:
        """Those that have waited longest: so many, or of so many bytes, or those of one amphora more."""
        found: list[tuple[float, Skimmed]] = []
        least = self.size - size
        while self._of and len(found) < most and self.size > least:
            some = self._of.pop(next(iter(self._of)))
            self.size -= sum(_weight(said) for _, said in some)
            found += some
        return found

    def _alike(self, before: Skimmed, said: Skimmed) -> bool:
        """Whether they are joined."""
        if self._apart or before.words == said.words:
            return before.words == said.words
        return before.deltas == said.deltas and before.listeners == said.listeners


def sums(before: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """The counters of both, with the gauges of the newer."""
    found = list(map(add, before, new))
    found[2::FIELDS] = new[2::FIELDS]
    return tuple(found)


def _weight(said: Skimmed) -> int:
    """Bytes that it takes, about."""
    body = 0 if isinstance(said.source, Heartbeat) else len(said.source)
    return _REPORT + body + _NUMBER * len(said.counters)
