"""What a flow is, and what its functions share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from octavia_core.domain.operation import Event, Operation
from octavia_core.domain.vocabulary import Kind
from octavia_core.flows.run import Run
from octavia_core.flows.world import World
from octavia_core.ports.storage import Transaction

__all__ = ["Flow", "derived_id", "emit", "fail_subjects"]


@attrs.frozen(kw_only=True)
class Flow:
    """A way to make a wish come true.

    Attributes:
        name: stored with operations; stable.
        version: raised when step paths change; the previous version stays for one release.
        body: the plain function; it ends with `run.finish`.
        give_up: what the database says after everything was undone, in the transaction that closes the operation.
        words: what a person calls it.
    """

    name: str
    version: int = 1
    body: Callable[[Run, World], None]
    give_up: Callable[[Transaction, Operation, str], None]
    words: str


def derived_id(operation_id: str, what: str) -> str:
    """The id of something an operation makes: the same each time the flow is run, so that it can always be found."""
    return str(uuid.uuid5(uuid.UUID(operation_id), what))


def emit(tx: Transaction, operation: Operation, name: str, text: str, **data: Any) -> None:
    """Add an event about the operation's load balancer or amphora."""
    content: Mapping[str, Any] = data
    tx.emit(
        Event(
            name=name,
            text=text,
            load_balancer_id=operation.load_balancer_id,
            amphora_id=str(data.get("amphora_id") or "") or operation.amphora_id,
            operation_id=operation.id,
            data=content,
        )
    )


def fail_subjects(tx: Transaction, operation: Operation, reason: str) -> None:
    """The ordinary end of a failed wish: its subjects ERROR, everything else as it was, and an event with the reason."""
    assert operation.load_balancer_id is not None
    tx.settle_tree(operation.load_balancer_id, failed=operation.subjects, succeeded=False)
    whole = any(subject.kind is Kind.LOAD_BALANCER for subject in operation.subjects)
    name = "load_balancer.failed" if whole else "load_balancer.active"
    what = ", ".join(f"{s.kind.words} {s.id}" for s in operation.subjects)
    emit(tx, operation, "operation.failed", f"{operation.flow} failed, {what} is in ERROR: {reason}", reason=reason)
    emit(tx, operation, name, "in ERROR" if whole else "back to ACTIVE with the last good configuration", reason=reason)
