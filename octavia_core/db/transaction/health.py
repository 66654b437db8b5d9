"""Hearts and traffic, written in batches: a fixed number of statements, whatever the number of amphorae.

Our own row says more (microseconds, observer, the deadline of the never heard); upstream's amphora_health is kept in
step, so that upstream's health manager can take over, and is looked at beside ours, since it may have been at work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import case, delete, or_, select, update

from octavia_core.db.clock import db_now, db_utcnow
from octavia_core.db.dialects import incoming, insert_into, on_conflict
from octavia_core.db.tables.amphora import amphora, amphora_health
from octavia_core.db.tables.listener import listener_statistics
from octavia_core.db.tables.own import oc_liveness
from octavia_core.db.transaction.amphorae import naive_utc, seconds
from octavia_core.db.transaction.session import Session, chunks, fit
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.storage import Heard, Liveness, TrafficDelta

__all__ = ["Health"]

_MICRO = 1_000_000
_DELETED = str(AmphoraStatus.DELETED)
_COUNTERS = ("bytes_in", "bytes_out", "total_connections", "request_errors")


class Health(Session):
    """Liveness and counters."""

    def liveness(self, amphora_ids: Collection[str] | None = None) -> Sequence[Liveness]:
        """What is known of the hearts of all amphorae that are not DELETED, or of the given ones that are not."""
        query = (
            select(
                amphora.c.id,
                amphora.c.load_balancer_id,
                amphora.c.status,
                amphora.c.compute_id,
                amphora.c.created_at,
                oc_liveness.c.last_heard,
                oc_liveness.c.since,
                oc_liveness.c.declared_dead,
                oc_liveness.c.observer,
                oc_liveness.c.host,
                amphora.c.cached_zone,
                amphora.c.lb_network_ip,
                amphora_health.c.last_update,
                amphora_health.c.busy,
            )
            .outerjoin(oc_liveness, oc_liveness.c.amphora_id == amphora.c.id)
            .outerjoin(amphora_health, amphora_health.c.amphora_id == amphora.c.id)
            .where(amphora.c.status != _DELETED)
            .order_by(amphora.c.id)
        )
        if amphora_ids is None:
            return [_liveness(row) for row in self.rows(query)]
        return [
            _liveness(row)
            for ids in chunks(sorted(set(amphora_ids)))
            for row in self.rows(query.where(amphora.c.id.in_(ids)))
        ]

    def heard(self, batch: Sequence[Heard]) -> None:
        """Move last_heard forward. Amphorae that are unknown or DELETED are passed over: their rows must not come back."""
        latest: dict[str, Heard] = {}
        for each in batch:
            if each.amphora_id not in latest or latest[each.amphora_id].at < each.at:
                latest[each.amphora_id] = each
        known = self._not_deleted(latest)
        news = [latest[id] for id in sorted(known)]
        self._move_ours(news)
        self._move_upstreams(news)

    def _not_deleted(self, ids: Iterable[str]) -> set[str]:
        query = select(amphora.c.id).where(amphora.c.status != _DELETED)
        return {row.id for some in chunks(list(ids), 5_000) for row in self.rows(query.where(amphora.c.id.in_(some)))}

    def _move_ours(self, news: Sequence[Heard]) -> None:
        statement = insert_into(self.dialect, oc_liveness)
        new, old = incoming(self.dialect, statement), oc_liveness.c
        ahead = old.last_heard > db_now()  # written by a clock that was ahead: it must not stay for as long as that
        newer = or_(old.last_heard.is_(None), old.last_heard < new.last_heard, ahead)
        changes = {
            "sequence": case((newer, new.sequence), else_=old.sequence),
            "observer": case((newer, new.observer), else_=old.observer),
            "last_heard": case((newer, new.last_heard), else_=old.last_heard),  # the last: MariaDB would see it above
        }
        rows = [
            fit(
                oc_liveness,
                {
                    "amphora_id": each.amphora_id,
                    "last_heard": each.at,
                    "since": each.at,
                    "observer": each.observer,
                    "sequence": each.sequence,
                },
            )
            for each in news
        ]
        self.write_many(on_conflict(self.dialect, statement, ["amphora_id"], changes), rows)

    def _move_upstreams(self, news: Sequence[Heard]) -> None:
        statement = insert_into(self.dialect, amphora_health)
        new, old = incoming(self.dialect, statement).last_update, amphora_health.c.last_update
        changes = {"last_update": case((or_(old < new, old > db_utcnow()), new), else_=old)}
        rows = [
            {"amphora_id": each.amphora_id, "last_update": naive_utc(each.at / _MICRO), "busy": False} for each in news
        ]
        self.write_many(on_conflict(self.dialect, statement, ["amphora_id"], changes), rows)

    def declare_dead(self, amphora_id: str) -> bool:
        """True for exactly one caller; also marks upstream's row busy, so that its health manager leaves it alone."""
        alive = update(oc_liveness).where(oc_liveness.c.amphora_id == amphora_id, oc_liveness.c.declared_dead.is_(None))
        if self.write(alive.values(declared_dead=db_now())) == 0 and not self._declare_unheard(amphora_id):
            return False
        self.write(update(amphora_health).where(amphora_health.c.amphora_id == amphora_id).values(busy=True))
        return True

    def _declare_unheard(self, amphora_id: str) -> bool:
        """For an amphora of upstream's making, which has no row of ours yet; the key decides between two callers."""
        if self.row(select(oc_liveness.c.amphora_id).where(oc_liveness.c.amphora_id == amphora_id)) is not None:
            return False
        if not self._not_deleted([amphora_id]):
            return False
        self.add_rows(oc_liveness, [{"amphora_id": amphora_id}], since=db_now(), declared_dead=db_now())
        return True

    def forget_health(self, amphora_id: str) -> None:
        """Remove both rows. Absent is success."""
        for table in (oc_liveness, amphora_health):
            self.write(delete(table).where(table.c.amphora_id == amphora_id))

    def add_traffic(self, batch: Sequence[TrafficDelta]) -> None:
        """Add to listener_statistics; deltas of one listener on one amphora are added up first."""
        for absolute in (False, True):
            rows: dict[tuple[str, str], dict[str, Any]] = {}
            for each in batch:
                if each.absolute is absolute:
                    _gather(rows, each)
            self._store_traffic([rows[key] for key in sorted(rows)], absolute=absolute)

    def _store_traffic(self, rows: Sequence[dict[str, Any]], *, absolute: bool) -> None:
        statement = insert_into(self.dialect, listener_statistics)
        new, old = incoming(self.dialect, statement), listener_statistics.c
        changes = {name: new[name] if absolute else old[name] + new[name] for name in _COUNTERS}
        changes["active_connections"] = new.active_connections
        keys = ["listener_id", "amphora_id"]
        self.write_many(
            on_conflict(self.dialect, statement, keys, changes), [fit(listener_statistics, row) for row in rows]
        )


def _gather(rows: dict[tuple[str, str], dict[str, Any]], delta: TrafficDelta) -> None:
    row = rows.setdefault(
        (delta.listener_id, delta.amphora_id),
        {"listener_id": delta.listener_id, "amphora_id": delta.amphora_id, **dict.fromkeys(_COUNTERS, 0)},
    )
    for name in _COUNTERS:
        row[name] = getattr(delta, name) if delta.absolute else row[name] + getattr(delta, name)
    row["active_connections"] = delta.active_connections


def _liveness(row: Any) -> Liveness:
    mirrored = seconds(row.last_update)
    heard = [at for at in (row.last_heard, None if mirrored is None else mirrored * _MICRO) if at is not None]
    since = row.since if row.since is not None else (seconds(row.created_at) or 0) * _MICRO
    return Liveness(
        amphora_id=row.id,
        load_balancer_id=row.load_balancer_id,
        status=AmphoraStatus(row.status),
        compute_id=row.compute_id,
        last_heard=max(heard, default=None),
        since=since,
        declared_dead=row.declared_dead,
        busy=bool(row.busy),
        observer=row.observer,
        zone=row.cached_zone,
        address=row.lb_network_ip,
        host=row.host,
    )
