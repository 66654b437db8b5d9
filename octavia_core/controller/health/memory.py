"""What is known of each amphora, in memory: the newest heartbeat, and traffic that is not written yet.

A heartbeat that says what the one before said costs its own few fields; its text is looked into again only when its
statuses are to be held against the rows.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any
from zlib import crc32

from octavia_core.controller.health.batch import Batch, Beat, beat_of
from octavia_core.controller.health.grown import Grown
from octavia_core.controller.health.known import NEVER, NONE, Known, added, deltas_of, emptied, rows_said, rows_say
from octavia_core.controller.health.merge import merged
from octavia_core.controller.health.order import Turn
from octavia_core.controller.health.remembered import Remembered
from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.domain.skim import FIELDS, Skimmed, skimmed
from octavia_core.ports.hearts import TrafficDelta

__all__ = ["Memory"]

REAPPLIED = 500
"""Unchanged reports that one batch holds against the rows again at most: their load balancers are read together."""
PER_SECOND = 50
"""Unchanged reports of which it is not known that their rows were touched are held against them again at most so often: what
others change is found by its date, so this is for rows that were changed by hand."""
AT_ONCE = 2000
"""Reports that one batch holds against the rows at most, changed or not; the others come with the next batch."""

TRIAL = 60.0
"""Seconds after which traffic of a row that stepped back counts, unless somebody says another time."""
STRANGERS = 10_000
"""Amphorae that no row is known of, of which is kept what they said; the oldest leave."""
EVERYBODY = 250_000
"""The same before it is known which amphorae there are."""
APART = 50_000
"""Differences in traffic that wait as they came; more of them are put together, as often as they have doubled."""
TOO_MANY = "too many unknown amphorae"
FOREIGN = "traffic of foreign listeners"

_NOTHING = (0,) * FIELDS


class Memory(Remembered):
    """Safe for threads. One entry per amphora, however much comes in.

    Args:
        reapply: seconds after which an unchanged report is held against the rows again: they may have changed meanwhile.
        trial: seconds after which traffic counts whose heartbeats may have been played back, see `order`: an agent that lives
            is heard before.

    Attributes:
        reapply, trial: the same; they may be set anew.
        counters: datagrams and reports by what became of them.
        more: whether the last batch left reports to the next one.
    """

    def __init__(self, reapply: float, trial: float = TRIAL) -> None:
        self.reapply, self.trial = reapply, trial
        super().__init__()
        self._news: dict[str, None] = {}
        """Whose newest words are not in the rows, in the order in which they came to be so."""
        self._fresh: set[str] = set()
        """Who else was heard since the last batch; one that is news, too, waits there."""
        self._left: list[TrafficDelta] = []
        self._merge_above = APART
        self._wanted: Collection[str] | None = None
        self._strangers: dict[str, None] = {}
        self._swept_at: float | None = None
        self.counters: Counter[str] = Counter()
        self.more = False

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
                if known is not None and not self._counts(known, said, said.seq, said.mark, said.counters, now):
                    continue
                accepted += 1
                changed |= self._take_in(known, said, now)
            self.counters["accepted"] += accepted
        return changed

    def keep_again(self, told: Mapping[int, Skimmed], records: Iterable[tuple[Any, ...]]) -> bool:
        """The same for `frames.Again` as flat tuples, whose words are those of what was told with their handle."""
        changed, accepted = False, 0
        with self._lock:
            get = self._known.get
            for record in records:
                handle, at, seq, key, mark = record[:5]
                said = told.get(handle)
                if said is None:  # nobody says so before its report
                    continue
                id = said.amphora_id
                known, counters = get(id), record[5:]
                if known is not None and not self._counts(known, said, seq, mark, counters, at):
                    continue
                accepted += 1
                if known is None or known.said.words != said.words:
                    changed |= self._take_in(known, said._replace(seq=seq, key=key, mark=mark, counters=counters), at)
                    continue
                if known.doubt is not None:
                    self._lay_apart(known)
                added(known, counters)
                if key != known.key:
                    self._signed_with(known, key)
                if at >= known.heard_at:
                    known.heard_at = at
                    self._known.move_to_end(id)
                changed |= self._heard(id, known)
            self.counters["accepted"] += accepted
        return changed

    def _heard(self, id: str, known: Known) -> bool:
        """It goes into the next batch; whether its words are not in the rows."""
        if rows_say(known):
            self._fresh.add(id)
            return False
        self._news[id] = None
        return True

    def _late(self, known: Known, said: Skimmed, counters: Sequence[int], now: float) -> None:
        """It was overtaken: its deltas are added, of listeners that the newer one has as well; totals say less than the newer."""
        self.counters[Turn.BEHIND] += 1
        if known.deltas:
            if known.doubt is not None:
                self._lay_apart(known)
            of = known.listeners if said.words == known.said.words else said.complete().listeners or ()
            numbers = {id: counters[place * FIELDS : (place + 1) * FIELDS] for place, id in enumerate(of)}
            gauges = known.open
            added(known, [number for id in known.listeners for number in numbers.get(id, _NOTHING)])
            known.open = gauges
        known.heard_at = max(known.heard_at, now)
        self._known.move_to_end(known.said.amphora_id)
        self._heard(known.said.amphora_id, known)

    def _counts(
        self, known: Known, said: Skimmed, seq: int | None, mark: bytes, counters: Sequence[int], now: float
    ) -> bool:
        """Whether it says something of now; what it is else is counted. Of `said`, only words and listeners."""
        turn = known.turn(seq, mark, counters, now)
        if turn is None:
            return True
        doubt = known.doubt
        if turn is Turn.BEHIND:
            self._late(known, said, counters, now)
            return False
        if turn is Turn.REPEATED or turn is Turn.REPLAYED or doubt is None:
            self.counters[turn] += 1
            return False
        if turn is Turn.TRUSTED:
            self._left += doubt.left
            known.doubt = None
            return True
        if doubt.apart and (doubt.proven or turn is Turn.REFUTED):  # they have been counted before
            known.sums = array("q", bytes(8 * len(known.sums)))
            doubt.left.clear()
        if turn is Turn.REFUTED:
            known.doubt = None
            return True
        self.counters[turn] += 1
        known.heard_at = max(known.heard_at, now)
        self._known.move_to_end(known.said.amphora_id)
        self._heard(known.said.amphora_id, known)
        return False

    def _take_in(self, known: Known | None, said: Skimmed, now: float) -> bool:
        """One that counts; whether its words are not in the rows."""
        if known is None or said.words != known.said.words:
            said = said.complete()
            known = self._meet(known, said, now)
            known.said = said._replace(counters=())
        self._count_in(known, said, now)
        known.heard_at = max(known.heard_at, now)
        if said.key != known.key:
            self._signed_with(known, said.key)
        self._known.move_to_end(said.amphora_id)
        return self._heard(said.amphora_id, known)

    def _meet(self, known: Known | None, said: Skimmed, now: float) -> Known:
        """It says something else than before, or for the first time."""
        listeners = said.listeners or ()
        if known is None:
            known = self._known[said.amphora_id] = Known(said, now)
            known.turn(said.seq, said.mark, said.counters, now)
            self._strange(said.amphora_id)
        elif known.listeners == listeners and known.deltas == said.deltas:
            return known
        elif known.doubt is not None and known.doubt.apart:
            known.doubt.left = merged([*known.doubt.left, *self._deltas(said.amphora_id, known)])
        else:  # those of listeners that it has no more, and the others'
            self._left += self._deltas(said.amphora_id, known)
        known.others = ()
        gauges = dict(zip(known.listeners, known.gauges, strict=True))
        known.listeners, known.deltas = listeners, said.deltas
        known.sums = array("q", bytes(8 * FIELDS * len(listeners)))
        known.open = known.gauges = array("q", [gauges.get(listener, NEVER) for listener in listeners])
        known.totals = None if said.deltas else known.totals or Grown()
        return known

    def _count_in(self, known: Known, said: Skimmed, now: float) -> None:
        if known.totals is None:
            if known.doubt is not None:
                self._lay_apart(known)
            added(known, said.counters)
        elif known.doubt is None:  # totals tell all some time later as well
            certain = said.seq is not None
            grown = known.totals.taken(known.listeners, said.counters, now, 0.0 if certain else self.trial)
            if grown is not None:
                known.sums, known.open = array("q", grown), said.counters[2::FIELDS]

    def _lay_apart(self, known: Known) -> None:
        """What it counts from now on may have been counted before."""
        if known.doubt is not None and not known.doubt.apart:
            known.doubt.apart = True
            self._left += self._deltas(known.said.amphora_id, known)
            emptied(known)

    def _strange(self, amphora_id: str) -> None:
        """One more of which no row is known, perhaps: somebody who has the key may invent as many as he likes."""
        if self._wanted is None or amphora_id not in self._wanted:
            self._strangers[amphora_id] = None
            self._trim()

    def _trim(self) -> None:
        room = EVERYBODY if self._wanted is None else STRANGERS
        while len(self._strangers) > room:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            self._known.pop(oldest, None)
            self._leaves(oldest)
            self._fresh.discard(oldest)
            self._news.pop(oldest, None)
            self.counters[TOO_MANY] += 1

    # -- out -------------------------------------------------------------------------------------------------------
    def take(self, now: float, *, traffic: float | None) -> Batch:
        """What was heard since the last batch that was written. Traffic that is due is laid ready for `take_traffic`; that of
        reports in this batch when they are written, since only then it is known whose their listeners are.

        Args:
            now: monotonic.
            traffic: sums that are that many seconds old are due; 0: all, None: none.
        """
        with self._lock:
            fresh, self._fresh = self._fresh, set()
            again, reapply = REAPPLIED, max(self.reapply, len(self._known) / PER_SECOND)
            beats, steady = self._take_news(fresh), dict[str, float]()
            for id in fresh:
                known = self._known.get(id)
                if known is None or id in beats:
                    continue
                if not rows_say(known):  # it took back what was being written
                    self._news[id] = None
                    continue
                if again and (not known.matches or now - known.applied_at > reapply):
                    again -= 1
                    if len(beats) < AT_ONCE:
                        beats[id] = beat_of(known)
                        continue
                    self._fresh.add(id)
                elif known.matches:
                    steady[id] = known.heard_at
                if traffic is not None and now - known.counted_at >= traffic:
                    self._count(id, known, now, traffic)
            self.more = bool(self._news or self._fresh)
            if traffic is not None:
                self._sweep(now, traffic, beats)
        return Batch(beats, steady, traffic)

    def _take_news(self, fresh: set[str]) -> dict[str, Beat]:
        """Those that have waited longest, `AT_ONCE` at most; the others cost nothing until it is their turn. Whose words the rows
        got meanwhile goes to `fresh`.
        """
        beats: dict[str, Beat] = {}
        for id in list(islice(self._news, AT_ONCE)):
            del self._news[id]
            known = self._known.get(id)
            if known is None:
                continue
            if rows_say(known):  # its row got them meanwhile
                fresh.add(id)
            else:
                beats[id] = beat_of(known)
        return beats

    def take_traffic(self, most: int) -> Sequence[TrafficDelta]:
        """The oldest of what is due, in the order of time; whoever takes it stores it or gives it back."""
        with self._lock:
            if len(self._left) > self._merge_above:
                self._left = merged(self._left)
                self._merge_above = max(APART, 2 * len(self._left))
            some, self._left = self._left[:most], self._left[most:]
        return some

    def give_back_traffic(self, traffic: Sequence[TrafficDelta]) -> None:
        """It could not be stored: it is the oldest again."""
        with self._lock:
            self._left = [*traffic, *self._left]

    def _count(self, id: str, known: Known, now: float, traffic: float) -> None:
        if (doubt := known.doubt) is not None:
            if now - doubt.since >= self.trial:
                self._left += doubt.left
                known.settled()
            elif doubt.apart:
                # so that a sweep finds it when it is not heard any more
                known.counted_at = max(known.counted_at, doubt.since)
                return
        if known.counted_at == float("-inf"):  # the first time: then at a time of its own, so that all are spread
            known.counted_at = now - crc32(id.encode()) % 1000 / 1000 * traffic
        else:
            known.counted_at = now
        self._left += self._deltas(id, known)
        emptied(known)

    def _sweep(self, now: float, traffic: float, but: Collection[str]) -> None:
        """Sums of those that are not heard any more are due, too; not of those whose reports are to be written first."""
        if self._swept_at is None:
            self._swept_at = now
        if not traffic or now - self._swept_at > 2 * traffic:
            self._swept_at = now
            for id, known in self._known.items():
                old = now - known.counted_at > 2 * traffic and known.counted_at != float("-inf")
                if old and id not in but and known.applied == known.said.words:
                    self._count(id, known, now, traffic)

    def give_back(self, batch: Batch) -> None:
        """It could not be written: it is new again."""
        with self._lock:
            self._fresh |= batch.steady.keys()
            for id in batch.beats:
                if (known := self._known.get(id)) is not None:
                    self._heard(id, known)
            self.more = False  # whatever stands in the way, let it have its time

    def _deltas(self, id: str, known: Known) -> list[TrafficDelta]:
        """Of the listeners that it may speak of, by the rows; the rest is counted by `FOREIGN`."""
        deltas = deltas_of(id, known)
        if not known.foreign:
            return deltas
        own = [each for each in deltas if each.listener_id not in known.foreign]
        self.counters[FOREIGN] += len(deltas) - len(own)
        return own

    def written(
        self,
        batch: Batch,
        matches: Mapping[str, bool],
        now: float,
        foreign: Mapping[str, frozenset[str]] | None = None,
        unchanged: Collection[str] = (),
    ) -> None:
        """It is written.

        Args:
            batch: what.
            matches: of each report that was held against its rows, whether its listeners were as many.
            now: monotonic.
            foreign: listeners of such reports that are not of their load balancers, of those that have any.
            unchanged: of whom the rows said all of it already, whoever else speaks for their load balancers.
        """
        foreign = foreign or {}
        with self._lock:
            for id, match in matches.items():
                known, beat = self._known.get(id), batch.beats.get(id)
                if known is not None and beat is not None:
                    known.matches, known.applied_at = match, now
                    rows_said(known, beat.said.words, unchanged=match and id in unchanged)
                    known.foreign = foreign.get(id, NONE)
                    if batch.traffic is not None and now - known.counted_at >= batch.traffic:
                        self._count(id, known, now, batch.traffic)
                    (self._miscounted.discard if match else self._miscounted.add)(id)

    # -- looked at -------------------------------------------------------------------------------------------------
    def doubt(self, amphora_ids: Collection[str]) -> None:
        """Rows of these may have been changed by somebody else: their next reports are held against them."""
        with self._lock:
            for id in amphora_ids:
                known = self._known.get(id)
                if known is not None:
                    known.applied_at, known.others = float("-inf"), ()

    def forget_rows(self) -> None:
        """They are others now: what everybody said last is held against them."""
        with self._lock:
            self._fresh.clear()
            for id, known in self._known.items():
                known.applied, known.others = None, ()
                self._news[id] = None

    def latest(self, amphora_id: str) -> Beat | None:
        """Its newest report, None when it has sent none."""
        with self._lock:
            known = self._known.get(amphora_id)
            return None if known is None else beat_of(known)

    def forget_others(self, wanted: Collection[str], before: float) -> None:
        """Forget those that are not wanted and were last heard before that time; their traffic is written all the same. Of
        others that are not wanted, at most `STRANGERS` are kept from now on.
        """
        with self._lock:
            self._wanted = wanted
            self._strangers = {id: None for id in self._known if id not in wanted}
            for id in [id for id in self._strangers if self._known[id].heard_at < before]:
                del self._strangers[id]
                known = self._known.pop(id)
                self._leaves(id)
                if known.doubt is None or not known.doubt.apart:
                    self._left += self._deltas(id, known)
            self._trim()
