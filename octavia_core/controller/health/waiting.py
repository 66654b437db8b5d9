"""Reports with new words that wait in a receiving process while its health manager is busy: bounded, whoever sends what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add

from octavia_core.controller.health.frames import Again
from octavia_core.controller.health.order import LATE
from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.domain.skim import FIELDS, Sheet, Skimmed

__all__ = ["NO_ROOM", "Late", "News", "sums"]

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
        waiting: list[tuple[float, Skimmed]] = self._of.get(said.amphora_id, [])
        more, joined = _weight(said), None
        for each in waiting:
            if self._alike(each[1], said):
                joined = each
                break
        if joined is not None:
            before = joined[1]
            if said.seq is not None and before.seq is not None and said.seq <= before.seq:
                return REPEATED
            if said.deltas:
                said = said._replace(counters=sums(before.counters, said.counters))
            more -= _weight(before)
        if more > max(0, room):
            return NO_ROOM
        self.size += more
        if not waiting:
            self._of[said.amphora_id] = [(now, said)]
            return None
        if joined is not None:
            waiting.remove(joined)
        waiting.append((now, said))
        if len(waiting) <= self._most:
            return None
        self.size -= _weight(waiting.pop(0)[1])
        return NO_ROOM

    def again(self, sheet: Sheet, said: Again) -> bool | None:
        """One more that says what waits with the words of this sheet: it is joined to that. False: it is not, its number is not above;
        None: nothing waits with these words.
        """
        waiting = self._of.get(sheet.amphora_id, [])
        for place, (_, one) in enumerate(waiting):
            if one.words != sheet.words:
                continue
            if one.seq is not None and said.seq <= one.seq:
                return False
            if len(waiting) > 1:
                waiting.append(waiting.pop(place))
            counters = sums(one.counters, said.counters)
            waiting[-1] = said.at, one._replace(seq=said.seq, counters=counters, mark=said.mark, key=said.key)
            return True
        return None

    def remove(self, amphora_id: str, words: bytes) -> bool:
        """Leave out the one with these words; whether there was one."""
        waiting = self._of.get(amphora_id, [])
        for place, (_, said) in enumerate(waiting):
            if said.words == words:
                del waiting[place]
                self.size -= _weight(said)
                if not waiting:
                    del self._of[amphora_id]
                return True
        return False

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


class Late:
    """Reports that newer ones overtook on their way, whole and each by itself, by handle of their amphora: their deltas count, and only
    whoever knows all numbers can tell them from what is played back. For one thread.

    Args:
        most: of one amphora at most.

    Attributes:
        size: bytes that they take, about.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[int, list[tuple[int, float, Skimmed]]] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._of)

    def has(self, handle: int, seq: int) -> bool:
        """Whether one of that number waits."""
        return any(each[0] == seq for each in self._of.get(handle, ()))

    def wait(self, handle: int, now: float, said: Skimmed, room: int) -> bool:
        """One more, which has a number, unless there are too many or they would take more than so many bytes."""
        waiting, seq = self._of.get(handle, []), said.seq
        if seq is None or len(waiting) >= self._most:
            return False
        said = said.complete()
        if self.size + _weight(said) > room:
            return False
        self.size += _weight(said)
        self._of[handle] = sorted([*waiting, (seq, now, said)], key=lambda each: each[0])
        return True

    def before(self, newer: Iterable[tuple[int, int]]) -> list[tuple[float, Skimmed]]:
        """Take those out that are older than these (handle, number), for each in their order; but an agent's first may as well be of one
        that was restarted, and newer.
        """
        found: list[tuple[float, Skimmed]] = []
        for handle, seq in newer:
            if waiting := self._of.get(handle):
                found += [(at, said) for number, at, said in waiting if LATE <= number < seq]
                left = [each for each in waiting if not LATE <= each[0] < seq]
                if left:
                    self._of[handle] = left
                else:
                    del self._of[handle]
        self.size -= sum(_weight(said) for _, said in found)
        return found

    def take(self) -> list[tuple[float, Skimmed]]:
        """All that are left."""
        found = [(at, said) for waiting in self._of.values() for _, at, said in waiting]
        self._of.clear()
        self.size = 0
        return found


def sums(before: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """The counters of both, with the gauges of the newer."""
    found = list(map(add, before, new))
    found[2::FIELDS] = new[2::FIELDS]
    return tuple(found)


def _weight(said: Skimmed) -> int:
    """Bytes that it takes, about."""
    body = 0 if isinstance(said.source, Heartbeat) else len(said.source)
    return _REPORT + body + _NUMBER * len(said.counters)
