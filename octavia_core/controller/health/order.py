"""Which heartbeats of one amphora say something of now, and whose traffic counts: a row that is played back counts nothing.

The protocol has no time in it and no name for the process that sends: only a number that begins at 0 with each process. A
number above all before is news. One that steps back is late, of an agent that was restarted, or played back. What lives is
believed soon, since a failover by mistake is dear: whoever steps back and goes up from there is alive. What is counted is
believed late, since it cannot be taken back: traffic of a row that stepped back is laid apart. It is dropped when the process
before is heard again, or when a heartbeat with traffic comes that came before; it counts when neither happens for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import attrs

from octavia_core.domain.skim import FIELDS
from octavia_core.ports.hearts import TrafficDelta

__all__ = ["ENTRY", "GAUGE", "KEPT", "LATE", "Doubt", "Order", "Turn", "has_traffic"]

LATE = 8
"""Numbers that a heartbeat may be behind another and still be late; an agent's first so many are its beginning."""
KEPT = 64
"""Heartbeats of each amphora that are recognised when they come again."""
GAUGE = 2
"""Which of the `FIELDS` numbers of a listener says how many connections are open."""
ENTRY = 4
"""Bytes of each: three of its mark, one of its number. They matter only for numbers that step back."""
_LOW = [bytes((number,)) for number in range(256)]


class Turn(StrEnum):
    """What a heartbeat is that does not simply count; all but the last two are counted under their words."""

    REPEATED = "repeated"
    """The newest, once more: it changes nothing."""
    REPLAYED = "replayed"
    """Heard before, or from further back than anything is late: it changes nothing."""
    RECORDED = "recorded"
    """One of a row that goes up, but heard before: somebody lives, for all that is known; its words and numbers are old."""
    BEHIND = "late"
    """Overtaken by a newer one, which may have come before: somebody lives, its deltas count, its words are old."""
    REFUTED = "refuted"
    """It counts, and the row that stepped back before it did not: the process before it goes on."""
    TRUSTED = "trusted"
    """It counts, and so does the row that it ends: that went up past all that was known."""


@attrs.define(eq=False)
class Doubt:
    """A row that stepped back and is not trusted with traffic.

    Attributes:
        top: the number that it stepped back from.
        before: what was recognised then.
        since: monotonic seconds from which on it is trusted if nothing happens.
        proven: whether one of it came with traffic that was counted before.
        apart: whether the sums of its amphora are only its own by now; `left`: further traffic of it.
    """

    top: int
    before: bytes
    since: float
    proven: bool = False
    apart: bool = False
    left: list[TrafficDelta] = attrs.field(factory=list)


@attrs.define(eq=False, kw_only=True)
class Order:
    """Of one amphora. `seq`: number of its newest; `back`: of one that stepped back and was not believed; `marks`: an entry for
    each of the last `KEPT` that were, one behind the other; `again`: how many came that were recognised, and nothing new since: more
    than `KEPT` are of nobody who lives.
    """

    seq: int | None = None
    marks: bytes = b""
    again: int = 0
    back: int | None = None
    doubt: Doubt | None = None

    def turn(self, seq: int | None, mark: bytes, counters: Sequence[int], now: float) -> Turn | None:
        """What a report is, None for one that just counts; notes it.

        Args:
            seq: None in the oldest form, of which nothing is known.
            mark: as in `Skimmed`.
            counters: likewise.
            now: when it came, monotonic.
        """
        if seq is None:
            return None
        entry = mark[-3:] + _LOW[seq & 255]
        found: Turn | None = None
        if self.seq is None or seq > self.seq:
            self.back = None
            if self.doubt is not None:
                found = self._goes_up(self.doubt, seq, entry, counters, now)
            known = self.again > 0 and (found is Turn.RECORDED or (self.doubt is None and entry in self.marks))
        else:
            doubt = self.doubt
            seen = entry in self.marks or (doubt is not None and entry in doubt.before)
            late = self.seq - seq < LATE and _LOW[seq & 255] not in self.marks[-LATE * ENTRY :][ENTRY - 1 :: ENTRY]
            if seen and seq == self.seq:
                return Turn.REPEATED
            if (seen or not (late or seq < LATE)) and (self.back is None or seq <= self.back):
                self.back = seq
                return Turn.REPLAYED
            self.back, known = None, seen
            if late and not seen and seq >= LATE:
                seq, found = self.seq, Turn.BEHIND
            else:
                found = self._steps_back(entry, counters, now, seen=seen)
        self.seq = seq
        if known or found is Turn.RECORDED:  # its mark is kept already, and must not push out others
            self.again += 1
            return Turn.REPLAYED if self.again > KEPT else found
        self.again = 0
        self.marks = (self.marks + entry)[-KEPT * ENTRY :]
        return found

    def _steps_back(self, entry: bytes, counters: Sequence[int], now: float, *, seen: bool) -> Turn | None:
        doubt = self.doubt
        if doubt is None:
            assert self.seq is not None
            doubt = self.doubt = Doubt(self.seq, self.marks, now)
            self.marks = b""
        return self._proves(doubt, counters, now) if seen else None

    def _goes_up(self, doubt: Doubt, seq: int, entry: bytes, counters: Sequence[int], now: float) -> Turn | None:
        """One more of the row, or one of the process before it."""
        assert self.seq is not None
        if entry in doubt.before:
            return self._proves(doubt, counters, now)
        if seq <= doubt.top:
            return None
        if doubt.proven or seq - self.seq > LATE:
            self.marks = doubt.before
            return Turn.REFUTED
        self.marks = (doubt.before + self.marks)[-KEPT * ENTRY :]
        return Turn.TRUSTED

    @staticmethod
    def _proves(doubt: Doubt, counters: Sequence[int], now: float) -> Turn:
        """It came before. Without traffic, a restarted agent may well say the same again."""
        if has_traffic(counters):
            doubt.proven, doubt.since = True, now
        return Turn.RECORDED

    def settled(self) -> None:
        """The row is trusted by now."""
        if self.doubt is not None:
            self.marks = (self.doubt.before + self.marks)[-KEPT * ENTRY :]
            self.doubt = None


def has_traffic(counters: Sequence[int]) -> bool:
    """Whether any of them but the gauges is more than 0."""
    return any(number for place, number in enumerate(counters) if place % FIELDS != GAUGE)
