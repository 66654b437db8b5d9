"""Spares on one machine: a real agent that waits, serves when another one dies, and is removed when it dies itself."""

from __future__ import annotations

import os
import signal

from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from tests.main_job.stage import PATIENCE, Stage, behind, http, leftovers, one, until
from tests.support.running import Echo


def spare(stage: Stage) -> str:
    operation = stage.controller.create_spare()
    operation.wait(PATIENCE)
    assert stage.controller.amphora(operation.subject_id).status is AmphoraStatus.READY
    return operation.subject_id


def kill(stage: Stage, amphora_id: str) -> None:
    os.kill(stage.agent_pid(amphora_id), signal.SIGKILL)


def test_a_spare_takes_the_place_of_a_dead_amphora(own_stage: Stage) -> None:
    stage = own_stage
    with Echo("one") as member:
        lb = stage.build(http(*behind(member)))
        waits = spare(stage)
        assert "it is a spare" in stage.controller.why(waits).summary
        (before,) = stage.controller.amphorae(lb.id)
        kill(stage, before.id)
        until(lambda: [a.id for a in stage.controller.amphorae(lb.id)] == [waits], "the spare serves")
        until(lambda: stage.tree(lb.id).provisioning_status is Provisioning.ACTIVE, "the failover is over")
        assert stage.served(lb, 2) == ["one", "one"]
        stage.drop(lb.id)
    assert leftovers(stage) == []


def test_a_new_load_balancer_is_served_by_a_spare(own_stage: Stage) -> None:
    stage = own_stage
    waits = spare(stage)
    with Echo("one") as member:
        lb = stage.build(http(*behind(member)))
        assert one(stage.controller.amphorae(lb.id)).id == waits
        assert stage.served(lb, 2) == ["one", "one"]
        stage.drop(lb.id)
    assert leftovers(stage) == []


def test_a_spare_that_dies_is_removed_and_nothing_is_failed_over(own_stage: Stage) -> None:
    stage = own_stage
    waits = spare(stage)
    kill(stage, waits)
    until(lambda: stage.controller.amphora(waits).status is AmphoraStatus.DELETED, "it is removed")
    until(lambda: not stage.controller.operations(open_only=True), "nothing is left to do")
    names = [event.name for event in stage.controller.events() if event.amphora_id == waits]
    assert "amphora.lost" in names
    assert "amphora.deleted" in names
    assert {row.flow for row in stage.controller.operations()} == {"create-spare", "delete-amphora"}
    assert leftovers(stage) == []


def test_a_spare_that_died_while_no_controller_ran_is_removed(own_stage: Stage) -> None:
    stage = own_stage
    waits = spare(stage)
    with stage.away():
        kill(stage, waits)
    until(lambda: stage.controller.amphora(waits).status is AmphoraStatus.DELETED, "it is removed")
    until(lambda: not stage.controller.operations(open_only=True), "nothing is left to do")
    assert leftovers(stage) == []


def test_a_spare_is_removed_by_request(own_stage: Stage) -> None:
    waits = spare(own_stage)
    own_stage.controller.delete_amphora(waits).wait(PATIENCE)
    assert own_stage.controller.amphora(waits).status is AmphoraStatus.DELETED
    assert leftovers(own_stage) == []
