"""From memory into the database: transactions for all that was heard, however many they are.

Reports that say something new come first, in portions, so that no transaction is long. Liveness follows, then traffic:
trouble with one does not hold up the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from octavia_core.controller.health.memory import Batch, Beat, Memory
from octavia_core.controller.health.wall import Wall
from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.domain.operation import Event
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Kind, Operating
from octavia_core.lifecycle.operating import roll_up
from octavia_core.ports.clock import Clock
from octavia_core.ports.storage import Heard, Storage, TrafficDelta, Transaction

__all__ = ["Writer"]

log = logging.getLogger("octavia_core.health")

PORTION = 500
"""Reports that one transaction holds against the rows."""
TRAFFIC_PORTION = 5000
"""Listeners whose traffic one transaction writes."""
GRAINS = 60
"""Into so many grains the timeout is cut to tell when somebody was heard: those of one grain share a statement."""
LATE = 10_000_000
"""Microseconds that a change of a row is looked for again: its transaction may be late, and its writer's clock behind."""

Statuses = Mapping[tuple[Kind, str], Operating]


class Writer:
    """Writes what memory holds. Used by one thread.

    Args:
        observer: who heard it.
        traffic_every: seconds over which traffic is summed.
        timeout: seconds of silence that matter; the time of a heartbeat that is written is true to a sixtieth of it.
        reread_every: seconds after which it is asked which rows somebody else has changed.
    """

    def __init__(
        self,
        storage: Storage,
        memory: Memory,
        wall: Wall,
        observer: str,
        traffic_every: float,
        *,
        timeout: float = 60.0,
        reread_every: float = 10.0,
    ) -> None:
        self._storage, self._memory, self._wall, self._observer = storage, memory, wall, observer
        self._traffic_every, self._reread_every = traffic_every, reread_every
        self._grain = max(1, int(timeout * 1_000_000 / GRAINS))
        self._reread_at: float | None = None
        self._reread_wall = 0
        self.written_at = 0.0
        """Monotonic time up to which all that was heard is in the rows."""

    def flush(self, clock: Clock, *, last: bool = False) -> int:
        """Write everything that is new; how many heartbeats. `last`: the traffic too, whenever it was written before.

        Raises:
            TransientError: the database is away; memory still has it all.
        """
        now = clock.monotonic()
        if not last:
            self._look_for_changes(now)
        batch = self._memory.take(now, traffic=0.0 if last else self._traffic_every)
        rest = batch
        try:
            for portion in _portions(batch):
                if portion.beats or portion.steady:
                    wall = self._wall.at(now)
                    matches = self._storage.transaction(lambda tx: self._write(tx, portion, wall, now))  # noqa: B023 - runs now
                    self._memory.written(portion, matches, now)
                if portion.traffic:
                    self._storage.transaction(lambda tx: tx.add_traffic(portion.traffic))  # noqa: B023 - runs now
                rest = _without(rest, portion)
        except BaseException:  # whatever it was, what was counted must not be lost
            self._memory.give_back(rest)
            raise
        self.written_at = now
        return len(batch)

    def _look_for_changes(self, now: float) -> None:
        if self._reread_at is not None and now - self._reread_at < self._reread_every:
            return
        wall = self._wall.at(now)
        if self._reread_at is not None:
            since = self._reread_wall - LATE
            self._memory.doubt(self._storage.read(lambda tx: tx.changed_under(since)))
        self._reread_at, self._reread_wall = now, wall

    def _write(self, tx: Transaction, batch: Batch, wall: int, now: float) -> dict[str, bool]:
        heard = [self._heard(id, at, wall, now) for id, at in batch.steady.items()]
        matches: dict[str, bool] = {}
        if batch.beats:
            beats = {id: beat.heartbeat for id, beat in batch.beats.items()}
            trees = tx.reported_on(list(beats))
            statuses: dict[tuple[Kind, str], Operating] = {}
            for id, heartbeat in beats.items():
                if id not in trees:
                    self._memory.counters["unknown amphora"] += 1
                news, matches[id] = self._judge(tx, trees.get(id), heartbeat)
                statuses |= news
            if statuses:
                tx.set_operating(statuses)
            heard += [
                self._heard(id, beat.heard_at, wall, now, beat) for id, beat in batch.beats.items() if matches[id]
            ]
        if heard:
            tx.heard(heard)
        return matches

    def _heard(self, id: str, heard_at: float, wall: int, now: float, beat: Beat | None = None) -> Heard:
        at = wall - int((now - heard_at) * 1_000_000)
        return Heard(
            amphora_id=id,
            at=at - at % self._grain,
            sequence=beat.said.seq if beat else None,
            observer=self._observer,
        )

    def _judge(self, tx: Transaction, tree: LoadBalancer | None, beat: Heartbeat) -> tuple[Statuses, bool]:
        if tree is None:
            return {}, True
        if tree.provisioning_status.pending and not beat.listeners:
            return {}, True  # it was not given its configuration yet: that says nothing about what it will serve
        verdict = roll_up(tree, beat)
        for (kind, id), status in verdict.statuses.items():
            tx.emit(
                Event(
                    name=f"{kind}.{status}".lower(),
                    text=f"{kind.words} {_name(tree, id)} is {status}: so amphora {beat.amphora_id} reports",
                    load_balancer_id=tree.id,
                    amphora_id=beat.amphora_id,
                    data={"id": id, "kind": str(kind), "operating_status": str(status)},
                )
            )
        if not verdict.counts_match:
            self._memory.counters["listener count differs"] += 1
        return verdict.statuses, verdict.counts_match


def _portions(batch: Batch) -> Iterator[Batch]:
    """News in portions, then all of liveness, then traffic in portions. An empty batch has none."""
    beats = iter(batch.beats.items())
    while some := dict(islice(beats, PORTION)):
        yield Batch(some, {})
    if batch.steady:
        yield Batch({}, batch.steady)
    for start in range(0, len(batch.traffic), TRAFFIC_PORTION):
        yield Batch({}, {}, batch.traffic[start : start + TRAFFIC_PORTION])


def _without(batch: Batch, portion: Batch) -> Batch:
    """What is left when a portion, which comes first, is written."""
    beats: Mapping[str, Beat] = {id: beat for id, beat in batch.beats.items() if id not in portion.beats}
    traffic: Sequence[TrafficDelta] = batch.traffic[len(portion.traffic) :]
    return Batch(beats, {} if portion.steady else batch.steady, tuple(traffic))


def _name(tree: LoadBalancer, id: str) -> str:
    for _, node in tree.nodes():
        name = getattr(node, "name", None)
        if node.id == id and name:
            return f"{name} ({id})"
    return id
