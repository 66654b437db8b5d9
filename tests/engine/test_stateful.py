"""Random wishes, crashes, lost leases and errors against the simulator; what the lifecycle promises holds after each step."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavia_core.controller.accept import Asked
from octavia_core.domain.operation import OperationState, Outcome
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning
from octavia_core.domain.wishes import NewMember
from octavia_core.errors import BadRequest
from octavia_core.testing.outside import FaultKind
from tests.engine.outside import WISH, Engine

CALLS = ("compute.boot", "compute.destroy", "network.reserve_vip", "network.plug_vip", "network.release_vip")
PUSHES = ("amphora.push", "amphora.plug_vip", "amphora.info")
FAULTS = (FaultKind.TRANSIENT, FaultKind.PERMANENT)


class Crash(BaseException):
    """The run ends here, as when its process is killed: nothing after this point happens."""


class Life(RuleBasedStateMachine):
    """An engine of which anything may be asked, and to which anything may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="octavia-life-"))
        self.engine = Engine.open(self.folder, lease=0.05, step_attempts=3, undo_attempts=2)
        self.engine.lease = 0.05
        self.ports = 1000

    def teardown(self) -> None:
        try:
            self.engine.cloud.heal()
            self.engine.settle(patience=60.0)
            self._nothing_is_left_over()
        finally:
            self.engine.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def balancers(self) -> list[LoadBalancer]:
        rows = self.engine.storage.read(lambda tx: [tx.tree(each.id) for each in tx.load_balancers()])
        return [row for row in rows if row is not None]

    # -- wishes ----------------------------------------------------------------------------------------------------
    @precondition(lambda self: len(self.balancers()) < 3)
    @rule()
    def create(self) -> None:
        self.engine.acceptor.create_load_balancer(WISH, Asked())

    @rule(data=st.data(), what=st.sampled_from(["member", "delete", "failover", "unlist"]))
    def ask(self, data: st.DataObject, what: str) -> None:
        balancers = self.balancers()
        if not balancers:
            return
        lb = data.draw(st.sampled_from(balancers))
        self.ports += 1
        try:
            match what:
                case "member" if lb.pools:
                    wish = NewMember("192.0.2.9", self.ports)
                    self.engine.acceptor.create_member(lb.pools[0].id, wish, Asked())
                case "unlist" if lb.listeners:
                    self.engine.acceptor.delete(Kind.LISTENER, lb.listeners[0].id, Asked())
                case "delete":
                    self.engine.acceptor.delete_load_balancer(lb.id, Asked(), cascade=True)
                case "failover":
                    self.engine.acceptor.failover_load_balancer(lb.id, Asked())
        except BadRequest:
            pass  # busy, or its status forbids it: then nothing was stored, which the invariants see

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = self.engine.open_operations()
        if waiting:
            chosen = data.draw(st.sampled_from(waiting))
            self.engine.storage.transaction(lambda tx: tx.cancel_operation(chosen.id, "cancelled by chance"))

    # -- what happens ------------------------------------------------------------------------------------------------
    @rule(call=st.sampled_from(CALLS + PUSHES), kind=st.sampled_from(FAULTS), late=st.booleans())
    def trouble(self, call: str, kind: FaultKind, late: bool) -> None:
        self.engine.cloud.fail(call, kind=kind, late=late)

    @rule()
    def work(self) -> None:
        self.engine.run("worker")

    @rule(steps=st.integers(0, 12), point=st.sampled_from(["before", "effect", "entry"]))
    def crash(self, steps: int, point: str) -> None:
        left = [steps]

        def probe(at: str, _: str) -> None:
            if at == point:
                left[0] -= 1
                if left[0] < 0:
                    raise Crash

        try:
            self.engine.run("victim", probe)
        except Crash:
            self.engine.inherit()  # its lease ends

    @rule(steps=st.integers(0, 6))
    def lose_the_lease(self, steps: int) -> None:
        """Somebody takes over while the run stands still; the run goes on and must not get far."""
        left = [steps]

        def probe(at: str, _: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                self.engine.world.clock.sleep(0.12)
                self.engine.run("usurper")

        self.engine.run("sleeper", probe)

    # -- what always holds -------------------------------------------------------------------------------------------
    @invariant()
    def one_at_a_time(self) -> None:
        begun = [o for o in self.engine.open_operations() if o.state is not OperationState.QUEUED]
        ids = [operation.load_balancer_id for operation in begun]
        assert len(ids) == len(set(ids))

    @invariant()
    def whatever_is_pending_has_an_operation(self) -> None:
        about = {operation.load_balancer_id for operation in self.engine.open_operations()}
        for lb in self.balancers():
            pending = [node for _, node in lb.nodes() if node.provisioning_status.pending]
            if lb.provisioning_status.pending:
                assert lb.id in about, lb
            else:
                assert pending == [], lb

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert self.engine.cloud.made_twice() == []

    @invariant()
    def what_is_over_is_complete(self) -> None:
        for row in self.engine.storage.read(lambda tx: tx.operations()):
            if row.state in (OperationState.FAILED, OperationState.CANCELLED):
                assert row.error, row
            if row.state is OperationState.SUCCEEDED:
                entries = self.engine.storage.read(lambda tx, key=row.id: tx.journal(key))
                assert {entry.outcome for entry in entries} <= {Outcome.DONE}, entries

    def _nothing_is_left_over(self) -> None:
        rows = self.engine.storage.read(lambda tx: tx.amphorae())
        known = {f"amphora-{amphora.id}" for amphora in rows}
        servers = {server.name for server in self.engine.world.compute.list()}
        assert servers <= known
        for lb in self.balancers():
            assert not lb.provisioning_status.pending
            serving = [a for a in rows if a.load_balancer_id == lb.id and a.status is AmphoraStatus.ALLOCATED]
            if lb.provisioning_status is Provisioning.ACTIVE:
                assert len(serving) == 1
                assert f"amphora-{serving[0].id}" in servers


Life.TestCase.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase
