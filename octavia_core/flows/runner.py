"""The runner: takes a claimed operation as far as it goes now - to its end, to a park, or to the loss of its fence."""

from __future__ import annotations

import contextlib
import logging
from enum import StrEnum

import attrs

from octavia_core.domain.operation import Operation, OperationState
from octavia_core.errors import NotFound, OctaviaError, TransientError
from octavia_core.flows.catalogue import CLEANUP, flow_of
from octavia_core.flows.flow import Flow, derived_id, emit
from octavia_core.flows.ledger import LEASE_MARGIN
from octavia_core.flows.run import FlowChanged, Parked, Probe, Run, Undo, Unwind
from octavia_core.flows.world import World
from octavia_core.policy.retry import RetryPolicy
from octavia_core.ports.storage import Claim, FenceLost, Storage, Transaction

__all__ = ["STUCK", "Ending", "Runner"]

log = logging.getLogger("octavia_core.flows")

STUCK = "flow-changed"
"""What an operation "waits for" that this code cannot carry on: a person, or another version."""
STUCK_PAUSE = 30.0
"""Seconds until an operation that this code cannot carry on is looked at again."""
CLEANUP_RETRY = RetryPolicy(attempts=1_000_000, first=1.0, longest=300.0)
"""A cleanup is tried until it succeeds; `octavia-admin orphans` lists what it is about."""


class Ending(StrEnum):
    """How one run ended."""

    CLOSED = "closed"
    PARKED = "parked"
    LOST = "lost"
    """The fence was lost, or the database is away: somebody, perhaps we, will take it up after the lease."""


