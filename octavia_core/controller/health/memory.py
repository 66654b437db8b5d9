"""What is known of each amphora, in memory: the newest heartbeat, and traffic that is not written yet."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import attrs

from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.ports.storage import TrafficDelta

__all__ = ["Batch", "Beat", "Memory"]


REAPPLIED = 500
"""Unchanged reports that one batch holds against the rows again at most: their load balancers are read together."""


@attrs.define
class _Known:
    """One amphora. Times are monotonic seconds; `says` is what its latest report says, `applied` what the rows got."""

    latest: Heartbeat
    heard_at: float
    says: object = None
    applied: object = None
    applied_at: float = 0.0
    matches: bool = True


@attrs.frozen
class Beat:
    """A heartbeat to write: `due` when its statuses are to be held against the rows."""

    heartbeat: Heartbeat
    heard_at: float
    due: bool
    matches: bool


@attrs.frozen
class Batch:
    """What is to be written now; whoever takes it writes it or gives it back."""

    beats: Mapping[str, Beat]
    traffic: tuple[TrafficDelta, ...]


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
        self._traffic: dict[tuple[str, str], list[int]] = {}
        self._gauges: dict[tuple[str, str], int] = {}
        self.counters: Counter[str] = Counter()

    def keep(self, heartbeats: Iterable[Heartbeat], now: float) -> bool:
        """Take a batch in; True when one of them reports something new."""
        changed = False
        with self._lock:
            for heartbeat in heartbeats:
                changed |= self._keep(heartbeat, now)
        return changed

    def _keep(self, heartbeat: Heartbeat, now: float) -> bool:
        known = self._known.get(heartbeat.amphora_id)
        if known is None:
            known = self._known[heartbeat.amphora_id] = _Known(heartbeat, now)
        elif heartbeat.seq is not None and heartbeat.seq == known.latest.seq and known.latest == heartbeat:
            self.counters["repeated"] += 1
            return False
        self.counters["accepted"] += 1
        known.heard_at, known.latest, known.says = now, heartbeat, _fingerprint(heartbeat)
        self._fresh.add(heartbeat.amphora_id)
        self._count(heartbeat)
        return known.says != known.applied

    def _count(self, heartbeat: Heartbeat) -> None:
        for listener_id, report in heartbeat.listeners.items():
            key = (listener_id, heartbeat.amphora_id)
            if not (report.rx or report.tx or report.totconns or report.ereq) and self._gauges.get(key) == report.conns:
                continue  # nothing has happened since the last message
            sums = self._traffic.get(key)
            if sums is None or not heartbeat.deltas:
                self._traffic[key] = [
                    report.rx, report.tx, report.conns, report.totconns, report.ereq, int(not heartbeat.deltas)
                ]  # fmt: skip
                continue
            sums[0] += report.rx
            sums[1] += report.tx
            sums[2] = report.conns
            sums[3] += report.totconns
            sums[4] += report.ereq

    def take(self, now: float, *, traffic: bool) -> Batch:
        """What was heard since the last batch that was written, and (if asked) the traffic since."""
        with self._lock:
            fresh = {id: self._known[id] for id in self._fresh if id in self._known}
            self._fresh = set()
            again = REAPPLIED
            beats = {}
            for id, known in fresh.items():
                due = known.says != known.applied
                if not due and again and (not known.matches or now - known.applied_at > self._reapply):
                    due, again = True, again - 1
                beats[id] = Beat(known.latest, known.heard_at, due, known.matches)
            sums: dict[tuple[str, str], list[int]] = {}
            if traffic:
                sums, self._traffic = self._traffic, {}
                self._gauges |= {key: sum[2] for key, sum in sums.items()}
        return Batch(beats, tuple(_delta(key, sum) for key, sum in sums.items()))

    def give_back(self, batch: Batch) -> None:
        """It could not be written: what it counted is added to what came since."""
        with self._lock:
            self._fresh |= set(batch.beats)
            for delta in batch.traffic:
                key = (delta.listener_id, delta.amphora_id)
                sums = self._traffic.get(key)
                if sums is None:
                    self._traffic[key] = [
                        delta.bytes_in, delta.bytes_out, delta.active_connections,
                        delta.total_connections, delta.request_errors, int(delta.absolute),
                    ]  # fmt: skip
                elif not sums[5]:
                    sums[0] += delta.bytes_in
                    sums[1] += delta.bytes_out
                    sums[3] += delta.total_connections
                    sums[4] += delta.request_errors
                    sums[5] = int(delta.absolute)

    def written(self, batch: Batch, matches: Mapping[str, bool], now: float) -> None:
        """It is written. `matches` says of each report that was held against its rows whether its listeners were as many."""
        with self._lock:
            for id, beat in batch.beats.items():
                known = self._known.get(id)
                if known is None:
                    continue
                if id in matches:
                    known.matches, known.applied_at = matches[id], now
                    known.applied = _fingerprint(beat.heartbeat)

    def heard_at(self, amphora_id: str) -> float | None:
        """When a heartbeat of it came that counts, None for never."""
        known = self._known.get(amphora_id)
        return None if known is None or not known.matches else known.heard_at

    def miscounted(self, amphora_id: str) -> bool:
        """Whether its last report had a wrong number of listeners."""
        known = self._known.get(amphora_id)
        return known is not None and not known.matches

    def forget_others(self, wanted: Collection[str], before: float) -> None:
        """Forget those that are not wanted and were last heard before that time."""
        with self._lock:
            gone = {id for id, known in self._known.items() if id not in wanted and known.heard_at < before}
            for id in gone:
                del self._known[id]
            self._gauges = {key: value for key, value in self._gauges.items() if key[1] not in gone}


def _fingerprint(beat: Heartbeat) -> object:
    """What of a heartbeat decides statuses. Another order is another fingerprint, which costs one look more."""
    return (
        tuple((id, report.status) for id, report in beat.listeners.items()),
        tuple((id, pool.status, tuple(pool.members.items())) for id, pool in beat.pools.items()),
    )


def _delta(key: tuple[str, str], sums: list[int]) -> TrafficDelta:
    return TrafficDelta(
        listener_id=key[0],
        amphora_id=key[1],
        bytes_in=sums[0],
        bytes_out=sums[1],
        active_connections=sums[2],
        total_connections=sums[3],
        request_errors=sums[4],
        absolute=bool(sums[5]),
    )
