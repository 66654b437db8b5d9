"""An update that is on its way to an amphora which is then killed; and every flow, replayed along its own journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.controller.accept import Asked
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.domain.wishes import NewMember
from octavia_core.flows.catalogue import FLOWS, flow_of
from octavia_core.flows.run import Run, Unwind
from octavia_core.ports.storage import Claim
from tests.engine.copies import copy_of, forget
from tests.engine.outside import DATABASE, LEASE, SCENARIOS, WISH, Engine, Scenario, declared_dead


@pytest.fixture
def engine(ready_database_url: str, tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / DATABASE).write_text(ready_database_url, encoding="utf-8")
    opened = Engine.open(tmp_path)
    yield opened
    opened.close()
    forget(ready_database_url)


def test_an_update_in_flight_to_an_amphora_that_is_killed_does_not_hold_up_its_failover(engine: Engine) -> None:
    engine.acceptor.create_load_balancer(WISH, Asked())
    engine.settle()
    (first,) = engine.storage.read(lambda tx: tx.amphorae())
    update = engine.acceptor.create_member(engine.load_balancer().pools[0].id, NewMember("192.0.2.99", 80), Asked())
    killed: list[str] = []

    def kill(name: str) -> None:
        if name == "amphora.push" and not killed:
            killed.append(first.id)
            engine.world.compute.destroy(f"amphora-{first.id}")
            declared_dead(engine, first)  # and its failover queues behind the update

    pushed = len(engine.cloud.calls("amphora.push"))
    engine.cloud.before = kill
    engine.settle()
    engine.cloud.before = None
    assert killed
    (second,) = engine.storage.read(lambda tx: tx.amphorae())
    assert second.id != first.id
    assert "192.0.2.99" in json.dumps(engine.world.amphora.configuration(second.id))
    to_the_dead = [c for c in engine.cloud.calls("amphora.push")[pushed:] if first.id in c.subject]
    assert len(to_the_dead) == 1, "it is not tried again what nobody can take"
    rows = engine.storage.read(lambda tx: tx.operations())
    assert {row.state for row in rows} == {OperationState.SUCCEEDED}
    assert update.id in {row.id for row in rows}
    assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
    assert len(engine.world.compute.list()) == 1
    assert engine.leaked() == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_flow_that_is_replayed_along_its_journal_does_and_stores_nothing(scenario: Scenario, tmp_path: Path) -> None:
    engine = Engine.open(copy_of(scenario.name, tmp_path / "state"))
    try:
        engine.settle()
        calls = len(engine.cloud.calls())
        rows = [row for row in engine.storage.read(lambda tx: tx.operations()) if (row.flow, row.flow_version) in FLOWS]
        assert rows
        for row in rows:
            flow = flow_of(row.flow, row.flow_version)
            assert flow is not None
            nobody = Claim(
                operation_id=row.id, holder="replayer", fence=row.fence + 1, lease=LEASE
            )  # may write nothing
            run = Run(engine.storage, nobody, row, engine.world)
            try:
                flow.body(run, engine.world)
            except Unwind:
                assert row.state is OperationState.FAILED
            else:
                assert row.state is OperationState.SUCCEEDED
                assert run.closed
        assert len(engine.cloud.calls()) == calls
    finally:
        engine.close()
