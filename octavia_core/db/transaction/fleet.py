"""What health managers share: one row for the governor, one for each manager, one for each failover to come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, delete, exists, func, select, update

from octavia_core.db.clock import db_now
from octavia_core.db.dialects import incoming, insert_into, on_conflict
from octavia_core.db.prepared import Prepared
from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import load_balancer, vip
from octavia_core.db.tables.own import (
    oc_comeback,
    oc_event,
    oc_governor,
    oc_liveness,
    oc_observer,
    oc_operation,
    oc_revision,
)
from octavia_core.db.transaction.operations import OPEN, operation_of
from octavia_core.db.transaction.session import Session, chunks, fit, from_text, to_text
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from octavia_core.ports.fleet import Comeback, Governing, Observer, Unserving

__all__ = ["Fleet"]

_FLEET = "failovers"
_LATELY = 50_000
"""Events that are looked through for what was lost lately."""
_MICRO = 1_000_000
_SETTLED = (str(Provisioning.ACTIVE), str(Provisioning.ERROR))
_UNDONE = (str(OperationState.FAILED), str(OperationState.CANCELLED))
_FIELDS = ("amphora_id", "load_balancer_id", "attempts", "next_at", "since", "reason", "operation_id")


class Fleet(Session):
    """Rows of oc_governor, oc_observer and oc_comeback."""

    def governing(self, *, hold: bool = False) -> Governing:
        """What holds now; with `hold` the row is locked by writing it, and made where there is none."""
        if hold:
            statement = insert_into(self.dialect, oc_governor).values(name=_FLEET)
            same = {"paused_at": oc_governor.c.paused_at}
            self.write(on_conflict(self.dialect, statement, ["name"], same))
        now = int(self.value(select(db_now())))
        row = self.row(select(oc_governor).where(oc_governor.c.name == _FLEET))
        if row is None:
            return Governing(now=now)
        return Governing(
            now=now,
            paused_by=row.paused_by,
            paused_reason=row.paused_reason,
            paused_at=row.paused_at,
            tokens=None if row.tokens is None else row.tokens / _MICRO,
            counted_at=row.counted_at or 0,
        )

    def set_pause(self, by: str | None, reason: str | None) -> None:
        """Pause, or let go."""
        self.governing(hold=True)
        values = fit(oc_governor, {"paused_by": by, "paused_reason": reason})
        at = None if by is None else db_now()
        self.write(update(oc_governor).where(oc_governor.c.name == _FLEET).values(**values, paused_at=at))

    def set_tokens(self, tokens: float) -> None:
        """Store what is left, counted now."""
        changed = update(oc_governor).where(oc_governor.c.name == _FLEET)
        self.write(changed.values(tokens=int(tokens * _MICRO), counted_at=db_now()))

    def observe(self, name: str, figures: Mapping[str, Any], *, keep: float) -> None:
        """Write the row of one health manager, and remove what is old."""
        statement = insert_into(self.dialect, oc_observer)
        new = incoming(self.dialect, statement)
        changes = {"written_at": new.written_at, "figures": new.figures}
        values = fit(oc_observer, {"name": name, "figures": to_text(dict(figures))})
        self.write(on_conflict(self.dialect, statement.values(**values, written_at=db_now()), ["name"], changes))
        self.write(delete(oc_observer).where(oc_observer.c.written_at < db_now() - round(keep * _MICRO)))

    def forget_observer(self, name: str) -> None:
        """Its row."""
        self.write(delete(oc_observer).where(oc_observer.c.name == name))

    def observers(self) -> Sequence[Observer]:
        """All, by name."""
        return [
            Observer(name=row.name, written_at=row.written_at, figures=from_text(row.figures))
            for row in self.rows(select(oc_observer).order_by(oc_observer.c.name))
        ]

    def requests(self, flow: str, prefix: str) -> Sequence[Operation]:
        """Those of the flow are found by the unique key of flow and request."""
        return [operation_of(row) for row in self.rows(_requested(flow, prefix))]

    def amphora_states(self) -> Mapping[str, int]:
        """By status, without the DELETED."""
        of = amphora.c
        query = (
            select(of.status, func.count().label("many"))
            .where(of.status != str(AmphoraStatus.DELETED))
            .group_by(of.status)
        )
        return {row.status: int(row.many) for row in self.rows(query.order_by(of.status))}

    def unserving(self, *, limit: int = 1000) -> Sequence[Unserving]:
        """Two indexed queries for who it is, and one for what was tried last for each load balancer."""
        rows = {row.id: row for query in (_in_error(limit), _declared(limit)) for row in self.rows(query)}
        found = sorted(rows.values(), key=lambda row: (row.dead, row.id))[:limit]
        last = self._last_failures({row.load_balancer_id for row in found})
        return [
            Unserving(
                amphora_id=row.id, load_balancer_id=row.load_balancer_id, **_failure(last.get(row.load_balancer_id))
            )
            for row in found
            if getattr(last.get(row.load_balancer_id), "flow", None) != "delete"
        ]

    def _last_failures(self, ids: Collection[str]) -> dict[str, Any]:
        of = oc_operation.c
        columns = (of.id, of.load_balancer_id, of.flow, of.actor, of.error, of.finished_at)
        found: dict[str, Any] = {}
        for some in chunks(sorted(ids)):
            ended = (of.load_balancer_id.in_(some), of.state.in_(_UNDONE), of.flow.in_(("failover", "delete")))
            query = select(*columns).where(*ended).order_by(of.created_at, of.id)
            found |= {row.load_balancer_id: row for row in self.rows(query)}
        return found

    def lost_lately(self, seconds: float) -> Mapping[str, int]:
        """By the events of that time; their number is bounded by the tokens."""
        of = oc_event.c
        newest = self.value(select(func.max(of.sequence))) or 0  # a range of the key: there is no index by time
        since = (of.sequence > newest - _LATELY, of.at >= db_now() - round(seconds * _MICRO))
        query = select(of.data).where(*since, of.name == "amphora.lost")
        return Counter(str(from_text(row.data).get("rule")) for row in self.rows(query))

    def comebacks(self, amphora_ids: Collection[str] | None = None) -> Sequence[Comeback]:
        """All, or those of the given amphorae, by `next_at`."""
        query = select(oc_comeback).order_by(oc_comeback.c.next_at, oc_comeback.c.amphora_id)
        if amphora_ids is None:
            return [_comeback(row) for row in self.rows(query)]
        rows = [
            row
            for ids in chunks(sorted(set(amphora_ids)))
            for row in self.rows(query.where(oc_comeback.c.amphora_id.in_(ids)))
        ]
        return sorted(map(_comeback, rows), key=lambda one: (one.next_at, one.amphora_id))

    def set_comeback(self, comeback: Comeback) -> None:
        """Insert or replace."""
        statement = insert_into(self.dialect, oc_comeback)
        new = incoming(self.dialect, statement)
        changes = {name: new[name] for name in _FIELDS if name != "amphora_id"}
        values = fit(oc_comeback, {name: getattr(comeback, name) for name in _FIELDS})
        self.write(on_conflict(self.dialect, statement.values(**values), ["amphora_id"], changes))

    def set_host(self, amphora_id: str, host: str) -> None:
        """Of the row of its heart."""
        self.write(_SET_HOST, {"b_id": amphora_id, "b_host": fit(oc_liveness, {"host": host})["host"]})

    def forget_comebacks(self, amphora_ids: Collection[str]) -> None:
        """Absent is success."""
        for ids in chunks(sorted(set(amphora_ids))):
            self.write(delete(oc_comeback).where(oc_comeback.c.amphora_id.in_(ids)))


_SET_HOST = Prepared(
    update(oc_liveness).where(oc_liveness.c.amphora_id == bindparam("b_id")).values(host=bindparam("b_host"))
)


def _requested(flow: str, prefix: str) -> Select[Any]:
    of = oc_operation.c
    return select(oc_operation).where(of.flow == flow, of.request_id.startswith(prefix, autoescape=True))


def _in_error(limit: int) -> Select[Any]:
    return _wanting(limit).where(amphora.c.status == str(AmphoraStatus.ERROR))


def _declared(limit: int) -> Select[Any]:
    alive = amphora.c.status != str(AmphoraStatus.DELETED)
    return _wanting(limit).where(oc_liveness.c.declared_dead.is_not(None), alive)


def _wanting(limit: int) -> Select[Any]:
    """Amphorae of load balancers that have served and that no operation is about. One of upstream's making has no revision of
    ours: that it has an address tells that it was built.
    """
    of, lb, heart = amphora.c, load_balancer.c, oc_liveness.c
    other, good = oc_operation.c, oc_revision.c
    busy = exists(select(other.id).where(other.load_balancer_id == of.load_balancer_id, other.state.in_(OPEN)))
    served = exists(select(good.number).where(good.load_balancer_id == of.load_balancer_id, good.good.is_(True)))
    ours = exists(select(other.id).where(other.load_balancer_id == of.load_balancer_id, other.flow == "create"))
    built = exists(
        select(vip.c.ip_address).where(vip.c.load_balancer_id == of.load_balancer_id, vip.c.ip_address != "")
    )
    dead = func.coalesce(heart.declared_dead, 0).label("dead")
    return (
        select(of.id, of.load_balancer_id, dead)
        .join_from(amphora, load_balancer, lb.id == of.load_balancer_id)
        .outerjoin(oc_liveness, heart.amphora_id == of.id)
        .where(lb.provisioning_status.in_(_SETTLED), served | (built & ~ours), ~busy)
        .order_by(dead, of.id)
        .limit(limit)
    )


def _failure(row: Any) -> dict[str, Any]:
    if row is None:
        return {}
    return {"operation_id": row.id, "actor": row.actor, "reason": row.error, "failed_at": row.finished_at}


def _comeback(row: Any) -> Comeback:
    return Comeback(**{name: getattr(row, name) for name in _FIELDS})
