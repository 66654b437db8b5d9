"""A lease outlasts the call that is made under it, whichever part of an operation makes it; cleanups know their place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.controller.accept import Asked
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.flows import waits
from octavia_core.flows.catalogue import CLEANUP, claimable
from octavia_core.testing.outside import FaultKind
from tests.engine.copies import BY_NAME
from tests.engine.outside import LEASE, Engine, prepared

LIMIT = 600.0
"""Seconds that a call may take: longer than a machine stands still."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    engine = Engine.open(folder)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("scenario", "call"),
    [
        ("create", "compute.servers"),
        ("create", "amphora.info"),
        ("create", "amphora.push"),
        ("pair-create", "amphora.push"),
        ("create-refused", "compute.destroy"),
        ("create-refused", "network.release_vip"),
    ],
)
def test_nobody_can_take_over_while_a_call_is_within_its_time(
    scenario: str, call: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "LOOK", LIMIT)
    prepared(BY_NAME[scenario], folder)
    engine = Engine.open(folder)
    slow, stolen = [], []

    def dawdle(name: str) -> None:
        if name == call and len(slow) < 3:
            slow.append(name)
            time.sleep(2 * LEASE)
            stolen.extend(engine.storage.claim("thief", claimable(), lease=LEASE, limit=8))

    for driver in (engine.world.compute, engine.world.network, engine.world.amphora):
        driver.time_limit = LIMIT
    try:
        engine.cloud.before = dawdle
        engine.settle()
        assert slow
        assert stolen == []
        assert engine.load_balancer().provisioning_status == BY_NAME[scenario].status
        assert engine.cloud.made_twice() == []
    finally:
        engine.close()


def ended(engine: Engine, operation: Operation) -> Operation:
    """The operation when it is over; the queue is worked off until then."""
    while True:
        row = engine.storage.read(lambda tx: tx.operation(operation.id))
        assert row is not None
        if row.state.final:
            return row
        engine.run("worker")


def left_to_cleanup(engine: Engine) -> str:
    """A creation that failed, and whose address could not be given back."""
    engine.cloud.fail("network.plug_vip", kind=FaultKind.PERMANENT, message="no such subnet")
    engine.cloud.fail("network.release_vip", kind=FaultKind.PERMANENT, message="the network is away")
    wish = NewLoadBalancer(name="web")
    operation = engine.acceptor.create_load_balancer(wish, Asked())
    assert ended(engine, operation).state is OperationState.FAILED
    assert [row.flow for row in engine.open_operations()] == [CLEANUP]
    return operation.load_balancer_id or ""


def test_a_cleanup_leaves_alone_what_serves_again(engine: Engine) -> None:
    id = left_to_cleanup(engine)
    failover = engine.acceptor.failover_load_balancer(id, Asked())
    failover = ended(engine, failover)
    assert failover.state is OperationState.SUCCEEDED, failover.error
    before = engine.cloud.leftovers()
    engine.settle()
    assert engine.cloud.leftovers() == before
    tree = engine.storage.read(lambda tx: tx.tree(id))
    assert tree is not None
    assert tree.provisioning_status is Provisioning.ACTIVE
    texts = [event.text for event in engine.storage.read(lambda tx: tx.events()) if event.name == "cleanup.finished"]
    assert len(texts) == 1


def test_a_cleanup_outlives_an_exception_that_nobody_foresaw(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    left_to_cleanup(engine)
    release, network = engine.world.network.release_vip, engine.world.network
    raised: list[str] = []

    def raises(*arguments: object) -> None:
        if not raised:
            raised.append("once")
            raise KeyError("a driver with a bug")
        release(*arguments)

    monkeypatch.setattr(network, "release_vip", raises)
    (cleanup,) = engine.open_operations()
    while not raised:
        engine.run("worker")
    parked = engine.storage.read(lambda tx: tx.operation(cleanup.id))
    assert parked is not None
    assert parked.state is OperationState.WAITING
    assert "KeyError" in (parked.error or "")
    engine.settle()
    assert engine.cloud.leftovers() == []


def test_what_a_cleanup_replays_is_not_purged(engine: Engine) -> None:
    left_to_cleanup(engine)
    engine.storage.transaction(lambda tx: tx.purge(amphora_age=0.0, load_balancer_age=-1.0))
    engine.settle()
    assert engine.cloud.leftovers() == []
