"""From memory into the database: transactions for all that was heard, however many they are.

Reports that say something new come first, in portions, so that no transaction is long. Liveness follows. Traffic is written
beside it, by another thread: trouble with one does not hold up the other, and neither does a long queue of it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

import attrs

from octavia_core.controller.health.batch import Batch, Beat
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.pairs import Elsewhere, Pairs, Said, words
from octavia_core.controller.health.wall import Wall
from octavia_core.controller.statistics import InDatabase, Statistics
from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.domain.operation import Event
from octavia_core.domain.outline import Outline
from octavia_core.domain.vocabulary import Kind, Operating, Topology
from octavia_core.errors import TransientError
from octavia_core.lifecycle.operating import Verdict, roll_up
from octavia_core.lifecycle.together import Difference
from octavia_core.ports.clock import Clock
from octavia_core.ports.hearts import Heard, LastReport
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Changes", "Pace", "Writer"]

log = logging.getLogger("octavia_core.health")

PORTION = 500
"""Reports that one transaction holds against the rows."""
MANY = 20
"""Calm reports (`domain.calm`) of which it is asked first whether their rows are calm, too; fewer are held against them at once."""
NAMED = 10
"""Amphorae of one batch whose reports may be left out one by one; when there are more, something is wrong with all."""
REMEMBERED = 1000
"""Amphorae of which it is remembered what the log says of their reports."""
TRAFFIC_PORTION = 5000
"""Listeners whose traffic one transaction writes."""
GRAINS = 60
"""Into so many grains the timeout is cut to tell when somebody was heard: those of one grain share a statement."""
OVERTAKEN = 500_000
"""Microseconds that a row must say somebody else heard an amphora later, to count: hosts measure the database's clock each for itself."""
LATE = 10_000_000
"""Microseconds that a change of a row is looked for again: its transaction may be late, and its writer's clock behind."""


@attrs.frozen(kw_only=True)
class Pace:
    """How often what is written.

    Attributes:
        traffic: seconds over which traffic is summed.
        timeout: seconds of silence that matter; the time of a heartbeat that is written is true to a sixtieth of it.
        reread: seconds after which it is asked which rows somebody else has changed.
    """

    traffic: float = 30.0
    timeout: float = 60.0
    reread: float = 10.0


