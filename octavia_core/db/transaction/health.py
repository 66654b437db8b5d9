"""Hearts and traffic, written in batches: a fixed number of statements, whatever the number of amphorae.

Our own row says more (microseconds, observer, the deadline of the never heard); upstream's amphora_health is kept in
step, so that upstream's health manager can take over, and is looked at beside ours, since it may have been at work.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import BigInteger, Dialect, Table, bindparam, case, delete, func, or_, select, update

from octavia_core.db.clock import db_now, db_utcnow
from octavia_core.db.dialects import incoming, insert_into, on_conflict
from octavia_core.db.prepared import Prepared
from octavia_core.db.tables.amphora import amphora, amphora_health
from octavia_core.db.tables.listener import listener_statistics
from octavia_core.db.tables.own import oc_liveness, oc_mark
from octavia_core.db.transaction.amphorae import naive_utc
from octavia_core.db.transaction.session import Session, chunks, fit, is_plain
from octavia_core.domain.heartbeat import LARGEST_COUNTER, LARGEST_GAUGE
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.hearts import Heard, LastReport, Liveness, TrafficDelta

__all__ = ["SILENT", "Health"]

_MICRO = 1_000_000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - as upstream's columns have it: UTC without a zone
_STATUSES = {str(status): status for status in AmphoraStatus}
_DELETED = str(AmphoraStatus.DELETED)
_COUNTERS = ("bytes_in", "bytes_out", "total_connections", "request_errors")
_SHARE = 1000
"""Amphorae that one UPDATE moves."""
_WORTH_IT = 20
"""Less than that are cheaper with a parameter for each."""
_TRAFFIC_SHARE = 1000
"""Rows of one INSERT."""
_DIGITS = 20
"""Of the time that a stored report begins with: as many for each, so that text compares as time does."""

_HEARTS = (
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
)
_IDS = select(amphora.c.id).where(amphora.c.status != _DELETED)
_ALL = Prepared(_HEARTS.order_by(amphora.c.id))
_HEART = Prepared(_HEARTS.where(amphora.c.id == bindparam("one", type_=amphora.c.id.type)))
_REPORTS = (
    select(amphora.c.id, amphora.c.load_balancer_id, oc_liveness.c.last_heard, oc_liveness.c.report)
    .join(oc_liveness, oc_liveness.c.amphora_id == amphora.c.id)
    .where(amphora.c.status.not_in((_DELETED, str(AmphoraStatus.PENDING_DELETE))), oc_liveness.c.report.is_not(None))
    .order_by(amphora.c.id)
)
SILENT = select(oc_liveness.c.amphora_id).where(
    oc_liveness.c.last_heard < bindparam("before", type_=BigInteger()),
    func.coalesce(oc_liveness.c.declared_dead, 0) == 0,  # as plain IS NULL, SQLite would look through all that live
)
"""Those last heard before a time: what an index answers, whatever the number of the others."""


class Health(Session):
    """Liveness and counters."""

    def liveness(self, amphora_ids: Collection[str] | None = None) -> Sequence[Liveness]:
        """What is known of the hearts of all amphorae that are not DELETED, or of the given ones that are not."""
        if amphora_ids is None:
            return [_liveness(row) for row in self.rows(_ALL)]
        if len(amphora_ids) == 1:  # a push asks for one
            return [_liveness(row) for row in self.rows(_HEART, one=next(iter(amphora_ids)))]
        return [
            _liveness(row)
            for ids in chunks(sorted(set(amphora_ids)))
            for row in self.rows(_HEARTS.where(amphora.c.id.in_(ids)).order_by(amphora.c.id))
        ]

    def amphora_ids(self) -> Collection[str]:
        """See `octavia_core.ports.hearts.Hearts.amphora_ids`."""
        return {row[0] for row in self.rows(_IDS)}

    def silent(self, before: int) -> Sequence[Liveness]:
        """See `octavia_core.ports.storage.Transaction.silent`; the index on `last_heard` finds them."""
        ids = [row.amphora_id for row in self.rows(SILENT, before=before)]
        return self.liveness(ids) if ids else []

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

    def observed(self, amphora_ids: Collection[str]) -> Mapping[str, tuple[int, str]]:
        """See `octavia_core.ports.hearts.Hearts.observed`. Not what mirrors it for upstream: that is rounded."""
        of = oc_liveness.c
        query = select(of.amphora_id, of.last_heard, of.observer).where(
            of.last_heard.is_not(None), of.observer.is_not(None)
        )
        return {
            row.amphora_id: (row.last_heard, row.observer)
            for ids in chunks(sorted(set(amphora_ids)))
            for row in self.rows(query.where(of.amphora_id.in_(ids)))
        }

    def keep_reports(self, reports: Mapping[str, tuple[int, str]]) -> None:
        """See `octavia_core.ports.storage.Transaction.keep_reports`; the text begins with its time, which decides."""
        statement = insert_into(self.dialect, oc_liveness)
        new, old = incoming(self.dialect, statement).report, oc_liveness.c.report
        known = self._not_deleted(reports)
        rows = [
            {"amphora_id": id, "since": at, "report": f"{at:0{_DIGITS}d} {words}"}
            for id, (at, words) in sorted(reports.items())
            if id in known
        ]
        changes = {"report": case((or_(old.is_(None), old < new), new), else_=old)}
        self.write_many(on_conflict(self.dialect, statement, ["amphora_id"], changes), rows)

    def last_reports(self, load_balancer_ids: Collection[str]) -> Sequence[LastReport]:
        """See `octavia_core.ports.storage.Transaction.last_reports`."""
        return [
            LastReport(
                amphora_id=row.id,
                load_balancer_id=row.load_balancer_id,
                at=int(row.report[:_DIGITS]),
                last_heard=row.last_heard,
                words=row.report[_DIGITS + 1 :],
            )
            for ids in chunks(sorted(set(load_balancer_ids)))
            for row in self.rows(_REPORTS.where(amphora.c.load_balancer_id.in_(ids)))
        ]

    def heard_together(self, at: int, observer: str, amphora_ids: Collection[str]) -> None:
        """The same for many that were heard at one time, with a statement per table and thousand."""
        ids, rest = sorted(amphora_ids), list[str]()
        if not is_plain(ids):
            rest = [id for id in ids if " " in id or not is_plain([id])]
            ids = sorted(set(ids).difference(rest))
        if len(ids) < _WORTH_IT:
            rest += ids
        else:
            for some in chunks(ids, _SHARE):
                rest += self._move_together(some, at, observer)
        if rest:
            self.heard([Heard(amphora_id=id, at=at, sequence=None, observer=observer) for id in rest])

    def _move_together(self, ids: list[str], at: int, observer: str) -> Collection[str]:
        """Move the rows of all of them to the same time; those that have no rows yet."""
        words = _words(self._connection.dialect)
        missing: set[str] = set()
        ours = self._update(words.liveness, ids, (at, observer), at)
        if ours < len(ids):
            missing |= self._without_row(oc_liveness, ids)
        mirrored = naive_utc(at / _MICRO)
        upstreams = self._update(words.health, ids, (mirrored,), mirrored)
        if upstreams < len(ids):
            missing |= self._without_row(amphora_health, ids)
        return missing

    def _without_row(self, table: Table, ids: Sequence[str]) -> set[str]:
        query = select(table.c.amphora_id).where(table.c.amphora_id.in_(bindparam("ids", expanding=True)))
        return set(ids) - {row.amphora_id for row in self.rows(query, ids=list(ids))}

    def _update(self, statement: str, ids: list[str], values: tuple[Any, ...], at: Any) -> int:
        """Send one of `_Words`. Ids are plain, so MariaDB gets them as words of the statement: its driver takes a microsecond
        to quote each, and nothing is to be quoted. PostgreSQL gets one text, which it cuts itself.
        """
        self._may_write()
        match self.dialect:
            case "mysql":
                statement = statement.replace("(?)", "('" + "','".join(ids) + "')")
                parameters = (*values, at)
            case "postgresql":
                parameters = (*values, ",".join(ids), at)
            case _:  # always as many, so that one text serves all
                parameters = (*values, *ids, *[ids[-1]] * (_SHARE - len(ids)), at)
        matched = int(self._connection.exec_driver_sql(statement, parameters).rowcount)
        self.changed = self.changed or matched != 0
        return matched

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
        """Remove both rows, and what its agent had. Absent is success."""
        for table in (oc_liveness, oc_mark, amphora_health):
            self.write(delete(table).where(table.c.amphora_id == amphora_id))

    def add_traffic(self, batch: Sequence[TrafficDelta]) -> None:
        """Add to listener_statistics; deltas of one listener on one amphora are added up first."""
        for absolute in (False, True):
            rows: dict[tuple[str, str], list[Any]] = {}
            for each in batch:
                if each.absolute is absolute:
                    _gather(rows, each)
            if rows:
                self._store_traffic([rows[key] for key in sorted(rows)], absolute=absolute)

    def counted(self, amphora_ids: Collection[str]) -> Mapping[tuple[str, str], tuple[int, int, int, int]]:
        """See `octavia_core.ports.storage.Transaction.counted`."""
        query = select(listener_statistics)
        return {
            (row.listener_id, row.amphora_id): (
                int(row.bytes_in),
                int(row.bytes_out),
                int(row.total_connections),
                int(row.request_errors),
            )
            for ids in chunks(sorted(set(amphora_ids)))
            for row in self.rows(query.where(listener_statistics.c.amphora_id.in_(ids)))
        }

    def _store_traffic(self, rows: Sequence[list[Any]], *, absolute: bool) -> None:
        self._may_write()
        self.changed = True
        statement = _words(self._connection.dialect).traffic[absolute]
        if self.dialect == "sqlite":
            self._connection.exec_driver_sql(statement, [tuple(row) for row in rows])
            return
        for some in chunks(rows, _TRAFFIC_SHARE):
            if self.dialect == "postgresql":
                self._connection.exec_driver_sql(statement, tuple(list(column) for column in zip(*some, strict=True)))
            elif is_plain(id for row in some for id in row[:2]):  # see `_update`
                rows_of = [f"('{id}','{of}',{a},{b},{c},{d},{e})" for id, of, a, b, c, d, e in some]
                self._connection.exec_driver_sql(statement.replace("(?)", ",".join(rows_of)))
            else:
                marks = ",".join(["(%s,%s,%s,%s,%s,%s,%s)"] * len(some))
                self._connection.exec_driver_sql(
                    statement.replace("(?)", marks), tuple(value for row in some for value in row)
                )


def _gather(rows: dict[tuple[str, str], list[Any]], delta: TrafficDelta) -> None:
    sums = [delta.bytes_in, delta.bytes_out, delta.total_connections, delta.request_errors]
    row = rows.get((delta.listener_id, delta.amphora_id))
    if row is not None and not delta.absolute:
        sums = [number + more for number, more in zip(row[2:6], sums, strict=True)]
    if max(sums) >= LARGEST_COUNTER:
        sums = [min(number, LARGEST_COUNTER - 1) for number in sums]
    rows[delta.listener_id, delta.amphora_id] = [
        delta.listener_id, delta.amphora_id, *sums, min(delta.active_connections, LARGEST_GAUGE - 1)
    ]  # fmt: skip


@attrs.frozen
class _Words:
    """Statements as text, since SQLAlchemy takes longer over a thousand parameters than the database does.

    Attributes:
        liveness, health: move those of a list forward; rows that are newer stay, unless a clock was ahead.
        traffic: by whether the numbers are totals.
    """

    liveness: str
    health: str
    traffic: Mapping[bool, str]


@functools.cache
def _words(dialect: Dialect) -> _Words:
    name = "mysql" if dialect.name == "mariadb" else dialect.name
    mark = "?" if name == "sqlite" else "%s"
    several = {
        "mysql": "IN (?)",
        "postgresql": "= ANY(string_to_array(%s, ','))",
        "sqlite": f"IN ({','.join([mark] * _SHARE)})",
    }[name]
    now, utcnow = (str(element().compile(dialect=dialect)) for element in (db_now, db_utcnow))
    return _Words(
        f"UPDATE oc_liveness SET last_heard = {mark}, observer = {mark} WHERE amphora_id {several}"  # noqa: S608 - our own words
        f" AND (last_heard IS NULL OR last_heard <= {mark} OR last_heard > {now})",
        f"UPDATE amphora_health SET last_update = {mark} WHERE amphora_id {several}"  # noqa: S608 - our own words
        f" AND (last_update <= {mark} OR last_update > {utcnow})",
        {absolute: _traffic(name, absolute=absolute) for absolute in (False, True)},
    )


def _traffic(name: str, *, absolute: bool) -> str:
    new = "VALUES({})" if name == "mysql" else "excluded.{}"
    least = "MIN" if name == "sqlite" else "LEAST"
    changes = []
    for column in _COUNTERS:
        old, more = f"listener_statistics.{column}", new.format(column)
        added = f"{old} + {least}({more}, {LARGEST_COUNTER - 1} - {old})"  # a sum that is too large would be refused
        most = f"{'MAX' if name == 'sqlite' else 'GREATEST'}({old}, {more})"
        changes.append(f"{column} = {most if absolute else added}")
    changes.append(f"active_connections = {new.format('active_connections')}")
    columns = ", ".join(("listener_id", "amphora_id", *_COUNTERS, "active_connections"))
    source = {
        "sqlite": "VALUES (?,?,?,?,?,?,?)",
        "postgresql": "SELECT * FROM unnest(%s::varchar[],%s::varchar[],%s::bigint[],%s::bigint[],%s::bigint[],"
        "%s::bigint[],%s::integer[])",
    }.get(name, "VALUES (?)")
    conflict = "ON DUPLICATE KEY UPDATE" if name == "mysql" else "ON CONFLICT (listener_id, amphora_id) DO UPDATE SET"
    return f"INSERT INTO listener_statistics ({columns}) {source} {conflict} {', '.join(changes)}"


def _liveness(row: Any) -> Liveness:
    # as a tuple: of a hundred thousand rows, names would cost more than all the rest
    id, lb_id, status, compute_id, created_at, heard, since, dead, observer, host, zone, address, mirrored, busy = row
    if mirrored is not None:
        mirrored = _micros(mirrored)
        heard = mirrored if heard is None or heard < mirrored else heard
    return Liveness(
        amphora_id=id,
        load_balancer_id=lb_id,
        status=_STATUSES[status],
        compute_id=compute_id,
        last_heard=heard,
        since=since if since is not None else (0 if created_at is None else _micros(created_at)),
        declared_dead=dead,
        busy=bool(busy),
        observer=observer,
        zone=zone,
        address=address,
        host=host,
    )


def _micros(moment: datetime) -> int:
    """Microseconds since the epoch of one of upstream's times, as `seconds` has it: UTC without a zone, whole seconds."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * _MICRO
