"""What a wish returns: a handle on its operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from octavia_core.domain.operation import Event, OperationState
from octavia_core.domain.operation import Operation as Row
from octavia_core.errors import NotFound, OperationFailed, Refused, TransientError
from octavia_core.flows.catalogue import CLEANUP
from octavia_core.ports.clock import Clock
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Operation", "WaitTimeout"]


class WaitTimeout(TransientError):
    """The operation is not over yet; it goes on."""

    def __init__(self, row: Row, seconds: float) -> None:
        super().__init__(
            f"operation {row.id} ({row.flow}) is still {row.state} after {seconds:g} s; run: octavia-admin why {row.id}"
        )
        self.row = row


class _Host(Protocol):
    """What a handle needs of its controller."""

    storage: Storage
    clock: Clock

    def follow(self, operation_id: str, seconds: float) -> None: ...


class Operation:
    """A wish under way. Thread-safe; holds no more than an id, so any number of handles may exist.

    Attributes:
        id: the operation's.
        load_balancer_id: what it is about.
        subject_id: the object that was asked for (a new listener's id, ...); the load balancer's when that is it.
    """

    def __init__(self, host: _Host, row: Row) -> None:
        self._host = host
        self.id = row.id
        self.load_balancer_id = row.load_balancer_id or ""
        self.subject_id = row.subjects[0].id if row.subjects else self.load_balancer_id

    @property
    def row(self) -> Row:
        """The operation as the database has it now."""
        row = self._host.storage.read(lambda tx: tx.operation(self.id))
        if row is None:
            raise NotFound("operation", self.id)
        return row

    @property
    def state(self) -> OperationState:
        """Where it stands now."""
        return self.row.state

    def wait(self, timeout: float | None = None, *, on_event: Callable[[Event], None] | None = None) -> Row:
        """Wait until it is over.

        Args:
            timeout: seconds, None for as long as it takes.
            on_event: called with each of its events as they come.

        Returns:
            The final row.

        Raises:
            OperationFailed: it ended without doing what was asked; the reason is in the message.
            WaitTimeout: the time is over; the operation goes on.
        """
        clock = self._host.clock
        deadline = None if timeout is None else clock.monotonic() + timeout
        seen = 0
        while True:
            row = self.row
            if on_event is not None:
                for event in self.events(after=seen):
                    seen = event.sequence
                    on_event(event)
            if row.state is OperationState.SUCCEEDED:
                return row
            if row.state.final:
                raise OperationFailed(row.id, row.error or str(row.state).lower())
            left = None if deadline is None else deadline - clock.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(row, timeout or 0.0)
            self._host.follow(self.id, POLL if left is None else min(POLL, left))

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """Its events so far, oldest first, those with a sequence above `after`."""
        yield from self._host.storage.read(lambda tx: tx.events(after=after, operation_id=self.id))

    def cancel(self, *, actor: str = "library") -> bool:
        """Have it undone: what it did is taken back, its subjects end in ERROR. False when it is over already.

        Raises:
            Refused: it cleans up after another one, so there is nothing to take back.
        """
        reason = f"cancelled by {actor}"

        def work(tx: Transaction) -> bool:
            row = tx.operation(self.id)
            if row is not None and row.flow == CLEANUP and not row.state.final:
                raise Refused(
                    f"operation {self.id} takes back a step of operation {row.arguments.get('operation_id')}, and goes on "
                    f"until that is done; to give it up and leave the rest to you: octavia-admin operation release {self.id}"
                )
            return tx.cancel_operation(self.id, reason)

        return self._host.storage.transaction(work)

    def __repr__(self) -> str:
        return f"<Operation {self.id} of load balancer {self.load_balancer_id}>"


POLL = 0.05
"""Seconds between two looks at an operation of another process; one of this process is noticed at once."""