class Changes:
    """Finds reports whose rows somebody else has changed; used by one thread at a time."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._wall = self._event = 0

    def look(self, storage: Storage, memory: Memory, wall: Wall, now: float, every: float) -> None:
        """Have those held against their rows again that were changed since the last look, unless it is less than so many seconds
        ago. Raises TransientError when the database is away.
        """
        if self._at is not None and now - self._at < every:
            return
        at, newest = wall.at(now), storage.read(lambda tx: tx.last_event())
        if self._at is not None:
            since, after = self._wall - LATE, self._event
            memory.doubt(storage.read(lambda tx: tx.changed_under(since, after)))
        self._at, self._wall, self._event = now, at, newest


class Writer:
    """Writes what memory holds: `flush` what was heard, `count` the traffic, each used by one thread.

    Args:
        observer: who heard it.
        pace: how often what is written.

    Attributes:
        pairs: puts together what the two amphorae of a pair say.
        changes: finds what somebody else has changed.
        statistics: counts traffic, in the database unless another is set.
    """

    def __init__(self, storage: Storage, memory: Memory, wall: Wall, observer: str, pace: Pace) -> None:
        self._storage, self._memory, self._wall, self._observer = storage, memory, wall, observer
        self.pairs = Pairs(memory, fresh=30.0, patience=20.0)
        self.statistics = Statistics(storage, {"database": InDatabase()})
        self._news: list[Difference] = []
        self._foreign: dict[str, frozenset[str]] = {}
        self._unchanged: set[str] = set()
        self._overtaken: list[str] = []
        self._trouble: dict[str, str] = {}
        self._left_out = 0
        self._pace, self._grain = pace, max(1, int(pace.timeout * 1_000_000 / GRAINS))
        self.changes = Changes()
        self.written_at = 0.0
        """Monotonic time up to which all that was heard is in the rows."""

    def flush(self, clock: Clock, *, last: bool = False) -> int:
        """Write everything that is new, but for traffic; how many heartbeats. `last`: all traffic is due then.

        Raises:
            TransientError: the database is away; memory still has it all.
        """
        now, self._left_out = clock.monotonic(), 0
        if not last:
            self.changes.look(self._storage, self._memory, self._wall, now, self._pace.reread)
            self._memory.doubt(self.pairs.due(now))
        batch = self._memory.take(now, traffic=0.0 if last else self._pace.traffic)
        rest = batch
        try:
            for portion in _portions(batch):
                self._store(portion, now)
                rest = _without(rest, portion)
        except BaseException:  # whatever it was, what was heard must not be lost
            self._memory.give_back(rest)
            raise
        self.written_at = now
        return len(batch)

    def _store(self, portion: Batch, now: float) -> None:
        """Write one portion in a transaction; what cannot be held against its rows, for whatever reason, harms only itself."""
        wall = self._wall.at(now)
        try:
            matches = self._storage.transaction(lambda tx: self._write(tx, portion, wall, now))
        except TransientError:
            raise
        except Exception as error:  # whatever it is, one that cannot be judged must not blind us to all others
            if len(portion.beats) > 1:
                for half in _halves(portion):
                    self._store(half, now)
                return
            if not portion.beats or self._left_out >= NAMED:
                raise
            ((id, beat),) = portion.beats.items()
            self._left_out += 1
            self._said_of(id, f"changes no status: {type(error).__name__}: {error}", error)
            self._storage.transaction(lambda tx: self._write_together(tx, {id: beat.heard_at}, wall, now))
            self._memory.written(portion, {id: True}, now)
            return
        self._memory.written(portion, matches, now, self._foreign, self._unchanged)
        self._memory.doubt(self._overtaken)
        self.pairs.told(self._news)

    def _said_of(self, amphora_id: str, words: str, error: Exception | None = None) -> None:
        """Trouble with what it reports goes to the log, once for as long as it is the same; "" when there is none."""
        if self._trouble.get(amphora_id, "") == words:
            return
        if not words:
            del self._trouble[amphora_id]
            return
        if len(self._trouble) >= REMEMBERED:
            self._trouble.clear()
        self._trouble[amphora_id] = words
        log.log(
            logging.ERROR if error else logging.WARNING, "what amphora %s reports %s", amphora_id, words, exc_info=error
        )

    def count(self) -> int:
        """Write the traffic that is due; of how many listeners on amphorae.

        Raises:
            TransientError: the database is away; memory still has what is not written.
        """
        written = 0
        while some := self._memory.take_traffic(TRAFFIC_PORTION):
            try:
                self.statistics.store(some)
            except BaseException:  # whatever it was, what was counted must not be lost
                self._memory.give_back_traffic(some)
                raise
            written += len(some)
        return written

    def _write(self, tx: Transaction, batch: Batch, wall: int, now: float) -> dict[str, bool]:
        self._news, self._foreign, self._overtaken = [], {}, []
        calm = _calm(tx, batch.beats)
        self._unchanged = set(calm)
        heard = {**batch.steady, **{id: batch.beats[id].heard_at for id in calm}}
        matches = dict.fromkeys(calm, True)
        for id in self._trouble.keys() & matches.keys():
            self._said_of(id, "")
        rest = {id: beat for id, beat in batch.beats.items() if id not in calm}
        if rest:
            same, counts = self._hold_against_rows(tx, rest, wall, now)
            heard |= same
            matches |= counts
        self._write_together(tx, heard, wall, now)
        return matches

    def _hold_against_rows(
        self, tx: Transaction, batch: Mapping[str, Beat], wall: int, now: float
    ) -> tuple[Mapping[str, float], Mapping[str, bool]]:
        """Write what they say that the rows do not; when those were heard of whom only that is left to be written, and of each
        whether its listeners are as many as they should be.
        """
        heard: dict[str, float] = {}
        matches: dict[str, bool] = {}
        beats = {id: beat.heartbeat for id, beat in batch.items()}
        trees = tx.reported_on([*beats, *self.pairs.others(beats)])
        statuses: dict[tuple[Kind, str], Operating] = {}
        elsewhere = _elsewhere(tx, beats, trees, wall)
        changing: dict[str, _Finding] = {}
        for id, heartbeat in beats.items():
            if id not in trees:
                self._memory.counters["unknown amphora"] += 1
            if strange := _strange(heartbeat, trees.get(id)):
                self._foreign[id] = strange
            found = self._judge(trees, heartbeat, elsewhere or Elsewhere(), now)
            matches[id] = found is None or found.matches
            if found is not None:
                self._said_of(id, "; ".join(found.verdict.warnings))
            if found is not None and found.news:
                changing[id] = found
            elif matches[id] and id in trees:  # the rows say it already, so that it was heard is all that is new
                heard[id] = batch[id].heard_at
                if found is not None and not found.verdict.warnings and not _paired(trees[id]):
                    self._unchanged.add(id)
        self._overtaken = self._heard_later(tx, {id: batch[id].heard_at for id in changing}, wall, now)
        for id in self._overtaken:
            del changing[id]
            matches[id] = True
        for found in changing.values():
            self._say(tx, found, but=statuses)
            statuses |= found.verdict.statuses
        if not all(matches.values()):
            self._memory.counters["listener count differs"] += sum(not match for match in matches.values())
        if statuses:
            tx.set_operating(statuses)
        if some := [id for id in changing if matches[id]]:
            tx.heard([self._heard(id, batch[id], wall, now) for id in some])
        if elsewhere is not None:
            tx.keep_reports(
                {
                    id: (wall - int((now - beat.heard_at) * 1_000_000), words(beats[id]))
                    for id, beat in batch.items()
                    if _paired(trees.get(id))
                }
            )
        return heard, matches

    def _write_together(self, tx: Transaction, heard: Mapping[str, float], wall: int, now: float) -> None:
        """When each amphora was heard: those of one grain share a statement."""
        grains: dict[float, list[str]] = {}
        for id, heard_at in heard.items():
            grains.setdefault(heard_at, []).append(id)
        together: dict[int, list[str]] = {}
        for heard_at, ids in grains.items():
            together.setdefault(self._at(heard_at, wall, now), []).extend(ids)
        for at, ids in sorted(together.items()):
            tx.heard_together(at, self._observer, ids)

    def _heard(self, id: str, beat: Beat, wall: int, now: float) -> Heard:
        at = self._at(beat.heard_at, wall, now)
        return Heard(amphora_id=id, at=at, sequence=beat.seq, observer=self._observer)

    def _at(self, heard_at: float, wall: int, now: float) -> int:
        at = wall - int((now - heard_at) * 1_000_000)
        return at - at % self._grain

    def _heard_later(self, tx: Transaction, heard_at: Mapping[str, float], wall: int, now: float) -> list[str]:
        """Those of these amphorae that somebody else has heard later, as their rows have it: this process, or what hears for it,
        stood still with their reports, and a status is changed by the newest observation only.
        """
        found = []
        for id, (at, observer) in (tx.observed(heard_at) if heard_at else {}).items():
            ours = wall - int((now - heard_at[id]) * 1_000_000)
            if observer != self._observer and ours + OVERTAKEN < at <= wall + OVERTAKEN:
                self._memory.counters["overtaken"] += 1
                found.append(id)
        return found

    def _judge(
        self, trees: Mapping[str, Outline | None], beat: Heartbeat, elsewhere: Elsewhere, now: float
    ) -> _Finding | None:
        """What follows from a report, None where it is nobody's, or says nothing yet."""
        tree = trees.get(beat.amphora_id)
        if tree is None or (tree.provisioning_status.pending and not beat.listeners):
            return None  # it was not given its configuration yet: that says nothing about what it will serve
        said = self.pairs.said(tree, beat, trees, elsewhere, now)
        verdict = roll_up(tree, said.heartbeat)
        # whether an amphora has all that it should have is its own affair, whatever the other one of a pair has
        matches = (verdict if len(said.by) == 1 else roll_up(tree, beat)).counts_match
        return _Finding(tree, beat.amphora_id, said, verdict, matches)

    def _say(self, tx: Transaction, found: _Finding, but: Mapping[tuple[Kind, str], Operating]) -> None:
        """The events of what changes, `but` for what the other one of a pair has changed in this transaction."""
        tree, said = found.tree, found.said
        by = f"so amphora {said.by[0]} reports" if len(said.by) == 1 else f"so amphorae {' and '.join(said.by)} report"
        names = _names(tree) if found.verdict.statuses or said.news else {}  # of thousands, when all of them turn
        for (kind, id), status in found.verdict.statuses.items():
            if but.get((kind, id)) is status:
                continue
            tx.emit(
                Event(
                    name=f"{kind}.{status}".lower(),
                    text=f"{kind.words} {names.get(id, id)} is {status}: {by}",
                    load_balancer_id=tree.id,
                    amphora_id=found.amphora_id,
                    data={"id": id, "kind": str(kind), "operating_status": str(status)},
                )
            )
        if said.begun:
            self.pairs.begin(said.begun, tx.last_event())
        for each, after in said.news:
            if each not in self._news:  # both of a pair may be looked at in one transaction
                event = _dispute(tree.id, names, each)
                if not _said_before(tx, event, after):
                    tx.emit(event)
                self._news.append(each)


