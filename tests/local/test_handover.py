"""A failover of an amphora that lives: its clients wait for the next one, and none of them is refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from octavia_local.processes import every_process
from tests.local_agent.rig import Load
from tests.main_job.stage import PATIENCE, Stage, behind, http, open_stage
from tests.support.calm import CALM
from tests.support.running import Echo

GIVEN = 0.3
"""Seconds that requests have to end when another amphora follows (docs/explanation/local-amphora.md)."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("stage") / "state", CALM) as stage:
        yield stage


def test_a_failover_refuses_nobody(stage: Stage) -> None:
    """Keeping on is not promised to requests that take long; these do not."""
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        (before,) = stage.controller.amphorae(lb.id)
        host, port = stage.at(lb)
        with Load(host, port) as load:
            for _ in range(2):
                stage.controller.failover_load_balancer(lb.id).wait(PATIENCE)
                load.wait_for(20)
        assert load.count.refused == 0
        failures = list(zip(load.lasted, load.failures, strict=True))
        assert [one for one in failures if one[0] < GIVEN] == []  # on a busy machine some take long
        (after,) = stage.controller.amphorae(lb.id)
        assert after.id != before.id
        assert not (stage.state / "amphorae" / before.id).exists()


def test_an_agent_that_stands_still_is_replaced_all_the_same(stage: Stage) -> None:
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        (before,) = stage.controller.amphorae(lb.id)
        os.kill(stage.agent_pid(before.id), signal.SIGSTOP)
        stage.controller.failover_load_balancer(lb.id).wait(PATIENCE)
        assert stage.served(lb, 2) == ["one", "one"]
        gone = str(stage.state / "amphorae" / before.id)
        assert [argv for _, _, argv in every_process() if any(word.startswith(gone) for word in argv)] == []
