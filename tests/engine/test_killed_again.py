"""Whoever recovers is killed, too: at the same point, at the next one, with its whole family; then somebody else recovers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from octavia_core import Controller, NewLoadBalancer
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.flows.catalogue import FLOWS
from octavia_core.testing.outside import FaultKind
from tests.engine.copies import copy_of
from tests.engine.outside import SCENARIOS, Engine, Scenario
from tests.engine.test_crash_matrix import check, one_each, passed, points
from tests.engine.victims import Victims
from tests.explain.stage import PATIENCE, Stage, until

USUAL = ("create", "configure-refused", "delete-amphora")
"""Scenarios in which that happens in the usual run; in all of them it does in the long one."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" not in metafunc.fixturenames:
        return
    cases = []
    for scenario in SCENARIOS:
        chosen = one_each(scenario.name, 1) if scenario.name in USUAL else []
        for point, path in points(scenario.name):
            marks = [] if (point, path) in chosen else [pytest.mark.slow]
            cases.append(pytest.param(scenario, point, path, marks=marks, id=f"{scenario.name}-{point}-{path}"))
    metafunc.parametrize(("scenario", "point", "path"), cases)


def test_who_recovers_is_killed_where_the_first_was(
    scenario: Scenario, point: str, path: str, tmp_path: Path, killer: Victims
) -> None:
    """What was not recorded is done again, so the second one comes to the same point.

    Not when it was recorded, and not when what leads there is decided anew, by a look at an outside that the first has
    changed (a plug that is there already): then it ends in peace.
    """
    folder = copy_of(scenario.name, tmp_path / "state")
    known = passed(scenario.name)
    following = known[(known.index((point, path)) + 1) % len(known)]
    assert killer.kill(folder, point, path) == -signal.SIGKILL
    if point == "entry":  # it is recorded: the next one after it
        assert killer.kill(folder, *following) in (-signal.SIGKILL, 0)
    else:
        again = killer.kill(folder, point, path)
        assert again == -signal.SIGKILL or (again == 0 and scenario.name == "configure-network")
        assert killer.kill(folder, *following) in (-signal.SIGKILL, 0)
    engine = Engine.open(folder)
    try:
        engine.inherit()
        engine.settle()
        check(engine, scenario)
    finally:
        engine.close()


def test_every_flow_of_the_product_is_in_the_matrix(tmp_path: Path) -> None:
    run: set[tuple[str, int]] = set()
    for scenario in SCENARIOS:
        engine = Engine.open(copy_of(scenario.name, tmp_path / scenario.name))
        run |= {(o.flow, o.flow_version) for o in engine.storage.read(lambda tx: tx.operations())}
        engine.close()
    assert set(FLOWS) <= run


def family(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_whole_daemon_is_killed_while_it_recovers(ready_database_url: str, tmp_path: Path) -> None:
    """A worker dies in the middle; its supervisor and all its children die while another one takes over; a third ends it."""
    stage = Stage(tmp_path, ready_database_url)
    stage.make()
    with stage.client() as client:
        stage.cloud.fail("network.plug_vip", kind=FaultKind.KILL)
        stage.cloud.fail("amphora.plug_vip", kind=FaultKind.KILL, times=1_000_000)  # until all are dead
        operation = client.create_load_balancer(NewLoadBalancer(name="web"))
        with stage.worker() as first:
            until(lambda: stage.cloud.calls("amphora.plug_vip"), "one has died, and who recovered it, too")
            for pid in [first.pid, *family(first.pid)]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        stage.cloud.heal()
        with stage.worker():
            operation.wait(PATIENCE)
        assert operation.row.fence >= 3
        check_one(client, stage)


def check_one(client: Controller, stage: Stage) -> None:
    assert client.load_balancer("web").provisioning_status is Provisioning.ACTIVE
    assert stage.cloud.made_twice() == []
    assert [kind for kind, _ in stage.cloud.leftovers()].count("server") == 1