@attrs.frozen
class _Finding:
    """What one report means: `matches` whether its own listeners are as many as they should be."""

    tree: Outline
    amphora_id: str
    said: Said
    verdict: Verdict
    matches: bool

    @property
    def news(self) -> bool:
        """Whether anything is to be written or said."""
        return bool(self.verdict.statuses or self.said.news or self.said.begun)


def _calm(tx: Transaction, beats: Mapping[str, Beat]) -> Collection[str]:
    """Those whose report and rows say the same, and that all is well: nearly all, when a health manager begins. Of few, or of
    those that say something else than before, it is not asked.
    """
    expected = {id: beat.said.calm for id, beat in beats.items() if beat.expected and beat.said.calm}
    if len(expected) < MANY:
        return ()
    rows = tx.calm(expected)
    return {id for id, said in expected.items() if rows.get(id) == said}


def _strange(beat: Heartbeat, tree: Outline | None) -> frozenset[str]:
    """Listeners that it reports and that are not of its load balancer."""
    return frozenset(beat.listeners.keys() - {each.id for each in tree.listeners} if tree else beat.listeners)


def _paired(tree: Outline | None) -> bool:
    return tree is not None and tree.topology is Topology.ACTIVE_STANDBY


def _elsewhere(
    tx: Transaction, amphora_ids: Iterable[str], trees: Mapping[str, Outline | None], wall: int
) -> Elsewhere | None:
    """What any host has stored of the pairs of these amphorae; None when none of them belongs to a pair."""
    pairs = {tree.id for id in amphora_ids if (tree := trees.get(id)) is not None and _paired(tree)}
    if not pairs:
        return None
    reports: dict[str, list[LastReport]] = {}
    for each in tx.last_reports(pairs):
        reports.setdefault(each.load_balancer_id, []).append(each)
    return Elsewhere(reports, wall)


