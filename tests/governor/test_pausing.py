"""Pausing and resuming: for everybody, with who and why; and the tokens that all health managers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.controller import governing
from octavia_core.controller.explain import why
from octavia_core.controller.explanation import Situation
from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.look import Evidence, Lookout
from octavia_core.errors import Refused
from tests.cli.conftest import Admin
from tests.health.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, 8)
    yield made
    made.close()


def another(rig: Rig) -> Lookout:
    """A second health manager on the same database."""
    actor = Actor(rig.storage, lambda: None)
    return Lookout(rig.storage, rig.settings, rig.clock, rig.wall, Evidence(rig.memory, rig.ask), actor)


def test_a_pause_holds_proof_back_in_every_health_manager_until_it_is_resumed(rig: Rig) -> None:
    governing.pause(rig.storage, actor="jo", reason="the switch is replaced")
    rig.lookout.died(str(rig.amphorae[0].compute_id), "process 7 ended")
    second = another(rig)
    second.died(str(rig.amphorae[1].compute_id), "process 8 ended")
    rig.pass_(0.1, *rig.ids)
    assert rig.failovers() == []
    held = rig.events("failover.held")
    assert {each["rule"] for each in held} == {"paused"}
    assert "paused by jo since " in held[0]["evidence"]
    assert held[0]["evidence"].endswith("because the switch is replaced")
    governing.resume(rig.storage, actor="al")
    rig.pass_(0.1, *rig.ids)
    second.look(rig.since, "there")
    assert sorted(rig.failovers()) == sorted(rig.ids[:2])


def test_why_names_the_proof_that_an_amphora_has_ended_whose_failover_a_pause_holds_back(rig: Rig) -> None:
    governing.pause(rig.storage, actor="jo", reason="the switch is replaced")
    rig.look()
    rig.lookout.died(str(rig.amphorae[0].compute_id), "process 7 of its agent has ended")
    rig.pass_(4.0, *rig.ids[1:])
    for id in (rig.ids[0], str(rig.amphorae[0].load_balancer_id)):
        said = why(rig.storage, rig.settings, id, running=True)
        assert said.situation is Situation.HELD
        assert "process 7 of its agent has ended; it was last heard " in said.summary
        assert "failovers are paused by jo since " in said.summary
        assert str(said.next).endswith("once what holds that back is over it is replaced")
    governing.resume(rig.storage, actor="al")
    rig.pass_(0.1, *rig.ids[1:])
    assert rig.failovers() == rig.ids[:1]
    assert "process 7 of its agent has ended" in str(why(rig.storage, rig.settings, rig.ids[0], running=True).cause)


def test_pausing_is_audited_and_twice_is_refused_with_who_did_it(rig: Rig) -> None:
    with pytest.raises(Refused, match="failovers are not paused"):
        governing.resume(rig.storage, actor="al")
    governing.pause(rig.storage, actor="jo", reason="upgrade")
    with pytest.raises(Refused, match=r"paused by jo since .* because upgrade; resume them with"):
        governing.pause(rig.storage, actor="al", reason="mine")
    governing.resume(rig.storage, actor="al", reason="done")
    (paused,), (resumed,) = rig.events("governor.paused"), rig.events("governor.resumed")
    assert paused == {"actor": "jo", "reason": "upgrade"}
    assert (resumed["actor"], resumed["reason"], resumed["paused_by"]) == ("al", "done", "jo")


def test_health_managers_together_start_no_more_failovers_than_the_tokens_allow(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 8, engine={"failovers_per_minute": 3})
    try:
        managers = [rig.lookout, another(rig), another(rig)]
        for amphora in rig.amphorae:
            for each in managers:
                each.died(str(amphora.compute_id), "its host lost power")
        assert len(rig.failovers()) == 3, "and none of the tokens was spent on what another had declared"
        found = governing.overview(rig.storage, rig.settings)
        assert found.tokens < 1
        assert dict(found.recent) == {"proof": 3}
    finally:
        rig.close()


def test_the_commands_say_who_paused_and_why(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    assert admin.inside("governor", "show", "--json").data["paused_by"] is None
    said = admin.inside("governor", "pause", "--reason", " rack 7\n moves ", "--json").data
    assert said["paused_reason"] == "rack 7 moves"
    shown = admin.inside("governor", "show").out
    assert "because rack 7 moves" in shown
    assert "none while they are paused" in shown
    assert "resume them with: octavia-admin governor resume" in admin.inside("governor", "pause", "-r", "x", code=2).err
    admin.inside("governor", "resume", "--reason", "it stands")
    admin.inside("governor", "resume", code=2)
    assert "go" in admin.inside("governor", "show").out
    names = [line.split('"name": "')[1].split('"')[0] for line in admin.inside("events", "--json").out.splitlines()]
    assert names == ["governor.paused", "governor.resumed"]


def test_a_pause_needs_a_reason(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    assert "--reason" in admin.inside("governor", "pause", code=2).err
    assert "must say something" in admin.inside("governor", "pause", "--reason", " ", code=2).err
