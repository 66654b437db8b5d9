"""Cleanups beside other operations: of two that touch what a load balancer's operations share, one runs at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from octavia_core.controller.accept import Asked
from octavia_core.controller.handle import Operation as Handle
from octavia_core.controller.timeline import timeline
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import LoadBalancerBusy, Refused
from octavia_core.flows.catalogue import claimable
from octavia_core.flows.runner import Ending, Runner
from octavia_core.testing.outside import FaultKind
from tests.engine.copies import forget
from tests.engine.outside import DATABASE, LEASE, Engine
from tests.engine.test_leases import ended, left_to_cleanup

QUEUED = "ffffffff-1111-4111-8111-ffffffffffff"
"""Id of the failover that waits."""


@pytest.fixture
def engine(ready_database_url: str, tmp_path: Path) -> Iterator[Engine]:
    state = tmp_path / "state"
    state.mkdir()
    (state / DATABASE).write_text(ready_database_url, encoding="utf-8")
    opened = Engine.open(state)
    yield opened
    opened.close()
    forget(ready_database_url)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Engine]:
    """One on SQLite, for what no database decides."""
    opened = Engine.open(tmp_path)
    yield opened
    opened.close()


def row_of(engine: Engine, id: str) -> Operation:
    row = engine.storage.read(lambda tx: tx.operation(id))
    assert row is not None
    return row


def queued_failover(engine: Engine, lb: str) -> Operation:
    """As health stores one: it queues behind whatever holds the load balancer."""
    failover = Operation(id=QUEUED, flow="failover", load_balancer_id=lb, internal=True, actor="test")
    return engine.storage.transaction(lambda tx: tx.add_operation(failover))


def test_nobody_begins_a_change_while_a_cleanup_calls_and_everybody_may_afterwards(engine: Engine) -> None:
    engine.world.network.time_limit = 600.0  # the call is within its time, whatever holds it up
    lb = left_to_cleanup(engine)
    seen: dict[str, Any] = {}

    def cross(name: str) -> None:
        if name != "network.release_vip" or seen:
            return
        seen["call"] = name
        with pytest.raises(LoadBalancerBusy):
            engine.acceptor.failover_load_balancer(lb, Asked())
        queued_failover(engine, lb)
        seen["taken"] = engine.storage.claim("rival", claimable(), lease=LEASE, limit=8)

    engine.cloud.before = cross
    (cleanup,) = engine.open_operations()
    assert ended(engine, cleanup).state is OperationState.SUCCEEDED
    assert seen["taken"] == [], "what was stored meanwhile waits for the cleanup"
    assert row_of(engine, QUEUED).state is OperationState.QUEUED
    engine.settle()
    assert row_of(engine, QUEUED).state is OperationState.SUCCEEDED
    assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
    assert engine.leaked() == []


def test_a_cleanup_calls_nothing_while_an_operation_holds_the_load_balancer(engine: Engine) -> None:
    lb = left_to_cleanup(engine)
    (cleanup,) = engine.open_operations()
    engine.storage.wake([cleanup.id])
    ((mine, claim),) = engine.storage.claim("cleaner", claimable(), lease=60.0, limit=1)
    assert mine.id == cleanup.id
    failover = engine.acceptor.failover_load_balancer(lb, Asked())  # between the claim and the look
    before = len(engine.cloud.calls("network.release_vip"))
    assert Runner(engine.storage, engine.world).run(mine, claim) is Ending.PARKED
    assert len(engine.cloud.calls("network.release_vip")) == before
    assert failover.id in (row_of(engine, cleanup.id).error or "")
    assert ended(engine, failover).state is OperationState.SUCCEEDED
    engine.settle()
    assert len(engine.cloud.calls("network.release_vip")) == before, "it serves again: nothing is taken from it"
    assert engine.leaked() == []


def test_a_cleanup_that_fails_again_lets_others_have_the_load_balancer_meanwhile(plain: Engine) -> None:
    engine = plain
    lb = left_to_cleanup(engine)
    engine.cloud.fail("network.release_vip", kind=FaultKind.TRANSIENT, message="still away")
    (cleanup,) = engine.open_operations()
    while row_of(engine, cleanup.id).attempts == 0:
        engine.run("worker")
    assert row_of(engine, cleanup.id).state is OperationState.WAITING
    assert ended(engine, engine.acceptor.failover_load_balancer(lb, Asked())).state is OperationState.SUCCEEDED


def test_what_came_later_is_found_however_much_failed_since(engine: Engine) -> None:
    lb = left_to_cleanup(engine)
    (cleanup,) = engine.open_operations()
    subject = row_of(engine, cleanup.arguments["operation_id"])
    assert engine.storage.read(lambda tx: tx.later_operation(subject)) is None

    def later(state: OperationState, count: int) -> None:
        for _ in range(count):
            id = str(len(engine.storage.read(lambda tx: tx.operations(limit=1000)))).rjust(36, "0")
            made = Operation(id=id, flow="failover", load_balancer_id=lb, internal=True)
            engine.storage.transaction(lambda tx, made=made: tx.add_operation(made))
            if state.final:
                engine.storage.transaction(lambda tx, made=made: tx.close_operation(made.id, state))

    later(OperationState.SUCCEEDED, 1)
    later(OperationState.FAILED, 101)
    found = engine.storage.read(lambda tx: tx.later_operation(subject))
    assert found is not None
    assert found.state is OperationState.SUCCEEDED
    later(OperationState.QUEUED, 1)
    found = engine.storage.read(lambda tx: tx.later_operation(subject))
    assert found is not None
    assert found.state is OperationState.QUEUED, "one that is under way comes first"


def test_a_cleanup_cannot_be_cancelled_and_says_what_can_be_done(plain: Engine) -> None:
    engine = plain
    left_to_cleanup(engine)
    (cleanup,) = engine.open_operations()
    host = attrs.make_class("Host", ["storage", "clock"])(engine.storage, engine.world.clock)
    with pytest.raises(Refused, match=f"operation release {cleanup.id}"):
        Handle(host, cleanup).cancel()
    assert row_of(engine, cleanup.id).undoing is False
    engine.settle()
    assert row_of(engine, cleanup.id).state is OperationState.SUCCEEDED
    assert Handle(host, cleanup).cancel() is False, "it is over"


def test_a_success_has_no_error_and_its_timeline_keeps_what_passed(plain: Engine) -> None:
    engine = plain
    engine.cloud.fail("network.plug_vip", times=2, message="the network is being upgraded")
    operation = engine.acceptor.create_load_balancer(NewLoadBalancer(name="web"), Asked())
    row = ended(engine, operation)
    assert (row.state, row.error) == (OperationState.SUCCEEDED, None)
    (line,) = [m.text for m in timeline(engine.storage, operation.id) if "attempts" in m.text]
    assert "(3 attempts; the last failure: network.plug_vip: the network is being upgraded)" in line
