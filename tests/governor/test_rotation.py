"""Another heartbeat key, another list of controllers: every agent is told, nothing is failed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.look import Evidence, Lookout
from octavia_core.controller.rotation import Progress, What, progress, rotate
from octavia_core.controller.wiring import build_world
from octavia_core.controller.worker import Worker
from octavia_core.domain.fingerprint import fingerprint
from octavia_core.domain.heartbeat import encode
from octavia_core.domain.operation import OperationState
from octavia_core.domain.secret import Secret
from octavia_core.domain.skim import Skimmer
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import ConfigurationError, Refused
from octavia_core.flows.runner import Runner
from octavia_core.flows.marks import mark_of
from octavia_core.hooks.plugins import Plugins
from octavia_core.policy.governor import Act, Decision, Rule
from octavia_core.ports.clock import SystemClock
from octavia_core.settings import HealthManager, Settings
from octavia_core.testing.outside import FaultKind
from octavia_core.testing.plugin import Simulator
from tests.cli.conftest import Admin
from tests.health.rig import Rig, until


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, 4, clock=SystemClock(), engine={"step_attempts": 1})
    yield made
    made.close()


def with_keys(rig: Rig, sent: str, *accepted: str) -> Settings:
    health = rig.settings.health_manager
    keys = {"heartbeat_key": Secret(sent), "heartbeat_keys_accepted": tuple(Secret(key) for key in accepted)}
    return attrs.evolve(rig.settings, health_manager=attrs.evolve(health, **keys))


def carried_out(rig: Rig, settings: Settings) -> None:
    """A worker with these settings, until nothing is left to do."""
    world = build_world(settings, Plugins({"simulator": Simulator(rig.cloud)}, installed=False), SystemClock())
    worker = Worker(Runner(rig.storage, world), threads=2)
    worker.start()
    try:
        worker.nudge()
        until(lambda: not rig.storage.read(lambda tx: tx.operations(open_only=True, limit=1)))
    finally:
        worker.stop(10)


def told(rig: Rig) -> list[str]:
    return [call.subject for call in rig.cloud.calls("amphora.update_agent")]


def counts(found: Progress) -> tuple[int, int, int, int]:
    return found.amphorae, found.told, found.under_way, found.failed


def test_the_key_that_is_sent_is_the_first_and_all_are_accepted() -> None:
    health = HealthManager(heartbeat_key=Secret("new"), heartbeat_keys_accepted=(Secret("old"), Secret("new")))
    assert health.keys == (b"new", b"old")
    skimmer = Skimmer(health.keys)
    document = {"id": "a", "seq": 1, "listeners": {}, "pools": {}, "ver": 3}
    for key in ("new", "old"):
        assert skimmer.skim(encode(document, key)).amphora_id == "a"


def test_every_agent_is_told_once_and_nothing_is_failed_over(rig: Rig) -> None:
    settings = with_keys(rig, "new", "old")
    assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 4
    assert counts(progress(rig.storage, settings, What.HEARTBEAT_KEY)) == (4, 0, 4, 0)
    assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 0, "begun again, it goes on"
    carried_out(rig, settings)
    found = progress(rig.storage, settings, What.HEARTBEAT_KEY)
    assert (counts(found), found.done) == ((4, 4, 0, 0), True)
    assert len(told(rig)) == 4
    assert rig.failovers() == []
    assert rotate(rig.storage, with_keys(rig, "newer", "new"), What.HEARTBEAT_KEY, actor="jo") == 4


def test_going_back_and_forth_tells_everybody_each_time(rig: Rig) -> None:
    new, old = with_keys(rig, "new", "old"), with_keys(rig, "old", "new")
    for turn, settings in enumerate((new, old, new, old, new), 1):
        assert counts(progress(rig.storage, settings, What.HEARTBEAT_KEY))[1] == 0, (
            "what they had before counts no more"
        )
        assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 4
        assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 0, "begun again, it goes on"
        carried_out(rig, settings)
        assert progress(rig.storage, settings, What.HEARTBEAT_KEY).done
        assert len(told(rig)) == 4 * turn
    assert not progress(rig.storage, old, What.HEARTBEAT_KEY).done


def test_who_could_not_be_told_something_else_may_have_it_and_is_told_anew(rig: Rig) -> None:
    new, old = with_keys(rig, "new", "old"), with_keys(rig, "old", "new")
    rotate(rig.storage, new, What.HEARTBEAT_KEY, actor="jo")
    carried_out(rig, new)
    rotate(rig.storage, old, What.HEARTBEAT_KEY, actor="jo")
    assert not progress(rig.storage, new, What.HEARTBEAT_KEY).done, "they are about to be told something else"
    rig.cloud.fail("amphora.update_agent", kind=FaultKind.PERMANENT, times=1000)
    carried_out(rig, old)
    rig.cloud.heal()
    assert counts(progress(rig.storage, new, What.HEARTBEAT_KEY)) == (4, 0, 0, 0)
    assert rotate(rig.storage, new, What.HEARTBEAT_KEY, actor="jo") == 4


def test_an_agent_that_does_not_answer_serves_on_and_is_told_next_time(rig: Rig) -> None:
    settings = with_keys(rig, "new", "old")
    rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo")
    rig.cloud.fail("amphora.update_agent", kind=FaultKind.PERMANENT, times=1000)
    carried_out(rig, settings)
    found = progress(rig.storage, settings, What.HEARTBEAT_KEY)
    assert (counts(found), found.done, len(found.failures)) == ((4, 0, 0, 4), False, 4)
    assert {rig.status(id) for id in rig.ids} == {AmphoraStatus.ALLOCATED}
    assert len(rig.events("rotation.missed")) == 4
    rig.cloud.heal()
    assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 4
    carried_out(rig, settings)
    assert progress(rig.storage, settings, What.HEARTBEAT_KEY).done


def test_a_worker_with_the_old_settings_tells_nobody(rig: Rig) -> None:
    rotate(rig.storage, with_keys(rig, "new", "old"), What.HEARTBEAT_KEY, actor="jo")
    carried_out(rig, with_keys(rig, "old"))
    assert told(rig) == []
    states = {o.state for o in rig.operations("configure-agent")}
    assert states == {OperationState.FAILED}
    assert "start it again" in str(rig.operations("configure-agent")[0].error)


def test_a_key_that_a_living_health_manager_would_refuse_is_not_told(rig: Rig) -> None:
    settings = with_keys(rig, "new", "old")
    rig.storage.transaction(lambda tx: tx.observe("far", {"accepts": [fingerprint(b"old")]}, keep=60))
    with pytest.raises(Refused, match=r"do not accept the new key yet \(far\).*heartbeat_keys_accepted"):
        rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo")
    assert progress(rig.storage, settings, What.HEARTBEAT_KEY).refusing == ("far",)
    both = [fingerprint(b"old"), fingerprint(b"new")]
    rig.storage.transaction(lambda tx: tx.observe("far", {"accepts": both}, keep=60))
    assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 4


def test_settings_that_the_governor_has_sent_again_are_a_workers_and_none_that_are_older_than_the_last_rotation(
    rig: Rig,
) -> None:
    places = {"controller_ip_port_list": ("10.0.0.1:5555", "10.0.0.2:5555")}
    new = attrs.evolve(
        with_keys(rig, "new", "old"), health_manager=attrs.evolve(with_keys(rig, "new").health_manager, **places)
    )
    for what in What:
        rotate(rig.storage, new, what, actor="jo")
    carried_out(rig, new)
    before = len(told(rig))
    decision = Decision(amphora_id=rig.ids[0], act=Act.PUSH, rule=Rule.REFRESH, evidence="its agent answers")
    for heart in rig.storage.read(lambda tx: tx.liveness(rig.ids[:2])):
        for _ in range(2):
            Actor(rig.storage, bool).refresh(heart, decision)
    assert len(told(rig)) == before, "the health manager itself tells nobody"
    marks = {"heartbeat-key": mark_of(new, "heartbeat-key"), "controllers": mark_of(new, "controllers")}
    stored = [one for one in rig.operations("configure-agent") if one.arguments["tell"] == "settings"]
    assert sorted(str(one.amphora_id) for one in stored) == sorted(rig.ids[:2])
    assert [one.arguments["marks"] for one in stored] == [marks, marks]
    carried_out(rig, with_keys(rig, "new"))  # as a worker without the list of controllers
    assert len(told(rig)) == before
    assert "another controllers than agents were told last" in str(rig.operations("configure-agent")[0].error)
    assert {rig.status(id) for id in rig.ids} == {AmphoraStatus.ALLOCATED}
    heart = attrs.evolve(heart, last_heard=(heart.last_heard or 0) + 1)
    Actor(rig.storage, bool).refresh(heart, decision)
    carried_out(rig, new)
    assert len(told(rig)) == before + 1
    assert progress(rig.storage, new, What.HEARTBEAT_KEY).done


def test_it_is_done_when_nobody_is_heard_with_another_key_any_more(rig: Rig) -> None:
    settings = with_keys(rig, "new", "old")
    rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo")
    carried_out(rig, settings)
    skimmer = Skimmer(settings.health_manager.keys)
    lookout = Lookout(
        rig.storage, settings, rig.clock, rig.wall, Evidence(rig.memory, rig.ask), Actor(rig.storage, bool)
    )

    def heard(*keys: str) -> Progress:
        """What is said once each of the amphorae was heard with its key of these."""
        rig.clock.advance(3.1)
        for id, key in zip(rig.ids, keys, strict=True):
            rig.sequence += 1
            document = {"id": id, "seq": rig.sequence, "listeners": {}, "pools": {}, "ver": 3}
            rig.memory.keep([skimmer.skim(encode(document, key))], rig.clock.monotonic())
        lookout.look(rig.since, "here")
        return progress(rig.storage, settings, What.HEARTBEAT_KEY)

    found = heard("new", "new", "old", "new")
    assert (found.heard, found.otherwise, found.still) == ({"here": 3}, {"here": 1}, (rig.ids[2],))
    assert not found.done, "though everybody was told"
    found = heard("new", "new", "new", "new")
    assert (found.heard, found.otherwise, found.still, found.done) == ({"here": 4}, {"here": 0}, (), True)


def test_no_row_and_no_event_holds_a_key(rig: Rig) -> None:
    settings = with_keys(rig, "extremely-secret-key", "old")
    rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo")
    rows = rig.storage.read(lambda tx: (tx.operations(limit=100), tx.events(), tx.observers()))
    assert "extremely-secret-key" not in repr(rows)


def test_a_list_of_controllers_is_told_the_same_way(rig: Rig) -> None:
    health = attrs.evolve(rig.settings.health_manager, controller_ip_port_list=("10.0.0.1:5555", "10.0.0.2:5555"))
    settings = attrs.evolve(rig.settings, health_manager=health)
    assert rotate(rig.storage, settings, What.CONTROLLERS, actor="jo") == 4
    carried_out(rig, settings)
    assert progress(rig.storage, settings, What.CONTROLLERS).done
    assert not progress(rig.storage, rig.settings, What.CONTROLLERS).done


def test_without_a_key_there_is_nothing_to_tell(rig: Rig) -> None:
    with pytest.raises(ConfigurationError, match="heartbeat_key is not set"):
        rotate(rig.storage, rig.settings, What.HEARTBEAT_KEY, actor="jo")


def test_the_commands_tell_and_show(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    assert admin.inside("heartbeat-key", "show", "--json").data["done"] is True, "there is nobody to be told"
    assert "0 agents are to be told" in admin.inside("heartbeat-key", "rotate", "--no-wait").err
    assert admin.inside("controllers", "rotate", "--no-wait", "--json").data["amphorae"] == 0
    assert "may be dropped" in admin.inside("controllers", "show").out
