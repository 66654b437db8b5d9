"""Another heartbeat key, another list of controllers: every agent is told, nothing is failed over."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from octavia_core.cli.exits import Exit
from octavia_core.cli.program import run
from octavia_core.controller import governing, rotation
from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.controller.fleet_health import fleet
from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.look import Evidence, Lookout
from octavia_core.controller.holder import PLACE, holder_name, place_of_processes
from octavia_core.controller.rotation import Progress, What, progress, rotate
from octavia_core.controller.wiring import build_world
from octavia_core.controller.worker import Worker
from octavia_core.domain.fingerprint import fingerprint
from octavia_core.domain.heartbeat import encode
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.secret import Secret
from octavia_core.domain.skim import Skimmer
from octavia_core.domain.vocabulary import AmphoraStatus, Topology
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import ConfigurationError, Refused
from octavia_core.flows.runner import Runner
from octavia_core.hooks.plugins import Plugins
from octavia_core.policy.governor import Act, Decision, Rule
from octavia_core.policy.marks import mark_of
from octavia_core.ports.clock import SystemClock
from octavia_core.settings import HealthManager, Settings
from octavia_core.testing.outside import FaultKind
from octavia_core.testing.plugin import Simulator
from tests.cli.conftest import Admin
from tests.db.values import new_id
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


def build(rig: Rig, settings: Settings) -> str:
    """A load balancer, and what it has, by a worker with these settings; its id."""
    made = Acceptor(rig.storage, Topology.SINGLE).create_load_balancer(NewLoadBalancer(), Asked())
    carried_out(rig, settings)
    return str(made.load_balancer_id)


def ended() -> str:
    """What a health manager of a process that is gone would be called."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return f"{socket.gethostname()[:40]}:{int(gone.stdout)}:0"


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


def test_whoever_is_built_has_what_it_was_booted_with(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 0, clock=SystemClock(), engine={"step_attempts": 1})
    old, new = with_keys(rig, "old"), with_keys(rig, "new", "old")
    first = build(rig, old)
    found = progress(rig.storage, old, What.HEARTBEAT_KEY)
    assert (counts(found), found.unknown, found.done) == ((1, 1, 0, 0), 0, True), "nothing was ever rotated"
    assert progress(rig.storage, old, What.CONTROLLERS).done
    assert counts(progress(rig.storage, new, What.HEARTBEAT_KEY)) == (1, 0, 0, 0), "it was booted with the old one"
    assert rotate(rig.storage, new, What.HEARTBEAT_KEY, actor="jo") == 1
    carried_out(rig, new)
    build(rig, new)
    assert counts(progress(rig.storage, new, What.HEARTBEAT_KEY)) == (2, 2, 0, 0)
    Acceptor(rig.storage, Topology.SINGLE).failover_load_balancer(first, Asked())
    carried_out(rig, new)
    found = progress(rig.storage, new, What.HEARTBEAT_KEY)
    assert (counts(found), found.unknown, found.done) == ((2, 2, 0, 0), 0, True)
    assert rotate(rig.storage, new, What.HEARTBEAT_KEY, actor="jo") == 0
    assert len(told(rig)) == 1
    build(rig, old)  # by a worker that was not started again
    assert counts(progress(rig.storage, new, What.HEARTBEAT_KEY)) == (3, 2, 0, 0)
    rig.close()


def test_what_nobody_has_kept_is_not_known_until_it_is_told(rig: Rig) -> None:
    settings = with_keys(rig, "new")
    found = progress(rig.storage, settings, What.HEARTBEAT_KEY)
    assert (counts(found), found.unknown, found.done) == ((4, 0, 0, 0), 4, False), "somebody else has built them"
    rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo")
    carried_out(rig, settings)
    found = progress(rig.storage, settings, What.HEARTBEAT_KEY)
    assert (counts(found), found.unknown, found.done) == ((4, 4, 0, 0), 0, True)
    assert progress(rig.storage, settings, What.CONTROLLERS).done, "an agent is told all of its settings"


def test_an_agent_that_is_configured_by_a_worker_with_older_settings_has_the_older_ones(rig: Rig) -> None:
    new, old = with_keys(rig, "new", "old"), with_keys(rig, "old", "new")
    rotate(rig.storage, new, What.HEARTBEAT_KEY, actor="jo")
    carried_out(rig, new)
    amphora = rig.amphorae[0]
    asked = Operation(
        id=new_id(), flow="configure-agent", load_balancer_id=amphora.load_balancer_id, amphora_id=amphora.id
    )
    rig.storage.transaction(lambda tx: tx.add_operation(asked))
    carried_out(rig, old)
    assert counts(progress(rig.storage, new, What.HEARTBEAT_KEY)) == (4, 3, 0, 0)
    assert counts(progress(rig.storage, old, What.HEARTBEAT_KEY)) == (4, 1, 0, 0)


def test_a_rotation_stays_proven_when_its_operations_are_gone(rig: Rig) -> None:
    settings = with_keys(rig, "new", "old")
    rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo")
    carried_out(rig, settings)
    while rig.storage.transaction(lambda tx: tx.purge(amphora_age=0, load_balancer_age=0)):
        pass
    assert rig.operations("configure-agent") == []
    found = progress(rig.storage, settings, What.HEARTBEAT_KEY)
    assert (counts(found), found.done) == ((4, 4, 0, 0), True)
    assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 0
    decision = Decision(amphora_id=rig.ids[0], act=Act.PUSH, rule=Rule.REFRESH, evidence="its agent answers")
    (heart,) = rig.storage.read(lambda tx: tx.liveness(rig.ids[:1]))
    Actor(rig.storage, bool).refresh(heart, decision)
    before = len(told(rig))
    carried_out(rig, with_keys(rig, "old", "new"))
    assert len(told(rig)) == before, "a worker with the key of before tells nobody, however long ago the rotation was"
    assert rotate(rig.storage, with_keys(rig, "old", "new"), What.HEARTBEAT_KEY, actor="jo") == 4


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


