"""`why` about what was not replaced: when it is tried again, or who has paused that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.controller import governing
from octavia_core.controller.explanation import Situation
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from octavia_core.ports.fleet import Comeback
from octavia_core.ports.hearts import Heard
from tests.explain.test_why import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.storage.close()


def test_a_failed_failover_says_when_it_is_tried_again_and_how_often_it_was(scene: Scene) -> None:
    scene.tree(Provisioning.ERROR)
    row = Amphora(id=scene.amphora, status=AmphoraStatus.ERROR, load_balancer_id=scene.lb)
    scene.storage.transaction(lambda tx: tx.insert(row))
    failed = scene.operation("failover", internal=True)
    scene.storage.transaction(lambda tx: tx.close_operation(failed.id, OperationState.FAILED, "no valid host"))
    assert "nothing by itself" in (scene.why().next or "")
    now = scene.storage.now()
    planned = Comeback(
        amphora_id=scene.amphora,
        load_balancer_id=scene.lb,
        attempts=2,
        next_at=now + 90_000_000,
        since=now,
        reason="no valid host",
    )
    scene.storage.transaction(lambda tx: tx.set_comeback(planned))
    for id in ("web", scene.amphora):
        said = scene.why(id)
        assert said.situation is Situation.FAILED
        assert "tries its failover again, and goes on trying with growing pauses (2 of them so far)" in (
            said.next or ""
        )
        assert said.next_attempt == pytest.approx(90, abs=30)
        assert said.cause == "no valid host"
        assert "failover" in said.advice[0], "an operator need not wait"
    said = scene.why(scene.amphora, running=None)
    assert "no worker is alive, and no health manager is alive; then its failover is tried again" in (said.next or "")
    assert said.advice[-1] == "start one: octavia-core-health-manager --config-file FILE"
    governing.pause(scene.storage, actor="jo", reason="upgrade")
    said = scene.why(scene.amphora)
    assert "nothing by itself until they are resumed: failovers are paused by jo since " in (said.next or "")
    assert said.advice[-1].endswith("octavia-admin governor resume")


def test_a_silent_amphora_under_a_pause_says_who_paused_and_why(scene: Scene) -> None:
    scene.tree()
    row = Amphora(id=scene.amphora, status=AmphoraStatus.ALLOCATED, load_balancer_id=scene.lb, compute_id="server")
    long_ago = scene.storage.now() - 100_000_000
    beat = Heard(amphora_id=scene.amphora, at=long_ago, sequence=1, observer="x")
    scene.storage.transaction(lambda tx: (tx.insert(row), tx.heard([beat])))
    governing.pause(scene.storage, actor="jo", reason="the switch is replaced")
    for id in ("web", scene.amphora):
        said = scene.why(id)
        assert said.situation is Situation.HELD
        assert "failovers are paused by jo since " in said.summary
        assert said.summary.endswith("because the switch is replaced")