def _dispute(load_balancer_id: str, names: Mapping[str, str], found: Difference) -> Event:
    return Event(
        name="pool.disputed",
        text=(
            f"pool {names.get(found.pool_id, found.pool_id)}: amphora {found.up} says that member "
            f"{names.get(found.member_id, found.member_id)} works, amphora {found.down} that it does not"
        ),
        load_balancer_id=load_balancer_id,
        data={"id": found.pool_id, "member_id": found.member_id, "up": found.up, "down": found.down},
    )


def _said_before(tx: Transaction, event: Event, after: int) -> bool:
    """Whether another host, which hears the same pair, has said it since it began. Two that come to it in the very same moment
    both say it: nobody waits for a lock over that.
    """
    found = tx.events_named(event.name, str(event.load_balancer_id), after=after)
    return any(each.data == event.data for each in found)


def _portions(batch: Batch) -> Iterator[Batch]:
    """News in portions, then all of liveness. An empty batch has none."""
    beats = iter(batch.beats.items())
    while some := dict(islice(beats, PORTION)):
        yield Batch(some, {}, batch.traffic)
    if batch.steady:
        yield Batch({}, batch.steady)


def _halves(portion: Batch) -> Iterator[Batch]:
    beats = list(portion.beats.items())
    middle = len(beats) // 2
    yield Batch(dict(beats[:middle]), {}, portion.traffic)
    yield Batch(dict(beats[middle:]), portion.steady, portion.traffic)


def _without(batch: Batch, portion: Batch) -> Batch:
    """What is left when a portion, which comes first, is written."""
    beats: Mapping[str, Beat] = {id: beat for id, beat in batch.beats.items() if id not in portion.beats}
    return Batch(beats, {} if portion.steady else batch.steady)


def _names(tree: Outline) -> Mapping[str, str]:
    """What a person calls what has a name, by id."""
    return {node.id: f"{node.name} ({node.id})" for _, node in tree.nodes() if node.name}
