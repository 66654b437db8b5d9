"""An operation: something asked for, and how far it is. Times are microseconds since the epoch, of the database's clock."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from octavia_core.domain.vocabulary import Kind

__all__ = [
    "CANCELLED_PATH",
    "EntryKind",
    "Event",
    "JournalEntry",
    "Operation",
    "OperationState",
    "Outcome",
    "Subject",
    "cancelled_entry",
]


class OperationState(StrEnum):
    """Where an operation stands. The last three are final."""

    QUEUED = "QUEUED"
    """Stored; a worker may claim it when no other operation holds its load balancer."""
    RUNNING = "RUNNING"
    """A worker holds it under a lease."""
    WAITING = "WAITING"
    """Parked: it waits for something outside, or for its next attempt; no thread is spent on it."""
    UNDOING = "UNDOING"
    """A step failed for good; what was done is being undone."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """True once nothing more will happen."""
        return self in (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)


@attrs.frozen
class Subject:
    """The object that a wish is about; it turns ERROR when the wish fails."""

    kind: Kind
    id: str


@attrs.frozen(kw_only=True)
class Operation:
    """One row of the operation table.

    Attributes:
        flow: name of the flow that carries it out; `flow_version` picks the code.
        arguments: JSON values only, ids rather than objects, never a secret.
        subjects: what turns ERROR when it fails for good.
        internal: True for failover, repair, rotation: these queue behind a running operation instead of being refused.
        fence: grows with every claim; a transaction of an older holder is refused.
        lease_until: until when the holder may act, 0 when nobody holds it.
        wake_at: when a parked operation is looked at next, 0 at once.
        wait: the value it waits for, as JSON, or None.
        undoing: True once a step failed for good; survives parking.
    """

    id: str
    flow: str
    flow_version: int = 1
    load_balancer_id: str | None = None
    amphora_id: str | None = None
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    subjects: tuple[Subject, ...] = ()
    internal: bool = False
    actor: str = "system"
    request_id: str | None = None
    state: OperationState = OperationState.QUEUED
    holder: str | None = None
    fence: int = 0
    lease_until: int = 0
    wake_at: int = 0
    wait: Mapping[str, Any] | None = None
    undoing: bool = False
    attempts: int = 0
    error: str | None = None
    created_at: int = 0
    updated_at: int = 0
    finished_at: int | None = None


class EntryKind(StrEnum):
    """What a journal entry records."""

    STEP = "step"
    """An effect outside, with its key; undone by its undo."""
    RECORD = "record"
    """A change inside the database, committed together with the entry."""
    WAIT = "wait"
    UNDO = "undo"
    """The undoing of the step at the same path without the leading `undo/`."""


class Outcome(StrEnum):
    """How far a journal entry is."""

    INTENT = "intent"
    """About to be done, or being done; on resume it is done again with the same key."""
    DONE = "done"
    FAILED = "failed"
    """Failed for good; raised again at this path on resume."""


@attrs.frozen(kw_only=True)
class JournalEntry:
    """One step of one operation. `key`, `result` and `error` are JSON values; none is ever a secret."""

    operation_id: str
    path: str
    kind: EntryKind
    outcome: Outcome
    key: Any = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    sequence: int = 0
    started_at: int = 0
    finished_at: int | None = None
    attempts: int = 0


CANCELLED_PATH = "cancelled"
"""Path of the entry that says that somebody wanted the operation undone: it ends CANCELLED instead of FAILED."""


def cancelled_entry(operation_id: str, reason: str) -> JournalEntry:
    """The entry that a cancellation leaves in the journal; no flow has a step of that name."""
    return JournalEntry(
        operation_id=operation_id,
        path=CANCELLED_PATH,
        kind=EntryKind.RECORD,
        outcome=Outcome.DONE,
        result=reason,
    )


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened, with its cause: a row of the outbox, delivered to hooks at least once.

    Attributes:
        name: dotted and stable, `load_balancer.active`, `amphora.lost`, `member.error`.
        text: one sentence for a person.
        data: JSON values; never a secret.
        sequence: place in the outbox, 0 before it is stored.
    """

    name: str
    text: str
    at: int = 0
    sequence: int = 0
    load_balancer_id: str | None = None
    amphora_id: str | None = None
    operation_id: str | None = None
    data: Mapping[str, Any] = attrs.field(factory=dict)
