"""Parked operations: looked at in bulk, replayed only when their wait is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from octavia_core.controller.accept import Asked
from octavia_core.controller.waiter import Waiter
from octavia_core.controller.worker import Worker
from octavia_core.domain.operation import OperationState
from octavia_core.flows.runner import Ending, Runner
from octavia_core.testing.clock import VirtualClock
from tests.engine.outside import PATIENCE, WISH, Engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = Engine.open(tmp_path, boot_deadline=60.0)
    opened.cloud.boot_seconds = 3600.0
    opened.world.compute.poll_interval = 10.0  # as that of a cloud
    yield opened
    opened.close()


def rows(engine: Engine) -> list:
    return list(engine.storage.read(lambda tx: tx.operations()))


def test_many_waits_cost_one_question_and_no_claim(engine: Engine) -> None:
    for _ in range(7):
        engine.acceptor.create_load_balancer(WISH, Asked())
    while engine.run("parker") is not None:
        pass
    assert {row.state for row in rows(engine)} == {OperationState.WAITING}
    asked = len(engine.cloud.calls("compute.servers"))
    waiter = Waiter(engine.storage, engine.world, idle=1.0)
    assert waiter.look() == 7
    assert len(engine.cloud.calls("compute.servers")) == asked + 1
    assert engine.run("nobody is due") is None
    assert {row.attempts for row in rows(engine)} == {1}


def test_who_is_over_is_woken_and_nobody_else(engine: Engine) -> None:
    first = engine.acceptor.create_load_balancer(WISH, Asked())
    second = engine.acceptor.create_load_balancer(WISH, Asked())
    while engine.run("parker") is not None:
        pass
    (amphora,) = engine.storage.read(lambda tx: tx.amphorae(first.load_balancer_id))
    engine.world.compute.break_(f"amphora-{amphora.id}")
    Waiter(engine.storage, engine.world, idle=1.0).look()
    assert engine.run("undoer") is Ending.CLOSED
    assert engine.run("nobody else") is None
    states = {row.id: row.state for row in rows(engine)}
    assert states == {first.id: OperationState.FAILED, second.id: OperationState.WAITING}


def test_a_wait_that_does_not_come_true_ends_by_its_deadline(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path, boot_deadline=0.3)
    engine.cloud.boot_seconds = 3600.0
    engine.world.compute.poll_interval = 10.0
    try:
        engine.acceptor.create_load_balancer(WISH, Asked())
        engine.settle()
        (row,) = rows(engine)
        assert row.state is OperationState.FAILED
        assert "did not come true within 0.3 s" in (row.error or "")
        assert row.attempts == 2  # once to begin, once at the deadline
    finally:
        engine.close()


def test_a_worker_carries_on_by_itself_when_the_server_runs(engine: Engine) -> None:
    engine.world.compute.poll_interval = 0.6  # more than a run lingers, so it parks
    engine.cloud.clock = clock = VirtualClock()  # its server runs when it has been seen to wait for it
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    worker = Worker(Runner(engine.storage, engine.world), threads=1)

    def until(true: Callable[[], bool]) -> None:
        deadline = engine.world.clock.monotonic() + PATIENCE
        while not true():
            assert engine.world.clock.monotonic() < deadline
            engine.world.clock.sleep(0.02)

    worker.start()
    try:
        until(lambda: rows(engine)[0].state is OperationState.WAITING)
        looked = len(engine.cloud.calls("compute.servers"))
        until(lambda: len(engine.cloud.calls("compute.servers")) > looked)
        clock.advance(3600)
        until(lambda: rows(engine)[0].state.final)
    finally:
        assert worker.stop(PATIENCE)
    row = engine.storage.read(lambda tx: tx.operation(operation.id))
    assert row is not None
    assert row.state is OperationState.SUCCEEDED
    assert row.attempts == 2  # parked once, however often its server was looked at


def test_processes_take_turns(engine: Engine) -> None:
    assert engine.storage.turn("waits", 60.0)
    assert not engine.storage.turn("waits", 60.0)
    assert engine.storage.turn("sweep", 60.0)
    assert engine.storage.turn("waits", 0.0)
