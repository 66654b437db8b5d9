"""From memory into the database: one transaction for all that was heard."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from octavia_core.controller.health.memory import Batch, Memory
from octavia_core.controller.health.wall import Wall
from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.domain.operation import Event
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Kind, Operating
from octavia_core.lifecycle.operating import roll_up
from octavia_core.ports.clock import Clock
from octavia_core.ports.storage import Heard, Storage, Transaction

__all__ = ["Writer"]

log = logging.getLogger("octavia_core.health")


class Writer:
    """Writes what memory holds. Used by one thread.

    Args:
        observer: who heard it.
        traffic_every: seconds over which traffic is summed.
    """

    def __init__(self, storage: Storage, memory: Memory, wall: Wall, observer: str, traffic_every: float) -> None:
        self._storage, self._memory, self._wall, self._observer = storage, memory, wall, observer
        self._traffic_every, self._traffic_at = traffic_every, 0.0

    def flush(self, clock: Clock, *, last: bool = False) -> int:
        """Write everything that is new; how many heartbeats. `last`: the traffic too, whenever it was written before.

        Raises:
            TransientError: the database is away; memory still has it all.
        """
        now = clock.monotonic()
        with_traffic = last or now - self._traffic_at >= self._traffic_every
        batch = self._memory.take(now, traffic=with_traffic)
        if with_traffic:
            self._traffic_at = now
        if not batch.beats and not batch.traffic:
            return 0
        try:
            wall = self._wall.at(now)
            matches = self._storage.transaction(lambda tx: self._write(tx, batch, wall, now))
        except BaseException:  # whatever it was, what was counted must not be lost
            self._memory.give_back(batch)
            raise
        self._memory.written(batch, matches, now)
        return len(batch.beats)

    def _write(self, tx: Transaction, batch: Batch, wall: int, now: float) -> dict[str, bool]:
        matches: dict[str, bool] = {}
        due = [id for id, beat in batch.beats.items() if beat.due]
        trees = tx.reported_on(due) if due else {}
        statuses: dict[tuple[Kind, str], Operating] = {}
        for id in due:
            if id not in trees:
                self._memory.counters["unknown amphora"] += 1
            news, matches[id] = self._judge(tx, trees.get(id), batch.beats[id].heartbeat)
            statuses |= news
        if statuses:
            tx.set_operating(statuses)
        heard = [
            Heard(
                amphora_id=id,
                at=wall - int((now - beat.heard_at) * 1_000_000),
                sequence=beat.heartbeat.seq,
                observer=self._observer,
            )
            for id, beat in batch.beats.items()
            if matches.get(id, beat.matches)
        ]
        if heard:
            tx.heard(heard)
        if batch.traffic:
            tx.add_traffic(batch.traffic)
        return matches

    def _judge(
        self, tx: Transaction, tree: LoadBalancer | None, beat: Heartbeat
    ) -> tuple[Mapping[tuple[Kind, str], Operating], bool]:
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


def _name(tree: LoadBalancer, id: str) -> str:
    for _, node in tree.nodes():
        name = getattr(node, "name", None)
        if node.id == id and name:
            return f"{name} ({id})"
    return id