@attrs.frozen
class Runner:
    """Runs claimed operations. Thread-safe: it holds nothing of its own.

    Attributes:
        probe: called before each step, after its effect and after its entry; a test's hook, nothing in production.
    """

    storage: Storage
    world: World
    probe: Probe | None = None

    def run(self, operation: Operation, claim: Claim) -> Ending:
        """Carry the operation on. Raises nothing but programming errors of the runner itself."""
        try:
            self._run(operation, claim)
        except Parked as parked:
            return self._park(claim, parked)
        except FenceLost as lost:
            log.info("operation %s was taken over: %s", operation.id, lost)
            return Ending.LOST
        except TransientError as error:
            log.warning("operation %s: the database does not answer: %s", operation.id, error)
            return Ending.LOST
        except FlowChanged as error:
            log.error("%s", error)
            return self._park(claim, Parked(STUCK_PAUSE, {"kind": STUCK}, str(error), None))
        return Ending.CLOSED

    def _run(self, operation: Operation, claim: Claim) -> None:
        if operation.flow == CLEANUP:
            self._clean_up(operation, claim)
            return
        flow = flow_of(operation.flow, operation.flow_version)
        if flow is None:
            raise FlowChanged(
                f"operation {operation.id}: no flow {operation.flow} version {operation.flow_version} here"
            )
        run = self._new_run(operation, claim)
        try:
            flow.body(run, self.world)
        except Unwind:
            self._undo(flow, run)
            return
        if not run.closed:
            raise FlowChanged(f"flow {flow.name} ended without finish; its operation {operation.id} stays open")

    def _new_run(self, operation: Operation, claim: Claim, *, undoing: bool | None = None) -> Run:
        if self.probe is None:
            return Run(self.storage, claim, operation, self.world, undoing=undoing)
        return Run(self.storage, claim, operation, self.world, probe=self.probe, undoing=undoing)

    def _undo(self, flow: Flow, run: Run) -> None:
        operation = run.operation
        for undo in run.undos():
            run.undo_step(undo, lambda tx, left, why: self._leave_to_cleanup(tx, operation, left, why))
        present = self.storage.read(lambda tx: tx.operation(operation.id))
        reason = (present.error if present else None) or "unknown reason"
        ended = OperationState.CANCELLED if run.cancelled else OperationState.FAILED

        def close(tx: Transaction) -> None:
            try:
                flow.give_up(tx, operation, reason)
            except NotFound:  # what it was about has vanished meanwhile: there is no status left to move
                log.warning("operation %s: its load balancer %s is gone", operation.id, operation.load_balancer_id)
            tx.close_operation(operation.id, ended, reason)

        run.commit(close)

    def _leave_to_cleanup(self, tx: Transaction, operation: Operation, undo: Undo, why: str) -> None:
        cleanup = Operation(
            id=derived_id(operation.id, f"cleanup/{undo.path}"),
            flow=CLEANUP,
            arguments={
                "operation_id": operation.id,
                "path": undo.path,
                "why": why,
                "load_balancer_id": operation.load_balancer_id,
            },
            internal=True,
            actor="undo",
        )
        tx.add_operation(cleanup)
        text = f"undo of {undo.path} did not finish ({why}); operation {cleanup.id} goes on trying"
        emit(tx, operation, "cleanup.started", text)

    def _clean_up(self, operation: Operation, claim: Claim) -> None:
        """Replay the failed operation's flow up to its failure, to have its undo again, and do that one undo."""
        subject_id, path = str(operation.arguments["operation_id"]), str(operation.arguments["path"])
        subject = self.storage.read(lambda tx: tx.operation(subject_id))
        flow = flow_of(subject.flow, subject.flow_version) if subject else None
        if subject is None or flow is None:
            raise FlowChanged(
                f"cleanup {operation.id}: the operation {subject_id} it cleans up after is not known here"
            )
        replay = self._new_run(attrs.evolve(subject, undoing=True), attrs.evolve(claim), undoing=True)
        with contextlib.suppress(Unwind):
            flow.body(replay, self.world)
        undo = next((u for u in replay.undos() if u.path == path), None)
        pause = CLEANUP_RETRY.delay(operation.attempts)
        shared = _belongs_to_all(path) and subject.load_balancer_id is not None
        # from here on nobody begins a change of that load balancer until this is closed or parked
        later = self.storage.transaction(lambda tx: _slot(tx, operation, subject), claim=claim) if shared else None
        if isinstance(later, str):
            raise Parked(pause, None, later, None)
        try:
            if later is None and undo is not None and undo.work is not None:
                # the lease is that of the cleanup, the journal that of the operation it cleans up after
                self.storage.renew(claim, max(claim.lease, undo.limit + LEASE_MARGIN))
                undo.work()
        except FenceLost:
            raise
        except Exception as error:  # whatever an undo raises, it is tried again: nobody else would
            said = str(error) if isinstance(error, OctaviaError) else f"{type(error).__name__}: {error}"
            if shared:
                self.storage.transaction(lambda tx: tx.leave_slot(operation.id), claim=claim)
            raise Parked(pause, None, said, None) from error

        def close(tx: Transaction) -> None:
            tx.close_operation(operation.id, OperationState.SUCCEEDED)
            done = "is done" if later is None else f"is not needed any more: operation {later.id} went beyond it"
            emit(tx, operation, "cleanup.finished", f"undo of {path} of operation {subject_id} {done}")

        self.storage.transaction(close, claim=claim)

    def _park(self, claim: Claim, parked: Parked) -> Ending:
        try:
            self.storage.park(claim, wake_in=parked.wake_in, wait=parked.wait, error=parked.error, entry=parked.entry)
        except FenceLost:
            return Ending.LOST
        except TransientError as error:
            log.warning("operation %s cannot be parked: %s", claim.operation_id, error)
            return Ending.LOST
        return Ending.PARKED


def _belongs_to_all(path: str) -> bool:
    """Is it a step about what all operations of a load balancer share (its address, what its amphorae serve)? Everything else
    has names of its own operation, which nobody else uses.
    """
    return path.rpartition("/")[2] in ("reserve-vip", "push")


def _slot(tx: Transaction, operation: Operation, subject: Operation) -> Operation | str | None:
    """Take the load balancer's slot for a cleanup: None when it is taken and the undo is still wanted, the operation that
    went beyond it when it is not, or the words why it has to wait.
    """
    lb_id = str(subject.load_balancer_id)
    free = tx.take_slot(operation.id, lb_id)
    later = tx.later_operation(subject)
    if free and later is None:
        return None
    if free:
        tx.leave_slot(operation.id)
    if later is not None and later.state is OperationState.SUCCEEDED:
        return later
    return f"operation {later.id} is at work on load balancer {lb_id}" if later else f"load balancer {lb_id} is held"
