"""A spare becomes one of a pair with real keepalived: its agent was told by its boot files that it stands alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.domain.vocabulary import Role
from tests.main_job.stage import PATIENCE, Stage, leftovers, until
from tests.namespaces.pair import Client, Pair, pair_on
from tests.namespaces.rig import open_stage_inside
from tests.support.system import require

pytestmark = pytest.mark.external


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    require("keepalived")
    with open_stage_inside(tmp_path / "state") as stage:
        waiting = {spare(stage) for _ in range(2)}
        with pair_on(stage) as pair:
            assert {amphora.id for amphora in pair.amphorae()} == waiting
            yield pair
            stage.drop(pair.lb.id)
        assert leftovers(stage) == []


def spare(stage: Stage) -> str:
    operation = stage.controller.create_spare()
    operation.wait(PATIENCE)
    return str(operation.subject_id)


def test_two_spares_are_a_pair_and_a_third_takes_the_place_of_the_master(pair: Pair) -> None:
    third = spare(pair.stage)
    master = pair.settled()
    with Client(pair.vip) as client:
        client.wait_for(20)
        os.kill(pair.agent(master), signal.SIGKILL)
        pair.healed(master.id)
        client.wait_for(20)
    assert third in {amphora.id for amphora in pair.amphorae()}
    assert {amphora.role for amphora in pair.amphorae()} == {Role.MASTER, Role.BACKUP}
    until(lambda: all(pair.children(a, "keepalived") for a in pair.amphorae()), "both take part")
    pair.settled()
