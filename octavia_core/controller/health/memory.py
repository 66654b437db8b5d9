"""What is known of each amphora, in memory: the newest heartbeat, and traffic that is not written yet.

A heartbeat that says what the one before said costs its own few fields; its text is looked into again only when its
statuses are to be held against the rows.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import attrs

from octavia_core.domain.heartbeat import LARGEST_COUNTER, Heartbeat
from octavia_core.domain.skim import FIELDS, Skimmed, skimmed
from octavia_core.ports.storage import TrafficDelta

__all__ = ["AT_ONCE", "Batch", "Beat", "Memory"]

REAPPLIED = 500
"""Unchanged reports that one batch holds against the rows again at most: their load balancers are read together."""
PER_SECOND = 50
"""Unchanged reports of which it is not known that their rows were touched are held against them again at most so often: what
others change is found by its date, so this is for rows that were changed by hand."""
AT_ONCE = 2000
"""Reports that one batch holds against the rows at most, changed or not; the others come with the next batch."""

_NEVER = -1
"""The gauge of a listener that has no row yet."""


@attrs.define(eq=False)
class _Known:
    """One amphora. Times are monotonic seconds.

    Attributes:
        said: its newest report.
        applied: the words that the rows got, None when they got none or may have changed since.
        sums: traffic that is not written, laid out as `Skimmed.counters`; `gauges`: connections that the rows have.
        counted_at: since when `sums` are sums.
    """

    said: Skimmed
    heard_at: float
    listeners: tuple[str, ...]
    deltas: bool
    sums: array[int]
    gauges: array[int]
    counted_at: float
    applied: bytes | None = None
    applied_at: float = 0.0
    matches: bool = True


@attrs.frozen
class Beat:
    """A report to hold against the rows. `matches`: whether its listeners were as many as they should be last time."""

    said: Skimmed
    heard_at: float
    matches: bool

    @property
    def heartbeat(self) -> Heartbeat:
        """All of it, read anew."""
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
        changed, repeated, accepted = False, 0, 0
        with self._lock:
            for each in heartbeats:
                said = skimmed(each) if isinstance(each, Heartbeat) else each
                known = self._known.get(said.amphora_id)
                if known is not None and _repeats(said, known.said):
                    repeated += 1
                    continue
                accepted += 1
                if known is None or said.words != known.said.words:
                    known = self._meet(known, said.complete(), now)
                elif not known.deltas:
                    known.sums = array("q", said.counters)
                else:
                    _add(known.sums, said.counters)
                known.said = said
                known.heard_at = max(known.heard_at, now)
                self._fresh.add(said.amphora_id)
                changed |= known.applied != said.words
            self.counters["accepted"] += accepted
            if repeated:
                self.counters["repeated"] += repeated
        return changed

    def _meet(self, known: _Known | None, said: Skimmed, now: float) -> _Known:
        """It says something else than before, or for the first time."""
        listeners = said.listeners or ()
        if known is not None and known.listeners == listeners and known.deltas and said.deltas:
            _add(known.sums, said.counters)
            return known
        gauges = dict(zip(known.listeners, known.gauges, strict=True)) if known is not None else {}
        if known is None:
            known = self._known[said.amphora_id] = _Known(
                said, now, listeners, said.deltas, array("q"), array("q"), float("-inf")
            )
        elif said.deltas:
            self._left += _deltas(said.amphora_id, known)  # those of listeners that it has no more, and the others'
        known.listeners, known.deltas, known.sums = listeners, said.deltas, array("q", said.counters)
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
                    beats[id], room = Beat(known.said, known.heard_at, known.matches), room - 1
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
        for place in range(len(known.listeners)):
            known.gauges[place] = known.sums[place * FIELDS + 2]
        gauge = array("q", bytes(8 * len(known.sums)))
        gauge[2::FIELDS] = known.gauges
        known.sums = gauge

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
            return None if known is None else Beat(known.said, known.heard_at, known.matches)

    def heard_at(self, amphora_id: str) -> float | None:
        """When a heartbeat of it came that counts, None for never."""
        known = self._known.get(amphora_id)
        return None if known is None or not known.matches else known.heard_at

    def miscounted(self, amphora_id: str) -> bool:
        """Whether its last report had a wrong number of listeners."""
        known = self._known.get(amphora_id)
        return known is not None and not known.matches

    def forget_others(self, wanted: Collection[str], before: float) -> None:
        """Forget those that are not wanted and were last heard before that time; their traffic is written all the same."""
        with self._lock:
            for id in [id for id, known in self._known.items() if id not in wanted and known.heard_at < before]:
                self._left += _deltas(id, self._known.pop(id))


def _repeats(said: Skimmed, before: Skimmed) -> bool:
    return said.seq is not None and said.seq == before.seq and said.source == before.source


def _add(sums: array[int], counters: tuple[int, ...]) -> None:
    """Add what is to be added, and set the gauges."""
    if not any(counters) and not any(sums):
        return
    before = sums[:]
    try:
        for place, number in enumerate(counters):
            if place % FIELDS == 2:
                sums[place] = number
            elif number:
                sums[place] += number
    except OverflowError:  # only a liar counts that far
        for place, number in enumerate(counters):
            sums[place] = number if place % FIELDS == 2 else min(before[place] + number, LARGEST_COUNTER - 1)


def _deltas(amphora_id: str, known: _Known) -> list[TrafficDelta]:
    """What happened since the last time that was written; nothing for listeners where nothing has."""
    found = []
    for place, listener in enumerate(known.listeners):
        rx, tx, conns, totconns, ereq = known.sums[place * FIELDS : (place + 1) * FIELDS]
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
