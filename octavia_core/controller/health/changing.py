"""Amphorae that report a wrong number of listeners while an operation changes their load balancers: that is right until it is over."""

from __future__ import annotations

from collections.abc import Collection

from octavia_core.controller.health.memory import Memory
from octavia_core.domain.operation import OperationState, Subject
from octavia_core.domain.vocabulary import Kind
from octavia_core.ports.hearts import Liveness
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Changing"]

_OPEN = 1000
"""Open operations that are looked through."""
_KEPT = 3
"""Timeouts for which it is remembered when each was changed last."""


class Changing:
    """A report may have been held against the rows before the change began, and its writer may be late. For one thread.

    Args:
        memory: what was heard.
        timeout: microseconds of silence that are too long.
    """

    def __init__(self, storage: Storage, memory: Memory, timeout: int) -> None:
        self._storage, self._memory, self._timeout = storage, memory, timeout
        self._seen: dict[str, int] = {}

    def seen(self, amphora_id: str) -> int | None:
        """When its load balancer was last seen to be changed while it reported, microseconds; None for never or long ago."""
        return self._seen.get(amphora_id)

    def look(self, quiet: Collection[Liveness], now: int, mono: float) -> bool:
        """Look at those of these who report and are miscounted; whether any of their load balancers is being changed.

        Args:
            quiet: amphorae that are not heard.
            now: microseconds of the database's clock.
            mono: the same moment, monotonic.

        Raises:
            TransientError: the database is away.
        """
        self._seen = {id: at for id, at in self._seen.items() if 0 <= now - at <= _KEPT * self._timeout}
        odd = [heart for heart in quiet if heart.load_balancer_id and self._reports(heart.amphora_id, mono)]
        if not odd:
            return False
        owners = {Subject(Kind.LOAD_BALANCER, str(heart.load_balancer_id)) for heart in odd}
        changed = self._storage.read(lambda tx: _changing(tx, owners))
        found = {heart.amphora_id: now for heart in odd if heart.load_balancer_id in changed}
        self._seen |= found
        return bool(found)

    def _reports(self, amphora_id: str, mono: float) -> bool:
        """Whether it does, and what it says is not counted."""
        said = self._memory.said_at(amphora_id) if self._memory.miscounted(amphora_id) else None
        return said is not None and (mono - said) * 1_000_000 <= self._timeout


def _changing(tx: Transaction, owners: Collection[Subject]) -> set[str | None]:
    """Load balancers, these among them, that an operation changes now."""
    running: set[str | None] = {
        one.load_balancer_id
        for one in tx.operations(open_only=True, limit=_OPEN)
        if one.flow == "configure" and one.state is OperationState.RUNNING  # the governor's own moves no status
    }
    return running | {owner.id for owner, at in tx.provisioning(owners).items() if at.pending}
