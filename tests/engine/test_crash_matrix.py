"""Every flow is killed at every step: before it, after its effect, after its entry; and once more while it recovers.

The steps are enumerated by running each scenario once with a probe, so a new step joins by itself. The killed worker is
a process of its own; the judge of "nothing twice, nothing leaked" is the simulated cloud's own file.
"""

from __future__ import annotations

import functools
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from tests.engine.outside import SCENARIOS, Engine, Scenario, facts, points_of, prepared
from tests.engine.victims import Victims, victims

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@functools.cache
def template(name: str) -> Path:
    """A prepared folder of a scenario, made once per process."""
    directory = Path(tempfile.mkdtemp(prefix="octavia-matrix-"))
    prepared(BY_NAME[name], directory)
    return directory


def copy_of(name: str, to: Path) -> Path:
    shutil.copytree(template(name), to)
    return to


@pytest.fixture(scope="session")
def killer() -> Iterator[Victims]:
    with victims() as server:
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"scenario", "point", "path"} <= set(metafunc.fixturenames):
        cases = []
        for scenario in SCENARIOS:
            with tempfile.TemporaryDirectory() as scratch:
                folder = copy_of(scenario.name, Path(scratch) / "state")
                cases += [(scenario, point, path) for point, path in points_of(scenario, folder)]
        ids = [f"{scenario.name}-{point}-{path}" for scenario, point, path in cases]
        metafunc.parametrize(("scenario", "point", "path"), cases, ids=ids)


def check(engine: Engine, scenario: Scenario) -> None:
    lb = engine.load_balancer()
    shown = facts(engine)
    assert lb.provisioning_status == scenario.status, shown
    assert [node.id for _, node in lb.nodes() if node.provisioning_status.pending] == [], shown
    assert engine.cloud.made_twice() == [], shown
    assert len(engine.world.compute.list()) == scenario.servers, shown
    if lb.provisioning_status is not Provisioning.ERROR:
        assert engine.leaked() == [], shown
    operations = engine.storage.read(lambda tx: tx.operations())
    failed = [operation for operation in operations if operation.state is OperationState.FAILED]
    assert bool(failed) == scenario.name.endswith("-refused"), shown
    assert all(operation.error for operation in failed)
    rows = engine.storage.read(lambda tx: tx.amphorae())
    assert len([a for a in rows if a.status is AmphoraStatus.ALLOCATED]) == scenario.servers, shown


def test_a_killed_worker_leaves_nothing_stuck_twice_or_leaked(
    scenario: Scenario, point: str, path: str, tmp_path: Path, killer: Victims
) -> None:
    folder = copy_of(scenario.name, tmp_path / "state")
    assert killer.kill(folder, point, path) == -signal.SIGKILL, f"the run never came to {point} {path}"
    engine = Engine.open(folder)
    try:
        engine.settle()
        check(engine, scenario)
    finally:
        engine.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_without_a_crash_the_scenario_ends_as_it_says(scenario: Scenario, tmp_path: Path) -> None:
    engine = Engine.open(copy_of(scenario.name, tmp_path / "state"))
    try:
        engine.settle()
        check(engine, scenario)
    finally:
        engine.close()


def test_the_matrix_notices_a_step_that_is_done_twice(tmp_path: Path) -> None:
    """A judge that never convicts proves nothing: the outside is shown a server that came into being twice."""
    engine = Engine.open(copy_of("create", tmp_path / "state"))
    try:
        engine.settle()
        (server,) = engine.world.compute.list()
        engine.world.compute.destroy(server.id)
        again = engine.cloud.call("compute.boot", server.name, lambda things: things.put("server", server.name, {}))
        assert again is None
        assert engine.cloud.made_twice() == [("server", server.name)]
    finally:
        engine.close()
