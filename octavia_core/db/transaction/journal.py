"""Journals of operations, revisions of trees, and the outbox of events."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Row,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    null,
    select,
    true,
    union_all,
    update,
)

from octavia_core.db.clock import db_now
from octavia_core.db.dialects import incoming, insert_into, on_conflict
from octavia_core.db.prepared import Prepared, Wire
from octavia_core.db.tables.own import oc_event, oc_event_cursor, oc_journal, oc_meta, oc_revision
from octavia_core.db.tables.seeds import EVENT_COUNTER
from octavia_core.db.transaction.session import Session, chunks, fit, from_text, to_text
from octavia_core.db.trees import text_of
from octavia_core.domain.operation import EntryKind, Event, JournalEntry, Outcome
from octavia_core.domain.tree import LoadBalancer
from octavia_core.errors import NotFound
from octavia_core.ports.storage import Revision

__all__ = ["Events", "Journal", "Revisions"]

_KEPT = 20
"""Revisions of one load balancer that are kept, besides the last good one."""


class Journal(Session):
    """One row for each step of an operation."""

    def journal(self, operation_id: str) -> Sequence[JournalEntry]:
        """All entries, in the order in which they were first written."""
        query = select(oc_journal).where(oc_journal.c.operation_id == operation_id).order_by(oc_journal.c.sequence)
        return [_entry(row) for row in self.rows(query)]

    def write_journal(self, entry: JournalEntry) -> None:
        """Insert or replace, in one statement; the next sequence is counted in it, and kept when the row is there."""
        parameters = {f"b_{name}": value for name, value in _journal_row(entry).items()}
        self.write(_journal_write(self.dialect), {**parameters, "b_over": entry.outcome is not Outcome.INTENT})

    def write_entries(self, entries: Sequence[JournalEntry]) -> None:
        """Several, whose sequences the holder of the operation has counted, in one statement; the last of a path counts."""
        last = list({(entry.operation_id, entry.path): entry for entry in entries}.values())
        for some in chunks(last, 20):
            parameters: dict[str, Any] = {}
            for place, entry in enumerate(some):
                row = _journal_row(entry) | {"sequence": entry.sequence, "over": entry.outcome is not Outcome.INTENT}
                parameters |= {f"j_{name}_{place}": value for name, value in row.items()}
            self.write(_journal_batch(self.dialect, len(some)), parameters)


def _journal_row(entry: JournalEntry) -> dict[str, Any]:
    return fit(
        oc_journal,
        {
            "operation_id": entry.operation_id,
            "path": entry.path,
            "kind": entry.kind,
            "outcome": entry.outcome,
            "entry_key": to_text(entry.key),
            "result": to_text(entry.result),
            "error": to_text(entry.error),
            "attempts": entry.attempts,
        },
    )


@functools.cache
def _journal_batch(dialect: str, count: int) -> Prepared:
    """The same for so many entries at once; built once for each number."""
    of = oc_journal.c
    given = ("operation_id", "path", "kind", "outcome", "entry_key", "result", "error", "attempts", "sequence")
    several = []
    for place in range(count):
        values: dict[str, Any] = {name: bindparam(f"j_{name}_{place}", type_=of[name].type) for name in given}
        over = bindparam(f"j_over_{place}", type_=Boolean())
        several.append(values | {"started_at": db_now(), "finished_at": case((over, db_now()), else_=null())})
    statement = insert_into(dialect, oc_journal).values(several[0] if count == 1 else several)
    new = incoming(dialect, statement)
    return Prepared(on_conflict(dialect, statement, ["operation_id", "path"], {name: new[name] for name in _REPLACED}))


_REPLACED = ("kind", "outcome", "entry_key", "result", "error", "attempts", "finished_at")


@functools.cache
def _journal_write(dialect: str) -> Prepared:
    """Building it takes longer than running it, so it is built once."""
    of = oc_journal.c
    given = ("operation_id", "path", "kind", "outcome", "entry_key", "result", "error", "attempts")
    values: dict[str, Any] = {name: bindparam(f"b_{name}", type_=of[name].type) for name in given}
    last = select(func.coalesce(func.max(of.sequence), 0)).where(of.operation_id == values["operation_id"])
    values["sequence"] = last.scalar_subquery() + 1
    values["started_at"] = db_now()
    values["finished_at"] = case((bindparam("b_over", type_=Boolean()), db_now()), else_=null())
    source = select(*values.values()).where(true())  # SQLite wants a WHERE before ON CONFLICT
    statement = insert_into(dialect, oc_journal).from_select(list(values), source)
    new = incoming(dialect, statement)
    return Prepared(on_conflict(dialect, statement, ["operation_id", "path"], {name: new[name] for name in _REPLACED}))


def _entry(row: Row[Any]) -> JournalEntry:
    return JournalEntry(
        operation_id=row.operation_id,
        path=row.path,
        kind=EntryKind(row.kind),
        outcome=Outcome(row.outcome),
        key=from_text(row.entry_key),
        result=from_text(row.result),
        error=from_text(row.error),
        sequence=row.sequence,
        started_at=row.started_at,
        finished_at=row.finished_at,
        attempts=row.attempts,
    )


_OR = oc_revision.c
_MINE = _OR.load_balancer_id == bindparam("b_lb", type_=_OR.load_balancer_id.type)
_NUMBER = _OR.number == bindparam("b_number", type_=_OR.number.type)
_BY = _OR.operation_id == bindparam("b_operation", type_=_OR.operation_id.type)
_STORED = Prepared(
    select(
        select(_OR.number).where(_BY).scalar_subquery().label("stored"),
        select(func.max(_OR.number)).where(_MINE).scalar_subquery().label("newest"),
    )
)
_REVISION = Prepared(select(oc_revision).where(_MINE, _NUMBER))
_LAST_GOOD = Prepared(select(oc_revision).where(_MINE, _OR.good).order_by(_OR.number.desc()).limit(literal_column("1")))
_MARK_GOOD = Prepared(update(oc_revision).where(_MINE, _NUMBER).values(good=true()))
_NEWEST = Prepared(
    select(
        select(func.max(_OR.number)).where(_MINE).scalar_subquery().label("newest"),
        select(func.max(_OR.number)).where(_MINE, _OR.good).scalar_subquery().label("good"),
    )
)
_DROP_OLD = Prepared(
    delete(oc_revision).where(
        _MINE,
        _OR.number <= bindparam("b_upto", type_=_OR.number.type),
        _OR.number != bindparam("b_good", type_=_OR.number.type),
    )
)


class Revisions(Session):
    """Numbered trees."""

    def store_revision(self, load_balancer_id: str, tree: LoadBalancer, operation_id: str | None) -> int:
        """Store a tree as the next revision; the same operation twice returns the same number."""
        found = self.row(_STORED, b_operation=operation_id, b_lb=load_balancer_id)
        if found is not None and found.stored is not None:
            return int(found.stored)
        number = ((found.newest if found is not None else None) or 0) + 1
        text = text_of(tree)
        self._wire.trees.keep(text, tree)  # equal to what is read of it: the codec's law
        row = {
            "load_balancer_id": load_balancer_id,
            "number": number,
            "tree": text,
            "good": False,
            "operation_id": operation_id,
        }
        self.add_rows(oc_revision, [row], created_at=db_now())
        return number

    def revision(self, load_balancer_id: str, number: int) -> Revision | None:
        """One revision, or None."""
        found = self.row(_REVISION, b_lb=load_balancer_id, b_number=number)
        return None if found is None else self._revision(found)

    def last_good(self, load_balancer_id: str) -> Revision | None:
        """The newest revision that every amphora accepted, or None."""
        found = self.row(_LAST_GOOD, b_lb=load_balancer_id)
        return None if found is None else self._revision(found)

    def revisions(self, load_balancer_id: str) -> Sequence[Revision]:
        """All, newest first."""
        query = select(oc_revision).where(_OR.load_balancer_id == load_balancer_id).order_by(_OR.number.desc())
        return [self._revision(row) for row in self.rows(query)]

    def mark_good(self, load_balancer_id: str, number: int) -> None:
        """Every amphora accepted it; older ones beyond the last 20 are dropped, never the last good one."""
        if self.write(_MARK_GOOD, {"b_lb": load_balancer_id, "b_number": number}) == 0:
            raise NotFound("revision", f"{load_balancer_id}/{number}")
        found = self.row(_NEWEST, b_lb=load_balancer_id)
        if found is not None and found.newest > _KEPT:
            upto = found.newest - _KEPT
            self.write(_DROP_OLD, {"b_lb": load_balancer_id, "b_upto": upto, "b_good": found.good})

    def _revision(self, row: Row[Any]) -> Revision:
        return Revision(
            load_balancer_id=row.load_balancer_id,
            number=row.number,
            tree=self._wire.trees.of(row.tree),
            good=bool(row.good),
            operation_id=row.operation_id,
            created_at=row.created_at,
        )


@functools.cache
def _count_events() -> Prepared:
    counter, more = oc_meta.c.name == EVENT_COUNTER, bindparam("many", type_=BigInteger())
    return Prepared(update(oc_meta).where(counter).values(number=oc_meta.c.number + more))


@functools.cache
def _event_batch(count: int) -> Prepared:
    """Rows numbered from the counter, which the transaction has moved and holds; the last one bears its number."""
    of = oc_event.c
    names = ("name", "text", "load_balancer_id", "amphora_id", "operation_id", "data")
    rows = [
        select(
            oc_meta.c.number - bindparam(f"ev_back_{n}", type_=BigInteger()),
            *(bindparam(f"ev_{name}_{n}", type_=of[name].type).label(name) for name in names),
            db_now().label("at"),
        ).where(oc_meta.c.name == EVENT_COUNTER)
        for n in range(count)
    ]
    source = rows[0] if count == 1 else union_all(*rows)
    return Prepared(oc_event.insert().from_select(["sequence", *names, "at"], source))


@functools.cache
def _undelivered() -> Prepared:
    """All columns of so `many` events beyond the cursor of a `plugin`."""
    of, cursor = oc_event.c, oc_event_cursor.c
    given = select(cursor.sequence).where(cursor.plugin == bindparam("plugin", type_=cursor.plugin.type))
    query = select(oc_event).where(of.sequence > given.scalar_subquery()).order_by(of.sequence)
    return Prepared(query.limit(bindparam("many", type_=BigInteger())))


class Events(Session):
    """The outbox.

    Sequences come from one counter row, locked by the last statements of the transaction: so whoever has seen
    sequence n will never miss a smaller one that commits later, and the lock is held only for the commit.
    """

    def __init__(self, connection: Connection, *, writes: bool, wire: Wire) -> None:
        super().__init__(connection, writes=writes, wire=wire)
        self._unsent: list[Event] = []

    def emit(self, event: Event) -> None:
        """Add an event; it is written when the transaction ends, or when events are read in it."""
        self._may_write()
        self._unsent.append(event)

    def flush(self) -> None:
        """Write what was emitted, in that order."""
        events, self._unsent = self._unsent, []
        if not events:
            return
        self.write(_count_events(), {"many": len(events)})
        rows = [
            {
                "name": event.name,
                "text": event.text,
                "load_balancer_id": event.load_balancer_id,
                "amphora_id": event.amphora_id,
                "operation_id": event.operation_id,
                "data": to_text(event.data),
            }
            for event in events
        ]
        numbered = [{**fit(oc_event, row), "back": len(rows) - place} for place, row in enumerate(rows, 1)]
        for some in chunks(numbered, 50):
            parameters = {f"ev_{name}_{n}": value for n, row in enumerate(some) for name, value in row.items()}
            self.write(_event_batch(len(some)), parameters)

    def events(
        self,
        *,
        after: int = 0,
        load_balancer_id: str | None = None,
        operation_id: str | None = None,
        limit: int = 1000,
    ) -> Sequence[Event]:
        """Events with a sequence above `after`, oldest first."""
        self.flush()
        of = oc_event.c
        query = select(oc_event).where(of.sequence > after).order_by(of.sequence).limit(limit)
        if load_balancer_id is not None:
            query = query.where(of.load_balancer_id == load_balancer_id)
        if operation_id is not None:
            query = query.where(of.operation_id == operation_id)
        return [
            Event(**{**row._mapping, "data": from_text(row.data)})  # columns are named as the attributes are
            for row in self.rows(query)
        ]

    def events_named(self, name: str, load_balancer_id: str, *, after: int) -> Sequence[Event]:
        """Events of that name about a load balancer beyond a sequence; what is not written yet is left out, so no lock is taken."""
        of = oc_event.c
        query = select(oc_event).where(of.load_balancer_id == load_balancer_id, of.sequence > after, of.name == name)
        return [
            Event(**{**row._mapping, "data": from_text(row.data)})
            for row in self.rows(query.order_by(of.sequence).limit(1000))
        ]

    def last_event(self) -> int:
        """The sequence of the newest event that is written."""
        return int(self.value(select(oc_meta.c.number).where(oc_meta.c.name == EVENT_COUNTER)) or 0)

    def newest_event(self, names: Collection[str], *, amphora_id: str | None = None) -> Event | None:
        """The newest of these names, or None."""
        self.flush()
        of = oc_event.c
        query = select(oc_event).where(of.name.in_(sorted(names))).order_by(of.sequence.desc()).limit(1)
        if amphora_id is not None:
            query = query.where(of.amphora_id == amphora_id)
        row = self.row(query)
        return None if row is None else Event(**{**row._mapping, "data": from_text(row.data)})

    def newest_events(self, names: Collection[str], *, limit: int) -> Sequence[Event]:
        """Of these names, the newest first."""
        self.flush()
        of = oc_event.c
        query = select(oc_event).where(of.name.in_(sorted(names))).order_by(of.sequence.desc()).limit(limit)
        return [Event(**{**row._mapping, "data": from_text(row.data)}) for row in self.rows(query)]

    def undelivered(self, plugin: str, *, limit: int = 1000) -> Sequence[Event]:
        """Events beyond those that a plugin has been given, oldest first, in one query."""
        self.flush()
        return [
            Event(**{**row._mapping, "data": from_text(row.data)})
            for row in self.rows(_undelivered(), plugin=plugin, many=limit)
        ]

    def delivered(self, plugin: str) -> int:
        """The sequence up to which a plugin has been given events; one not seen before starts at the newest event."""
        found = self.value(select(oc_event_cursor.c.sequence).where(oc_event_cursor.c.plugin == plugin))
        if found is None:
            self.flush()
            found = self.value(select(oc_meta.c.number).where(oc_meta.c.name == EVENT_COUNTER))
        return int(found or 0)

    def set_delivered(self, plugin: str, sequence: int) -> None:
        """Remember it. It never moves back, so a second application spoils nothing."""
        changed = self.changed
        statement = insert_into(self.dialect, oc_event_cursor)
        new, old = incoming(self.dialect, statement).sequence, oc_event_cursor.c.sequence
        changes = {"sequence": case((old < new, new), else_=old)}
        row = fit(oc_event_cursor, {"plugin": plugin, "sequence": sequence})
        self.write(on_conflict(self.dialect, statement, ["plugin"], changes), row)
        self.changed = changed
