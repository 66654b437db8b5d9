"""More members than the amphora can report at once."""

from __future__ import annotations

from pathlib import Path

from octavia_core import NewMember
from octavia_core.domain.vocabulary import Kind, Operating, Provisioning
from tests.main_job.stage import behind, http, one, only_pool, open_stage, until
from tests.support.calm import CALM
from tests.support.running import Echo

MANY = 4000


def test_more_members_than_a_heartbeat_takes_are_reported_in_turns_and_nobody_is_taken_for_dead(tmp_path: Path) -> None:
    with open_stage(tmp_path / "state", CALM) as stage, Echo("real") as real:
        idle = [NewMember(f"127.3.{n // 250}.{n % 250 + 1}", 9000, weight=0) for n in range(MANY - 1)]
        lb = stage.build(http(*behind(real), *idle))
        (amphora,) = stage.controller.amphorae(lb.id)
        stage.operating(lb.id, one(lb.listeners).id, Operating.ONLINE)

        def said() -> set[Operating]:
            return {member.operating_status for member in only_pool(stage.tree(lb.id)).members}

        until(lambda: said() == {Operating.NO_MONITOR}, "a turn of each member")
        assert len(only_pool(stage.tree(lb.id)).members) == MANY
        stage.update(
            Kind.MEMBER, only_pool(lb).members[-1].id, enabled=False
        )  # the last in turn, and not by its turn alone
        until(lambda: said() == {Operating.NO_MONITOR, Operating.OFFLINE}, "the change")
        lb = stage.tree(lb.id)
        assert (lb.provisioning_status, lb.operating_status) == (Provisioning.ACTIVE, Operating.ONLINE)
        assert stage.ask(lb).member == "real"
        assert [each.id for each in stage.controller.amphorae(lb.id)] == [amphora.id]
        events = stage.controller.events(load_balancer_id=lb.id, limit=100_000)
        assert [event.text for event in events if event.name == "amphora.lost"] == []
