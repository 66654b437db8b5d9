"""Accepting what upstream's API asks by message: a message becomes an operation, once, whatever its rows look like yet.

No status is moved here: the API has done that, or is about to (it sends before it commits). The operation's flow begins
by waiting for the rows (`octavia_core.flows.requests`).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

import attrs

from octavia_core.domain.operation import Event, Operation, Subject
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import BadRequest
from octavia_core.policy.requests import Request, request_of
from octavia_core.ports.requests import Message
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["ACTOR", "MessageAcceptor", "accept_request"]

log = logging.getLogger("octavia_core.requests")

ACTOR = "octavia-api"
"""Who asks, in operations and events."""


@attrs.frozen
class MessageAcceptor:
    """What a source of requests is given (`octavia_core.ports.requests.Accept`).

    Attributes:
        storage: where operations go.
        stored: called after each new operation, to wake a worker; it may be anything quick.
    """

    storage: Storage
    stored: Callable[[], None] = lambda: None

    def __call__(self, message: Message) -> None:
        """Store what the message asks for; one that makes no sense is said so and done with."""
        try:
            request = request_of(message.method, message.arguments)
        except BadRequest as error:
            log.error("a message is left aside: %s", error)
            return
        operation = accept_request(self.storage, request, unique_id=message.unique_id)
        if operation is not None:
            log.info("operation %s: %s by message %s", operation.id, request.method, message.unique_id)
            self.stored()


def accept_request(storage: Storage, request: Request, *, unique_id: str | None = None) -> Operation | None:
    """Store the operation that carries a request out; the same `unique_id` twice is one operation.

    Without `unique_id` a repetition is a second operation, which finds its rows settled and ends without work.

    Returns:
        The operation, or None when what the request belongs to is not there: it was deleted or never committed.

    Raises:
        TransientError: the database is away.
    """
    fresh = str(uuid.uuid4())

    def accept(tx: Transaction) -> Operation | None:
        lb_id = request.load_balancer_id
        if lb_id is None and request.parent is not None:
            lb_id = tx.owner(request.parent.kind, request.parent.id)
            if lb_id is None and not _alone(tx, request):
                log.warning(
                    "%s is left aside: %s %s is not there", request.method, request.parent.kind.words, request.parent.id
                )
                return None
        operation = _operation(request, fresh, lb_id, unique_id)
        stored = tx.add_operation(operation, proof=True)
        if stored.id == fresh:
            tx.emit(_accepted(request, stored))
        return stored

    return storage.transaction(accept)


def _alone(tx: Transaction, request: Request) -> bool:
    """An amphora that serves no load balancer can still be deleted or told its settings."""
    return request.flow != "failover" and request.amphora_id is not None and tx.amphora(request.amphora_id) is not None


def _operation(request: Request, id: str, lb_id: str | None, unique_id: str | None) -> Operation:
    whole = request.flow == "failover" and lb_id is not None
    return Operation(
        id=id,
        flow=request.flow,
        load_balancer_id=lb_id,
        amphora_id=request.amphora_id,
        arguments={
            "request": {"method": request.method, "action": request.action.value},
            "cascade": request.cascade,
        },
        # When a failover fails, upstream's readers expect the load balancer in ERROR.
        subjects=(Subject(Kind.LOAD_BALANCER, str(lb_id)),) if whole else request.subjects,
        internal=True,  # the API has locked the load balancer already: it queues behind what runs, and is not refused
        actor=ACTOR,
        request_id=f"rpc:{unique_id}" if unique_id else None,
    )


def _accepted(request: Request, operation: Operation) -> Event:
    what = ", ".join(f"{s.kind.words} {s.id}" for s in operation.subjects[:3])
    more = f" and {len(operation.subjects) - 3} more" if len(operation.subjects) > 3 else ""
    return Event(
        name="operation.accepted",
        text=f"{request.method}: {what}{more}, asked for by {operation.actor}",
        load_balancer_id=operation.load_balancer_id,
        amphora_id=operation.amphora_id,
        operation_id=operation.id,
    )
