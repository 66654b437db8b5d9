"""What is known of each amphora, in memory: the newest heartbeat, and traffic that is not written yet.

A heartbeat that says what the one before said costs its own few fields; its text is looked into again only when its
statuses are to be held against the rows.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import add
from typing import Any

import attrs

from octavia_core.domain.heartbeat import LARGEST_COUNTER, Heartbeat
from octavia_core.domain.skim import FIELDS, MARK, Skimmed, skimmed
from octavia_core.ports.hearts import TrafficDelta

__all__ = ["AT_ONCE", "Batch", "Beat", "Memory"]

REAPPLIED = 500
"""Unchanged reports that one batch holds against the rows again at most: their load balancers are read together."""
PER_SECOND = 50
"""Unchanged reports of which it is not known that their rows were touched are held against them again at most so often: what
others change is found by its date, so this is for rows that were changed by hand."""
AT_ONCE = 2000
"""Reports that one batch holds against the rows at most, changed or not; the others come with the next batch."""

REMEMBERED = 8
"""Heartbeats of each amphora that are recognised when they come again; one that comes later than that many others is old."""

_NEVER = -1
"""The gauge of a listener that has no row yet."""


@attrs.define(eq=False)
class _Known:
    """One amphora. Times are monotonic seconds.

    Attributes:
        said: the first of its reports that had the words of its newest one; its counters are spent.
        seq, mark, key: of its newest report. `marks` are those of the last `REMEMBERED` that were accepted, one behind the
            other; `back` is the sequence number of one that stepped back and was not believed.
        applied: the words that the rows got, None when they got none or may have changed since.
        sums: traffic that is not written, laid out as `Skimmed.counters`, but for gauges: `open` are the newest, `gauges`
            those that the rows have.
        counted_at: since when `sums` are sums.
    """

    said: Skimmed
    heard_at: float
    listeners: tuple[str, ...]
    deltas: bool
    sums: array[int]
    gauges: array[int]
    open: Sequence[int] = ()
    counted_at: float = float("-inf")
    seq: int | None = None
    key: int = 0
    marks: bytes = b""
    back: int | None = None
    applied: bytes | None = None
    applied_at: float = 0.0
    matches: bool = True

    def repeats(self, seq: int | None, mark: bytes) -> str | None:
        """What a report is that says nothing of now: "repeated", "replayed", or None for one that counts; notes it.

        A sequence number that is higher than all before is news. One that is not: either its agent was restarted and counts
        from 0, or the network has turned two of them round, or somebody plays back what was recorded. The last is what has
        been heard before, or comes from further back; it is believed only when a higher one follows it, as after a restart.
        """
        if seq is None or self.seq is None or seq > self.seq:
            self.back = None
        else:
            seen, late = mark in self.marks, self.seq - seq < REMEMBERED
            if seen and seq == self.seq:
                return "repeated"
            if (seen or not (late or seq < REMEMBERED)) and (self.back is None or seq <= self.back):
                self.back = seq
                return "replayed"
            self.back = None
            if late and seq >= REMEMBERED and not seen:
                seq = self.seq
        self.seq = seq
        self.marks = (self.marks + mark)[-REMEMBERED * MARK :]
        return None


@attrs.frozen
class Beat:
    """A report to hold against the rows. `seq`: its number; `matches`: whether its listeners were as many as they should be
    last time.
    """

    said: Skimmed
    heard_at: float
    matches: bool
    seq: int | None = None

    @property
    def heartbeat(self) -> Heartbeat:
        """All of it, read anew; its numbers may be those of an older one with the same words."""
        return self.said.heartbeat()


@attrs.frozen
class Batch:
    """What is to be written now; whoever takes it writes it or gives it back.

    Attributes:
        beats: reports to hold against the rows, by amphora.
        steady: when the others were heard, by amphora: they say what the rows have.
        traffic: to add to the rows, no listener of an amphora twice.
    """

    beats: Mapping[str, Beat]
    steady: Mapping[str, float]
    traffic: tuple[TrafficDelta, ...] = ()

    def __len__(self) -> int:
        return len(self.beats) + len(self.steady)


class Memory:
    """Safe for threads. One entry per amphora, however much comes in.

    Args:
        reapply: seconds after which an unchanged report is held against the rows again: they may have changed meanwhile.
    """

    def __init__(self, reapply: float) -> None:
        self._reapply = reapply
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._fresh: set[str] = set()
        self._left: list[TrafficDelta] = []
        self._swept_at: float | None = None
        self.counters: Counter[str] = Counter()

    # -- in --------------------------------------------------------------------------------------------------------
    def keep(self, heartbeats: Iterable[Heartbeat | Skimmed], now: float) -> bool:
        """Take a batch in; True when one of them reports something new.

        Args:
            heartbeats: in the order in which they came.
            now: when they came, monotonic.
        """
        changed, accepted = False, 0
        with self._lock:
            for each in heartbeats:
                said = skimmed(each) if isinstance(each, Heartbeat) else each
                known = self._known.get(said.amphora_id)
                if known is not None and (old := known.repeats(said.seq, said.mark)):
                    self.counters[old] += 1
                    continue
                accepted += 1
                changed |= self._take_in(known, said, now)
            self.counters["accepted"] += accepted
        return changed

    def keep_again(self, told: Mapping[int, Skimmed], records: Iterable[tuple[Any, ...]]) -> bool:
        """The same for `frames.Again` as flat tuples, whose words are those of what was told with their handle."""
        changed, accepted = False, 0
        with self._lock:
            get, fresh = self._known.get, self._fresh
            for record in records:
                handle, at, seq, key, mark = record[:5]
                said = told.get(handle)
                if said is None:  # nobody says so before its report
                    continue
                id = said.amphora_id
                known = get(id)
                if known is None or known.said.words != said.words:
                    if known is not None and (old := known.repeats(seq, mark)):
                        self.counters[old] += 1
                        continue
                    said = said._replace(seq=seq, key=key, mark=mark, counters=record[5:])
                    changed |= self._take_in(known, said, at)
                elif old := known.repeats(seq, mark):
                    self.counters[old] += 1
                    continue
                else:
                    _add(known, record[5:])
                    known.key = key
                    known.heard_at = max(known.heard_at, at)
                    fresh.add(id)
                    changed |= known.applied != said.words
                accepted += 1
            self.counters["accepted"] += accepted
        return changed

    def _take_in(self, known: _Known | None, said: Skimmed, now: float) -> bool:
        """One that counts; whether its words are not in the rows."""
        if known is None or said.words != known.said.words:
            said = said.complete()
            known = self._meet(known, said, now)
            known.said = said._replace(counters=())
        elif known.deltas:
            _add(known, said.counters)
        else:
            known.sums, known.open = array("q", said.counters), said.counters[2::FIELDS]
        known.heard_at, known.key = max(known.heard_at, now), said.key
        self._fresh.add(said.amphora_id)
        return known.applied != said.words

    def _meet(self, known: _Known | None, said: Skimmed, now: float) -> _Known:
        """It says something else than before, or for the first time."""
        listeners = said.listeners or ()
        if known is not None and known.listeners == listeners and known.deltas and said.deltas:
            _add(known, said.counters)
            return known
        gauges = dict(zip(known.listeners, known.gauges, strict=True)) if known is not None else {}
        if known is None:
            known = self._known[said.amphora_id] = _Known(said, now, listeners, said.deltas, array("q"), array("q"))
            known.repeats(said.seq, said.mark)
        elif said.deltas:
            self._left += _deltas(said.amphora_id, known)  # those of listeners that it has no more, and the others'
        known.listeners, known.deltas, known.sums = listeners, said.deltas, array("q", said.counters)
        known.open = said.counters[2::FIELDS]
        known.gauges = array("q", [gauges.get(listener, _NEVER) for listener in listeners])
        return known

    # -- out -------------------------------------------------------------------------------------------------------
    def take(self, now: float, *, traffic: float | None) -> Batch:
        """What was heard since the last batch that was written.

        Args:
            now: monotonic.
            traffic: with the sums that are that many seconds old; 0: all, None: none.
        """
        with self._lock:
            fresh, self._fresh = self._fresh, set()
            again, room = REAPPLIED, AT_ONCE
            reapply = max(self._reapply, len(self._known) / PER_SECOND)
            beats, steady = {}, {}
            deltas: list[TrafficDelta] = []
            for id in fresh:
                known = self._known.get(id)
                if known is None:
                    continue
                if traffic is not None and now - known.counted_at >= traffic:
                    self._count(deltas, id, known, now, traffic)
                if known.applied != known.said.words:
                    due = True
                elif again and (not known.matches or now - known.applied_at > reapply):
                    due, again = True, again - 1
                else:
                    due = False
                if not due:
                    if known.matches:
                        steady[id] = known.heard_at
                elif room:
                    beats[id], room = Beat(known.said, known.heard_at, known.matches, known.seq), room - 1
                else:
                    self._fresh.add(id)
            if traffic is not None:
                deltas = self._leftovers(deltas, now, traffic)
        return Batch(beats, steady, tuple(deltas))

    def _count(self, deltas: list[TrafficDelta], id: str, known: _Known, now: float, traffic: float) -> None:
        if known.counted_at == float(
            "-inf"
        ):  # the first time: from now on at a time of its own, so that all are spread
            known.counted_at = now - hash(id) % 1000 / 1000 * traffic
        else:
            known.counted_at = now
        deltas += _deltas(id, known)
        known.gauges = array("q", known.open)
        known.sums = array("q", bytes(8 * len(known.sums)))

    def _leftovers(self, deltas: list[TrafficDelta], now: float, traffic: float) -> list[TrafficDelta]:
        """With what was given back or left over, and with sums of those that are not heard any more."""
        if self._swept_at is None:
            self._swept_at = now
        if not traffic or now - self._swept_at > 2 * traffic:
            self._swept_at = now
            for id, known in self._known.items():
                if now - known.counted_at > 2 * traffic and known.counted_at != float("-inf"):
                    self._count(deltas, id, known, now, traffic)
        if not self._left:
            return deltas
        left, self._left = self._left, []
        return _merged([*left, *deltas])

    def give_back(self, batch: Batch) -> None:
        """It could not be written: what it counted is added to what came since."""
        with self._lock:
            self._fresh |= batch.beats.keys()
            self._fresh |= batch.steady.keys()
            self._left = [*batch.traffic, *self._left]

    def written(self, batch: Batch, matches: Mapping[str, bool], now: float) -> None:
        """It is written. `matches` says of each report that was held against its rows whether its listeners were as many."""
        with self._lock:
            for id, match in matches.items():
                known, beat = self._known.get(id), batch.beats.get(id)
                if known is not None and beat is not None:
                    known.matches, known.applied_at, known.applied = match, now, beat.said.words

    # -- looked at -------------------------------------------------------------------------------------------------
    def doubt(self, amphora_ids: Collection[str]) -> None:
        """Rows of these may have been changed by somebody else: their next reports are held against them."""
        with self._lock:
            for id in amphora_ids:
                known = self._known.get(id)
                if known is not None:
                    known.applied_at = float("-inf")

    def latest(self, amphora_id: str) -> Beat | None:
        """Its newest report, None when it has sent none."""
        with self._lock:
            known = self._known.get(amphora_id)
            return None if known is None else Beat(known.said, known.heard_at, known.matches, known.seq)

    def heard_at(self, amphora_id: str) -> float | None:
        """When a heartbeat of it came that counts, None for never."""
        known = self._known.get(amphora_id)
        return None if known is None or not known.matches else known.heard_at

    def miscounted(self, amphora_id: str) -> bool:
        """Whether its last report had a wrong number of listeners."""
        known = self._known.get(amphora_id)
        return known is not None and not known.matches

    def signed(self, since: float) -> Mapping[int, Sequence[str]]:
        """Key (by its number) -> the amphorae whose newest heartbeat is signed with it and came at that time or later."""
        with self._lock:
            everybody = list(self._known.items())
        found: dict[int, list[str]] = {}
        for id, known in everybody:
            if known.heard_at >= since:
                found.setdefault(known.key, []).append(id)
        return found

    def forget_others(self, wanted: Collection[str], before: float) -> None:
        """Forget those that are not wanted and were last heard before that time; their traffic is written all the same."""
        with self._lock:
            for id in [id for id, known in self._known.items() if id not in wanted and known.heard_at < before]:
                self._left += _deltas(id, self._known.pop(id))


def _add(known: _Known, counters: Sequence[int]) -> None:
    """Add what is to be added, and set the gauges."""
    known.open = counters[2::FIELDS]
    if not any(counters):
        return
    try:
        known.sums = array("q", map(add, known.sums, counters))
    except OverflowError:  # only a liar counts that far
        known.sums = array(
            "q", [min(sum(pair), LARGEST_COUNTER - 1) for pair in zip(known.sums, counters, strict=True)]
        )


def _deltas(amphora_id: str, known: _Known) -> list[TrafficDelta]:
    """What happened since the last time that was written; nothing for listeners where nothing has."""
    found = []
    for place, listener in enumerate(known.listeners):
        rx, tx, _, totconns, ereq = known.sums[place * FIELDS : (place + 1) * FIELDS]
        conns = known.open[place]
        if rx or tx or totconns or ereq or conns != known.gauges[place]:
            found.append(
                TrafficDelta(
                    listener_id=listener,
                    amphora_id=amphora_id,
                    bytes_in=rx,
                    bytes_out=tx,
                    active_connections=conns,
                    total_connections=totconns,
                    request_errors=ereq,
                    absolute=not known.deltas,
                )
            )
    return found


def _merged(deltas: Iterable[TrafficDelta]) -> list[TrafficDelta]:
    """One per listener and amphora, in the order of time: totals replace, and what follows is added to them."""
    merged: dict[tuple[str, str], TrafficDelta] = {}
    for delta in deltas:
        key = (delta.listener_id, delta.amphora_id)
        before = merged.get(key)
        if before is None or delta.absolute:
            merged[key] = delta
            continue
        merged[key] = attrs.evolve(
            delta,
            bytes_in=before.bytes_in + delta.bytes_in,
            bytes_out=before.bytes_out + delta.bytes_out,
            total_connections=before.total_connections + delta.total_connections,
            request_errors=before.request_errors + delta.request_errors,
            absolute=before.absolute,
        )
    return list(merged.values())
