"""When the amphora that is replaced goes: the dead at once, one that may serve yet when the other one can follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavia_core.domain.vocabulary import AmphoraStatus
from tests.engine.outside import SCENARIOS, Engine, prepared

FAILOVER = next(scenario for scenario in SCENARIOS if scenario.name == "failover")


@pytest.fixture
def engine(tmp_path: Path):
    folder = tmp_path / "state"
    folder.mkdir()
    prepared(FAILOVER, folder)
    engine = Engine.open(folder)
    yield engine
    engine.close()


def the_old_at(engine: Engine, path: str) -> list[tuple[bool, AmphoraStatus]]:
    """Whether the server that is replaced is there, and its row's status, whenever the flow comes to that step."""
    (old,) = engine.storage.read(lambda tx: tx.amphorae())
    seen: list[tuple[bool, AmphoraStatus]] = []

    def look(point: str, at: str) -> None:
        if point == "before" and at == path:
            there = any(server.id == old.compute_id for server in engine.world.compute.list())
            row = engine.storage.read(lambda tx: tx.amphora(old.id))
            seen.append((there, row.status))

    engine.settle(probe=look)
    (serving,) = engine.storage.read(lambda tx: tx.amphorae())
    assert serving.id != old.id
    assert [server.name for server in engine.world.compute.list()] == [f"amphora-{serving.id}"]
    return seen


def test_one_that_may_serve_is_there_until_the_new_one_has_its_configuration(engine: Engine) -> None:
    assert the_old_at(engine, f"standalone/old-{old_id(engine)}/destroy") == [(True, AmphoraStatus.PENDING_DELETE)]


def test_it_counts_as_serving_while_the_new_one_is_told(engine: Engine) -> None:
    assert the_old_at(engine, "standalone/push") == [(True, AmphoraStatus.ALLOCATED)]


def test_where_one_alone_can_hold_the_vip_it_goes_before_the_new_one_is_told(engine: Engine) -> None:
    engine.world.network.one_holder = True
    assert the_old_at(engine, "standalone/push") == [(False, AmphoraStatus.PENDING_DELETE)]


def test_there_too_it_stays_until_the_agent_of_the_new_one_answers(engine: Engine) -> None:
    engine.world.network.one_holder = True
    assert the_old_at(engine, "standalone/agent-vip") == [(True, AmphoraStatus.ALLOCATED)]


def test_a_dead_one_goes_while_the_new_one_starts(engine: Engine) -> None:
    assert engine.storage.transaction(lambda tx: tx.declare_dead(old_id(engine)))
    assert the_old_at(engine, "standalone/agent-vip") == [(False, AmphoraStatus.PENDING_DELETE)]


def old_id(engine: Engine) -> str:
    (old,) = engine.storage.read(lambda tx: tx.amphorae())
    return old.id
