"""What happened to something, in order, with durations: journals and events put together."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from octavia_core.controller.explain import find
from octavia_core.controller.words import step_words
from octavia_core.domain.operation import EntryKind, Event, JournalEntry, Operation, Outcome
from octavia_core.domain.vocabulary import Kind
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Moment", "timeline"]

OPERATIONS = 50
"""How many operations of a load balancer are shown at most, the newest."""
EVENTS = 10_000


@attrs.frozen(kw_only=True)
class Moment:
    """One line of a timeline.

    Attributes:
        at: when it began, microseconds since the epoch, the database's clock.
        seconds: how long it took; None for an event, and while it is `open`.
        what: "event", or the kind of journal entry: "step", "record", "wait", "undo".
        text: for a person.
        name: the event's name or the step's path.
        open: it has begun and is not over.
    """

    at: int
    seconds: float | None = None
    what: str
    text: str
    name: str
    open: bool = False
    operation_id: str | None = None


def timeline(storage: Storage, text: str) -> tuple[Moment, ...]:
    """The moments of a load balancer (or of one that something belongs to), an amphora or an operation, oldest first.

    Raises:
        NotFound: there is no such thing.
        BadRequest: several things have that name.
    """

    def work(tx: Transaction) -> tuple[Moment, ...]:
        kind, id = find(tx, text)
        if kind is None:
            row = tx.operation(id)
            operations = [row] if row else []
            events = list(tx.events(operation_id=id, limit=EVENTS))
        else:
            owner = id if kind is Kind.LOAD_BALANCER else tx.owner(kind, id)
            operations = list(tx.operations(load_balancer_id=owner, limit=OPERATIONS)) if owner else []
            events = list(tx.events(load_balancer_id=owner, limit=EVENTS)) if owner else []
            if kind is Kind.AMPHORA:
                mine = {e.operation_id for e in events if e.amphora_id == id}
                events = [e for e in events if e.amphora_id == id]
                operations = [o for o in operations if o.amphora_id == id or o.id in mine]
        moments = [_of_event(event) for event in events]
        for operation in operations:
            moments += _of_journal(tx.journal(operation.id), operation)
        return tuple(sorted(moments, key=lambda m: m.at))

    return storage.read(work)


def _of_event(event: Event) -> Moment:
    return Moment(at=event.at, what="event", text=event.text, name=event.name, operation_id=event.operation_id)


def _of_journal(journal: Sequence[JournalEntry], operation: Operation) -> list[Moment]:
    moments = []
    ended = operation.created_at
    for entry in journal:
        # the row of a wait that came true at once is written when it is over: it began when the step before it ended
        began = min(entry.started_at, ended) if entry.kind is EntryKind.WAIT else entry.started_at
        moments.append(_of_entry(entry, operation, began))
        ended = entry.finished_at or ended
    return moments


def _of_entry(entry: JournalEntry, operation: Operation, began: int) -> Moment:
    text = step_words(entry.path)
    if entry.outcome is Outcome.FAILED and entry.error:
        text += f" failed: {entry.error.get('message', 'no reason recorded')}"
    elif entry.attempts:
        last = entry.error.get("message") if entry.error else None
        text += f" ({entry.attempts + 1} attempts{f'; the last failure: {last}' if last else ''})"
    over = entry.outcome is not Outcome.INTENT and entry.finished_at is not None
    return Moment(
        at=began,
        seconds=(entry.finished_at - began) / 1_000_000 if over and entry.finished_at else None,
        what=str(entry.kind),
        text=text,
        name=entry.path,
        open=not over and not operation.state.final,
        operation_id=operation.id,
    )
