"""What health managers share: one row for the governor, one for each manager, one for each failover to come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, exists, func, or_, select, update

from octavia_core.db.clock import db_now
from octavia_core.db.dialects import incoming, insert_into, on_conflict
from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.tables.own import (
    oc_comeback,
    oc_event,
    oc_governor,
    oc_liveness,
    oc_observer,
    oc_operation,
    oc_revision,
)
from octavia_core.db.transaction.operations import OPEN
from octavia_core.db.transaction.session import Session, chunks, fit, from_text, to_text
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from octavia_core.ports.fleet import Comeback, Governing, Observer, Unserving

__all__ = ["Fleet"]

_FLEET = "failovers"
_LATELY = 50_000
"""Events that are looked through for what was lost lately."""
_MICRO = 1_000_000
_SETTLED = (str(Provisioning.ACTIVE), str(Provisioning.ERROR))
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

    def observers(self) -> Sequence[Observer]:
        """All, by name."""
        return [
            Observer(name=row.name, written_at=row.written_at, figures=from_text(row.figures))
            for row in self.rows(select(oc_observer).order_by(oc_observer.c.name))
        ]

    def unserving(self, *, limit: int = 1000) -> Sequence[Unserving]:
        """Two queries: who it is, and why the last failover of each load balancer failed."""
        of, lb, heart = amphora.c, load_balancer.c, oc_liveness.c
        busy = exists(
            select(oc_operation.c.id).where(
                oc_operation.c.load_balancer_id == of.load_balancer_id, oc_operation.c.state.in_(OPEN)
            )
        )
        served = exists(
            select(oc_revision.c.number).where(
                oc_revision.c.load_balancer_id == of.load_balancer_id, oc_revision.c.good.is_(True)
            )
        )
        lost = or_(
            of.status == str(AmphoraStatus.ERROR),
            (heart.declared_dead.is_not(None)) & (of.status != str(AmphoraStatus.DELETED)),
        )
        query = (
            select(of.id, of.load_balancer_id)
            .join_from(amphora, load_balancer, lb.id == of.load_balancer_id)
            .outerjoin(oc_liveness, heart.amphora_id == of.id)
            .where(lost, lb.provisioning_status.in_(_SETTLED), served, ~busy)
            .order_by(func.coalesce(heart.declared_dead, 0), of.id)
            .limit(limit)
        )
        found = self.rows(query)
        reasons = self._failures({row.load_balancer_id for row in found})
        return [
            Unserving(
                amphora_id=row.id,
                load_balancer_id=row.load_balancer_id,
                reason=reasons.get(row.load_balancer_id, (None, None))[0],
                failed_at=reasons.get(row.load_balancer_id, (None, None))[1],
            )
            for row in found
        ]

    def _failures(self, ids: Collection[str]) -> dict[str, tuple[str | None, int | None]]:
        of = oc_operation.c
        found: dict[str, tuple[str | None, int | None]] = {}
        for some in chunks(sorted(ids)):
            failed = (of.load_balancer_id.in_(some), of.state == str(OperationState.FAILED), of.flow == "failover")
            query = select(of.load_balancer_id, of.error, of.finished_at).where(*failed).order_by(of.created_at)
            found |= {row.load_balancer_id: (row.error, row.finished_at) for row in self.rows(query)}
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
        self.write(
            update(oc_liveness).where(oc_liveness.c.amphora_id == amphora_id).values(fit(oc_liveness, {"host": host}))
        )

    def forget_comebacks(self, amphora_ids: Collection[str]) -> None:
        """Absent is success."""
        for ids in chunks(sorted(set(amphora_ids))):
            self.write(delete(oc_comeback).where(oc_comeback.c.amphora_id.in_(ids)))


def _comeback(row: Any) -> Comeback:
    return Comeback(**{name: getattr(row, name) for name in _FIELDS})
