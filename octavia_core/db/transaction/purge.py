"""Rows whose time is over: what was deleted long ago, and what tells of it."""

from __future__ import annotations

import datetime

from sqlalchemy import delete, func, select

from octavia_core.db.clock import db_now
from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.tables.own import oc_event, oc_event_cursor, oc_journal, oc_operation
from octavia_core.db.transaction.removal import Removal
from octavia_core.db.transaction.session import from_text
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning

__all__ = ["Purge"]

_FINAL = tuple(str(state) for state in OperationState if state.final)


class Purge(Removal):
    """The housekeeping of rows."""

    def purge(self, *, amphora_age: float, load_balancer_age: float, limit: int = 1000) -> int:
        """Remove what is DELETED or over for longer than that; see the port."""
        now = int(self.value(select(db_now())))
        old = _utc(now, amphora_age)
        age = func.coalesce(amphora.c.updated_at, amphora.c.created_at)
        query = select(amphora.c.id).where(amphora.c.status == str(AmphoraStatus.DELETED), age < old).limit(limit)
        removed = 0
        for row in self.rows(query):
            self.delete(Kind.AMPHORA, row.id)
            removed += 1
        old = _utc(now, load_balancer_age)
        age = func.coalesce(load_balancer.c.updated_at, load_balancer.c.created_at)
        over = load_balancer.c.provisioning_status == str(Provisioning.DELETED)
        for row in self.rows(select(load_balancer.c.id).where(over, age < old).limit(limit)):
            self.delete(Kind.LOAD_BALANCER, row.id)
            removed += 1
        return removed + self._tales(now - round(load_balancer_age * 1_000_000), limit)

    def _tales(self, before: int, limit: int) -> int:
        """Operations that ended, with their journals, and events that every plugin has been given."""
        of = oc_operation.c
        # a cleanup replays the journal of the operation that it cleans up after
        open_ = select(of.arguments).where(of.flow == "cleanup", of.state.not_in(_FINAL))
        needed = sorted({str(from_text(row.arguments).get("operation_id")) for row in self.rows(open_)})
        query = select(of.id).where(of.state.in_(_FINAL), of.finished_at < before, of.id.not_in(needed)).limit(limit)
        ids = [row.id for row in self.rows(query)]
        removed = 0
        if ids:
            self.write(delete(oc_journal).where(oc_journal.c.operation_id.in_(ids)))
            removed += self.write(delete(oc_operation).where(of.id.in_(ids)))
        given = self.value(select(func.min(oc_event_cursor.c.sequence)))
        old = select(oc_event.c.sequence).where(oc_event.c.at < before).order_by(oc_event.c.sequence).limit(limit)
        if given is not None:
            old = old.where(oc_event.c.sequence <= given)
        sequences = [row.sequence for row in self.rows(old)]
        if sequences:
            removed += self.write(delete(oc_event).where(oc_event.c.sequence.in_(sequences)))
        return removed


def _utc(now: int, age: float) -> datetime.datetime:
    """A moment as upstream's DATETIME columns hold it: UTC without a zone."""
    return datetime.datetime.fromtimestamp(now / 1_000_000 - age, datetime.UTC).replace(tzinfo=None)