def test_a_health_manager_whose_process_has_ended_here_is_not_asked_for(rig: Rig) -> None:
    settings, name = with_keys(rig, "new", "old"), ended()
    row = {"accepts": [fingerprint(b"old")], "held": {"doubt": 3}, "watched": 4}
    elsewhere = row | {PLACE: "another container"}
    rig.storage.transaction(lambda tx: tx.observe(name, elsewhere, keep=60))
    with pytest.raises(Refused, match="do not accept the new key yet"):  # numbers mean something else there
        rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo")
    assert governing.overview(rig.storage, settings).observers == 1
    rig.storage.transaction(lambda tx: tx.observe(name, row | {PLACE: place_of_processes()}, keep=60))
    assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 4
    found = governing.overview(rig.storage, settings)
    assert (found.observers, dict(found.held)) == (0, {})
    (manager,) = fleet(rig.storage).managers
    assert (manager.alive, manager.watched) == (False, 4)


def test_a_health_manager_of_this_process_is_asked_for(rig: Rig) -> None:
    mine = {"accepts": [fingerprint(b"old")], PLACE: place_of_processes()}
    rig.storage.transaction(lambda tx: tx.observe(holder_name(), mine, keep=60))
    assert len(progress(rig.storage, with_keys(rig, "new", "old"), What.HEARTBEAT_KEY).refusing) == 1


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


def test_a_rotation_to_what_no_worker_has_does_not_keep_workers_from_pushing_what_agents_have(rig: Rig) -> None:
    """Somebody begins it with an old file: every worker refuses, nobody is told, and nothing is left of it."""
    mine, mistaken = with_keys(rig, "new", "old"), with_keys(rig, "old", "new")
    rotate(rig.storage, mine, What.HEARTBEAT_KEY, actor="jo")
    carried_out(rig, mine)
    rotate(rig.storage, mistaken, What.HEARTBEAT_KEY, actor="jo")
    decision = Decision(amphora_id=rig.ids[0], act=Act.PUSH, rule=Rule.REFRESH, evidence="its agent answers")
    heart, other = rig.storage.read(lambda tx: tx.liveness(rig.ids[:2]))
    Actor(rig.storage, bool).refresh(heart, decision)
    carried_out(rig, mine)
    assert len(told(rig)) == 4, "while they are about to be told something else"
    Actor(rig.storage, bool).refresh(other, decision)
    carried_out(rig, mine)
    assert len(told(rig)) == 5
    assert progress(rig.storage, mine, What.HEARTBEAT_KEY).done


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

    told = progress(rig.storage, settings, What.HEARTBEAT_KEY)
    assert (told.done, told.confirmed) == (True, False), "nobody says yet whom it hears"
    found = heard("new", "new", "old", "new")
    assert (found.heard, found.otherwise, found.still) == ({"here": 3}, {"here": 1}, (rig.ids[2],))
    assert not found.done, "though everybody was told"
    found = heard("new", "new", "new", "new")
    assert (found.heard, found.otherwise, found.still, found.done) == ({"here": 4}, {"here": 0}, (), True)
    assert found.confirmed


def test_of_several_that_rotate_at_once_each_says_what_it_has_stored(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_keys(rig, "new", "old")
    missing, others = rotation._missing, list[int]()

    def overtaken(*arguments: Any) -> Any:
        wanted = missing(*arguments)
        if not others:  # another one comes in between, and stores them all
            others.append(0)
            others[0] = rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="al")
        return wanted

    monkeypatch.setattr(rotation, "_missing", overtaken)
    assert rotate(rig.storage, settings, What.HEARTBEAT_KEY, actor="jo") == 0
    assert others == [4]
    assert [(event["actor"], event["amphorae"]) for event in rig.events("rotation.begun")] == [("al", 4)]


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


def test_who_follows_a_rotation_is_told_that_no_worker_is_alive_and_that_it_goes_on(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "octavia.conf"
    url = rig.settings.database.connection.reveal().decode()
    file.write_text(f"[database]\nconnection = {url}\n[health_manager]\nheartbeat_key = new\n")
    assert run(["heartbeat-key", "rotate", "--config-file", str(file), "--timeout", "0.1"]) == Exit.TIMEOUT
    said = capsys.readouterr().err
    assert "4 agents are to be told" in said
    assert "no worker is alive, so nobody is told; start one: octavia-core-worker" in said
    assert "4 agents are not told yet; it goes on: octavia-admin heartbeat-key show" in said


def test_the_commands_tell_and_show(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    assert admin.inside("heartbeat-key", "show", "--json").data["done"] is True, "there is nobody to be told"
    assert "0 agents are to be told" in admin.inside("heartbeat-key", "rotate", "--no-wait").err
    assert admin.inside("controllers", "rotate", "--no-wait", "--json").data["amphorae"] == 0
    assert "may be dropped" in admin.inside("controllers", "show").out
