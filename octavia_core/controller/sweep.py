"""The sweep: requests that were lost, and operations that nothing is left of. What to do is `policy.sweep`'s."""

from __future__ import annotations

import logging
import uuid

from octavia_core.controller.duty import Duty
from octavia_core.domain.operation import Event, Operation
from octavia_core.errors import LoadBalancerBusy
from octavia_core.policy.sweep import GRACE, OWN_GRACE, PROVIDERS, Repair, SweepMode, repair
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["ACTOR", "SWEEP", "Sweep", "store_repair"]

log = logging.getLogger("octavia_core.sweep")

ACTOR = "sweep"
"""Who asks for the operations that it stores."""
SWEEP = "sweep"
"""Name of the duty."""


class Sweep:
    """Looks now and then. Not thread-safe; any number of hosts may run one, and they take turns.

    Args:
        storage: what it looks through.
        mode: whether it repairs or only says what it would do.
        every: seconds between two looks.
        grace: seconds that a row must have been as it is before it is touched; `own_grace` where our own accept made it.
        duty: the process's part in it; by itself it is nobody's deputy.
    """

    def __init__(
        self,
        storage: Storage,
        mode: SweepMode,
        *,
        every: float,
        grace: float = GRACE,
        own_grace: float = OWN_GRACE,
        duty: Duty | None = None,
    ) -> None:
        self._storage, self._mode, self._every = storage, mode, every
        self._grace, self._own_grace = grace, own_grace
        self._duty = duty or Duty(storage, SystemClock(), SWEEP, deputy=False)
        self._said: set[tuple[str, str]] = set()

    def tick(self) -> float:
        """Look once, unless another process did; seconds until the next look.

        Raises:
            TransientError: the database does not answer.
        """
        if self._mode is not SweepMode.OFF and self._duty.mine(self._every):
            self.look()
        return self._every

    def look(self) -> int:
        """Look now; how many repairs were stored (or would be), and operations ended."""
        lost = self._storage.read(lambda tx: tx.lost_requests(PROVIDERS, age=self._grace, own_age=self._own_grace))
        aimless = self._storage.read(lambda tx: tx.aimless_operations(age=self._grace))
        return sum(map(self._request_lost, lost)) + sum(map(self._subject_lost, aimless))

    def _request_lost(self, lb_id: str) -> bool:
        if self._mode is SweepMode.REPORT:
            found = self._storage.read(lambda tx: _needed(tx, lb_id))
            if found is not None:
                self._say(
                    lb_id, f"load balancer {lb_id} is pending and no operation is about it; if told to, {found.words}"
                )
            return found is not None
        try:
            stored = self._storage.transaction(lambda tx: self._repair(tx, lb_id))
        except LoadBalancerBusy:
            return False  # somebody else was faster
        return stored

    def _repair(self, tx: Transaction, lb_id: str) -> bool:
        still = tx.lost_requests(PROVIDERS, age=self._grace, own_age=self._own_grace)
        found = _needed(tx, lb_id) if lb_id in still else None
        if found is None:
            return False
        operation = store_repair(tx, lb_id, found, ACTOR)
        log.warning("load balancer %s: the request for it was lost; operation %s: %s", lb_id, operation.id, found.words)
        return True

    def _subject_lost(self, operation_id: str) -> bool:
        reason = "its load balancer is gone"
        if self._mode is SweepMode.REPORT:
            self._say(
                operation_id, f"operation {operation_id} is about a load balancer that is gone; it would be undone"
            )
            return True
        if self._storage.transaction(lambda tx: tx.cancel_operation(operation_id, reason, unless_held=True)):
            log.warning("operation %s is undone: %s", operation_id, reason)
            return True
        return False

    def _say(self, id: str, words: str) -> None:
        if (id, words) not in self._said:
            self._said.add((id, words))
            log.warning("%s", words)


def store_repair(tx: Transaction, lb_id: str, needed: Repair, actor: str) -> Operation:
    """Store the operation that a pending row lacks, and say so to those who listen.

    Raises:
        LoadBalancerBusy: an operation is about it.
    """
    operation = tx.add_operation(
        Operation(
            id=str(uuid.uuid4()),
            flow=needed.flow,
            load_balancer_id=lb_id,
            subjects=needed.subjects,
            actor=actor,
            arguments={"again": True},  # an attempt before this one may have left something
        )
    )
    tx.emit(
        Event(
            name="operation.request_lost",
            text=f"request lost: no operation was about it; {needed.words}",
            load_balancer_id=lb_id,
            operation_id=operation.id,
            data={"flow": needed.flow},
        )
    )
    return operation


def _needed(tx: Transaction, lb_id: str) -> Repair | None:
    tree = tx.tree(lb_id)
    return None if tree is None else repair(tree, tuple(tx.amphorae(lb_id)))
