"""Every flow is killed at every step: before it, after its effect, after its entry.

The steps are enumerated by running each scenario once with a probe, so a new step joins by itself. The killed worker is
a process of its own; the judge of "nothing twice, nothing leaked" is the simulated cloud's own file. On SQLite that is
every step at every point; on servers, and for most of what happens to a pair, every step at one point, and at the
others in `nox -s full`. Of most scenarios with a spare these are the steps that are about it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from tests.engine.copies import BY_NAME, copy_of, copy_on, forget
from tests.engine.outside import SCENARIOS, Engine, Scenario, facts, points_of
from tests.engine.victims import Victims
from tests.support.databases import ready_on
from tests.support.servers import VARIABLE, server


@pytest.fixture(scope="module")
def on_server() -> Iterator[Callable[[str], str]]:
    """The URL of a database on a server of that kind, shared by the cases of this process one after the other.

    The kind is no parameter of the fixture: together with those of a test it would make a database for each test.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def url_of(kind: str) -> str:
            url = stack.enter_context(ready_on(server(kind)))
            stack.callback(forget, url)
            return url

        yield url_of


@functools.cache
def passed(name: str) -> tuple[tuple[str, str], ...]:
    """(point, path) of everything at which a run of the scenario passes, in its order; that of branches is anybody's.

    Found once in a run of the tests: one of its processes does it for all.
    """
    home = Path(os.environ[VARIABLE], "points")
    home.mkdir(exist_ok=True)
    known = home / name
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not known.exists():
            with tempfile.TemporaryDirectory() as scratch:
                known.write_text(json.dumps(points_of(BY_NAME[name], copy_of(name, Path(scratch) / "state"))))
    return tuple((point, path) for point, path in json.loads(known.read_text()))


@functools.cache
def all_passed() -> None:
    """Find them; every second process begins with the last, so that two do half of it each."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    for scenario in SCENARIOS[:: -1 if worker[-1] in "13579" else 1]:
        passed(scenario.name)


def points(name: str) -> tuple[tuple[str, str], ...]:
    """The same by path, so that every process that runs the tests has one order."""
    return tuple(sorted(passed(name), key=lambda one: (one[1], one[0])))


def one_each(name: str, turn: int) -> list[tuple[str, str]]:
    """One point of every step, another one from step to step."""
    by_path: dict[str, list[str]] = {}
    for point, path in points(name):
        by_path.setdefault(path, []).append(point)
    return [(found[(place + turn) % len(found)], path) for place, (path, found) in enumerate(by_path.items())]


THROUGHOUT = ("pair-create", "pair-replace-holder")
"""Scenarios of a pair that die at every point; the others repeat their steps, and die once in each."""
ON_SERVERS = ("pair-failover",)
"""Scenarios of a pair that die on servers too; the rest of a pair does there what it does anywhere."""
IN_A_CHANGE = ("failover-dead", "failover-dead-refused")
"""Scenarios of the long run alone: what a change does that finds its amphora dead dies at every point in the usual one."""


def usual(scenario: Scenario, turn: int, *, everywhere: bool) -> set[tuple[str, str]]:
    """The points at which a scenario dies in the usual run; at the others it does in the long one."""
    pair = scenario.name.startswith("pair-")
    if scenario.name in IN_A_CHANGE:
        return set()
    if scenario.name.startswith("spare"):
        found = one_each(scenario.name, turn)
        whole = everywhere and scenario.name in ("spare", "spare-replaces")
        return {one for one in found if whole or about_a_spare(*one)}
    if not everywhere:
        return set() if pair and scenario.name not in ON_SERVERS else set(one_each(scenario.name, turn))
    return set(one_each(scenario.name, turn) if pair and scenario.name not in THROUGHOUT else points(scenario.name))


def about_a_spare(_: str, path: str) -> bool:
    """Is it a step that is only there where there are spares?"""
    return path.rpartition("/")[2] in ("place", "spare-answers", "instead")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"scenario", "point", "path"} <= set(metafunc.fixturenames):
        return
    all_passed()
    cases = []
    if "kind" in metafunc.fixturenames:
        for turn, kind in enumerate(("mariadb", "postgresql")):
            for scenario in SCENARIOS:
                chosen = usual(scenario, turn, everywhere=False)
                for point, path in points(scenario.name):
                    marks = [pytest.mark.external, *([] if (point, path) in chosen else [pytest.mark.slow])]
                    name = f"{kind}-{scenario.name}-{point}-{path}"
                    cases.append(pytest.param(kind, scenario, point, path, marks=marks, id=name))
        metafunc.parametrize(("kind", "scenario", "point", "path"), cases)
        return
    for scenario in SCENARIOS:
        chosen = usual(scenario, 0, everywhere=True)
        for point, path in points(scenario.name):
            marks = [] if (point, path) in chosen else [pytest.mark.slow]
            cases.append(pytest.param(scenario, point, path, marks=marks, id=f"{scenario.name}-{point}-{path}"))
    metafunc.parametrize(("scenario", "point", "path"), cases)


def check(engine: Engine, scenario: Scenario) -> None:
    lb = engine.load_balancer()
    shown = facts(engine)
    assert lb.provisioning_status == scenario.status, shown
    assert [node.id for _, node in lb.nodes() if node.provisioning_status.pending] == [], shown
    assert engine.cloud.made_twice() == [], shown
    assert len(engine.world.compute.list()) == scenario.servers + scenario.spares, shown
    if lb.provisioning_status is not Provisioning.ERROR:
        assert engine.leaked() == [], shown
    operations = engine.storage.read(lambda tx: tx.operations())
    failed = [operation for operation in operations if operation.state is OperationState.FAILED]
    assert bool(failed) == scenario.name.endswith("-refused"), shown
    assert all(operation.error for operation in failed)
    assert engine.unpaired() == [], shown
    rows = engine.storage.read(lambda tx: tx.amphorae())
    assert len([a for a in rows if a.status is AmphoraStatus.ALLOCATED]) == scenario.servers, shown
    assert len([a for a in rows if a.status is AmphoraStatus.READY]) == scenario.spares, shown


def test_a_killed_worker_leaves_nothing_stuck_twice_or_leaked(
    scenario: Scenario, point: str, path: str, tmp_path: Path, killer: Victims
) -> None:
    folder = copy_of(scenario.name, tmp_path / "state")
    assert killer.kill(folder, point, path) == -signal.SIGKILL, f"the run never came to {point} {path}"
    engine = Engine.open(folder)
    try:
        engine.inherit()
        engine.settle()
        check(engine, scenario)
    finally:
        engine.close()


def test_the_same_on_servers(
    kind: str,
    scenario: Scenario,
    point: str,
    path: str,
    tmp_path: Path,
    killer: Victims,
    on_server: Callable[[str], str],
) -> None:
    folder = copy_on(scenario.name, on_server(kind), tmp_path / "state")
    assert killer.kill(folder, point, path) == -signal.SIGKILL, f"the run never came to {point} {path}"
    engine = Engine.open(folder)
    try:
        engine.inherit()
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
