"""Silence, from heartbeats to stored failovers: what the lookout makes of the governor's decisions."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sql_event
from sqlalchemy import text, update

from octavia_core.controller.health import look
from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.look import Evidence, Lookout
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.write import Pace, Writer
from octavia_core.controller.holds import standing
from octavia_core.controller.worker import holder_name
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.transaction import SqlTransaction
from octavia_core.domain.operation import Event, OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from octavia_core.ports.hearts import Liveness
from tests.health.rig import Rig, until

Make = Callable[..., Rig]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Make]:
    made: list[Rig] = []

    def make(count: int, **health: Any) -> Rig:
        made.append(Rig(tmp_path, count, **health))
        return made[0]

    yield make
    for each in made:
        each.close()


def test_silent_with_its_agent_is_failed_over_when_the_timeout_is_over(rig: Make) -> None:
    here = rig(2)
    here.mute()
    gone, well = here.ids
    here.pass_(0.7, well)
    here.answered(gone)
    here.pass_(0.3, well)
    assert here.failovers() == [], "the timeout is not over"
    here.pass_(0.2, well)
    assert here.failovers() == [gone]
    (event,) = here.events("amphora.lost")
    assert event["rule"] == "silence"
    assert "its agent is silent too" in event["evidence"]


def test_a_heartbeat_that_others_wrote_counts(rig: Make) -> None:
    here = rig(1)
    here.mute()
    for _ in range(20):
        here.clock.advance(0.1)
        here.heard(*here.ids)
        here.writer.flush(here.clock)
        here.memory.forget_others((), here.clock.monotonic() + 1)
        here.look()
    assert here.failovers() == []


def test_silent_with_an_agent_that_answers_is_refreshed_once_and_given_up_after_three_timeouts(rig: Make) -> None:
    here = rig(2)
    gone, well = here.ids
    here.pass_(0.8, well)
    here.answered(gone)
    here.pass_(1.0, well)
    until(lambda: len(here.operations("configure")) == 1)
    here.pass_(0.9, well)
    assert len(here.events("amphora.refreshed")) == 1
    assert here.failovers() == []
    here.pass_(0.6, well)
    assert here.failovers() == [gone]
    assert len(here.operations("configure")) == 1


def test_a_wrong_number_of_listeners_is_silence_with_an_agent_that_answers(rig: Make) -> None:
    here = rig(2)
    odd, well = here.ids
    for _ in range(18):
        here.clock.advance(0.1)
        here.heard(well)
        here.memory.keep([here.beat(odd, listeners=())], here.clock.monotonic())
        here.writer.flush(here.clock)
        here.look()
        if here.clock.monotonic() > 0.75:
            here.answered(odd)
    assert here.failovers() == []
    until(lambda: bool(here.events("amphora.refreshed")))  # stored beside the looks
    (event,) = here.events("amphora.refreshed")
    assert "wrong number of listeners" in event["evidence"]


def test_a_wrong_number_of_listeners_is_nothing_while_an_operation_changes_the_load_balancer(rig: Make) -> None:
    """What was held against the rows before the change began says nothing, however late the next report is written."""
    here = rig(2)
    odd, well = here.ids
    owner = str(here.amphorae[0].load_balancer_id)

    def becomes(status: Provisioning) -> None:
        change = update(load_balancer).where(load_balancer.c.id == owner).values(provisioning_status=str(status))
        here.storage.write(lambda tx: tx.write(change))

    def pass_(tenths: int) -> None:
        for _ in range(tenths):
            here.clock.advance(0.1)
            here.heard(well)
            here.memory.keep([here.beat(odd, listeners=())], here.clock.monotonic())
            here.look()

    here.clock.advance(0.1)
    here.memory.keep([here.beat(odd, listeners=())], here.clock.monotonic())
    here.writer.flush(here.clock)
    assert here.memory.miscounted(odd)
    becomes(Provisioning.PENDING_UPDATE)
    pass_(40)
    assert here.events("amphora.refreshed") == []
    assert here.failovers() == []
    becomes(Provisioning.ACTIVE)
    pass_(8)
    here.answered(odd)
    pass_(6)
    until(lambda: bool(here.events("amphora.refreshed")))  # stored beside the looks
    assert len(here.events("amphora.refreshed")) == 1, "it was configured, and is judged again"


def test_it_is_not_given_up_while_the_configuration_that_it_is_sent_again_is_on_its_way(rig: Make) -> None:
    here = rig(2)
    odd, well = here.ids

    def pass_(tenths: int) -> None:
        for _ in range(tenths):
            here.clock.advance(0.1)
            here.heard(well)
            here.memory.keep([here.beat(odd, listeners=())], here.clock.monotonic())
            here.writer.flush(here.clock)
            here.look()

    pass_(8)
    here.answered(odd)
    pass_(6)
    until(lambda: len(here.operations("configure")) == 1)
    flows = {"configure": {1, 2, 3, 4, 5, 6, 7, 8, 9}, "configure-agent": {1, 2, 3, 4, 5, 6, 7, 8, 9}}
    ((told, claim),) = here.storage.claim("host:1:a", flows, lease=600.0, limit=5)
    assert told.flow == "configure-agent"
    here.storage.transaction(lambda tx: tx.close_operation(told.id, OperationState.SUCCEEDED), claim=claim)
    ((pushed, claim),) = here.storage.claim("host:1:a", flows, lease=600.0, limit=5)
    assert pushed.flow == "configure"
    pass_(60)
    assert here.failovers() == []
    here.storage.transaction(lambda tx: tx.close_operation(pushed.id, OperationState.SUCCEEDED), claim=claim)
    pass_(25)
    assert here.failovers() == [], "it has three timeouts to say so"
    pass_(15)
    assert here.failovers() == [odd]


def test_proof_needs_no_silence_and_no_look(rig: Make) -> None:
    here = rig(1)
    here.lookout.died(str(here.amphorae[0].compute_id), "process 7 was killed by signal 9")
    assert here.failovers() == here.ids
    (event,) = here.events("amphora.lost")
    assert (event["evidence"], event["rule"]) == ("process 7 was killed by signal 9", "proof")
    assert (event["host"], event["zone"]) == ("host-2", "simulated"), "where it was"


def test_compute_is_asked_about_the_silent_and_what_it_says_is_proof(rig: Make) -> None:
    here = rig(6)
    gone, *_ = here.ids
    here.world.compute.kill(here.amphorae[0].compute_id)
    here.pass_(0.8, *here.ids[1:])
    until(lambda: here.ask.ended(gone) is not None)
    here.pass_(0.4)
    assert here.failovers() == [gone]
    assert here.events("amphora.lost")[0]["rule"] == "proof"


def test_all_silent_at_once_is_our_own_deafness_and_ends_by_itself(rig: Make) -> None:
    here = rig(6)
    here.mute()
    here.pass_(3.0)
    assert here.failovers() == []
    assert [(e["rule"], e["amphorae"]) for e in here.events("failover.held")] == [("doubt", 6)]
    here.heard(*here.ids)
    here.look()
    assert [e["rule"] for e in here.events("failover.resumed")] == ["doubt"]


def test_compute_is_asked_where_those_run_whose_rows_do_not_say_it(rig: Make) -> None:
    here = rig(3)

    def hosts() -> list[str | None]:
        return sorted(str(heart.host) for heart in here.storage.read(lambda tx: tx.liveness()))

    for id in here.ids[1:]:  # as those of upstream's making
        here.storage.transaction(lambda tx, of=id: tx.set_host(of, ""))  # type: ignore[misc]
    assert hosts() == ["", "", "host-2"]
    here.pass_(1.2, *here.ids)
    until(lambda: hosts() == ["host-2", "host-3", "host-4"])
    asked = len(here.cloud.calls("compute.servers"))
    here.pass_(2.0, *here.ids)
    assert len(here.cloud.calls("compute.servers")) == asked, "not again and again"


def test_nobody_is_judged_by_absence_while_datagrams_are_dropped(rig: Make) -> None:
    here = rig(2)
    here.mute()
    for _ in range(15):
        here.lookout.dropped(3)
        here.pass_(0.1, here.ids[1])
    assert here.failovers() == []
    assert here.events("failover.held")[0]["rule"] == "drops"
    for _ in range(15):
        here.lookout.dropped(0)
        here.pass_(0.1, here.ids[1])
        if here.clock.monotonic() > 2.7:
            here.answered(here.ids[0])
    assert here.failovers() == [here.ids[0]]


def test_upstreams_threshold_stops_failovers_until_they_are_heard(rig: Make) -> None:
    here = rig(4, failover_threshold=2)
    here.mute()
    here.pass_(1.5, *here.ids[2:])
    assert here.failovers() == []
    assert [here.status(id) for id in here.ids] == [AmphoraStatus.FAILOVER_STOPPED] * 2 + [AmphoraStatus.ALLOCATED] * 2
    here.pass_(1.1, *here.ids)
    assert {here.status(id) for id in here.ids} == {AmphoraStatus.ALLOCATED}
    assert len(here.events("amphora.heard_again")) == 2


def test_stopped_ones_stay_stopped_when_silence_counts_anew_until_they_are_heard(rig: Make) -> None:
    here = rig(4, failover_threshold=2)
    here.mute()
    here.pass_(1.5, *here.ids[2:])
    after = Lookout(
        here.storage,
        here.settings,
        here.clock,
        here.wall,
        Evidence(Memory(2.0), here.ask),
        Actor(here.storage, lambda: None),
    )
    after.look(here.wall.now(), "its successor")
    here.pass_(0.1, *here.ids[2:])
    assert [here.status(id) for id in here.ids] == [AmphoraStatus.FAILOVER_STOPPED] * 2 + [AmphoraStatus.ALLOCATED] * 2
    assert here.events("amphora.heard_again") == []


def test_what_a_health_manager_held_back_that_has_ended_is_over_once_another_looks(rig: Make) -> None:
    here = rig(1)
    dead, alive = f"{socket.gethostname()[:40]}:{an_ended_process()}:1", "elsewhere:1:1"
    here.storage.transaction(lambda tx: tx.observe(alive, {}, keep=60.0))
    held = [Event(name="failover.held", text="", data={"rule": "doubt", "by": name}) for name in (dead, alive)]
    here.storage.transaction(lambda tx: [tx.emit(each) for each in held])
    here.pass_(0.3, *here.ids)
    assert here.events("failover.resumed") == [{"rule": "doubt", "by": dead}]
    assert here.storage.read(lambda tx: [each.data["by"] for each in standing(tx)]) == [alive]


def test_paused_failovers_wait_and_start_when_they_may(rig: Make) -> None:
    here = rig(1)
    here.lookout.paused = "by jo: upgrade"
    here.lookout.died(str(here.amphorae[0].compute_id), "process 7 ended")
    assert here.failovers() == []
    here.lookout.paused = None
    here.pass_(0.1, *here.ids)
    assert here.failovers() == here.ids


def test_what_falls_silent_together_is_not_judged_by_those_that_are_overdue_first(rig: Make) -> None:
    here = rig(10)
    here.mute()
    here.pass_(0.1, *here.ids)
    here.pass_(0.2, *here.ids[4:])  # one heartbeat more of most of them
    for _ in range(12):
        here.pass_(0.1)
    assert here.failovers() == []
    assert {e["rule"] for e in here.events("failover.held")} == {"doubt"}


def test_those_who_are_heard_again_last_after_an_outage_get_their_time(rig: Make) -> None:
    here = rig(6)
    here.mute()
    here.pass_(5.0)
    for number in range(5):  # they come back one after the other
        here.pass_(0.1, *here.ids[: number + 1])
    here.pass_(0.5, *here.ids[:5])
    assert here.failovers() == []
    here.answered(here.ids[5])
    here.pass_(0.5, *here.ids[:5])
    assert here.failovers() == [here.ids[5]], "and who stays silent for a timeout after it is over is lost"
    assert "of that, we could hear" in here.events("amphora.lost")[0]["evidence"]


def test_where_memory_clears_few_the_database_says_who_is_silent(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "MANY", 2)
    here = rig(12)
    here.mute()
    gone, *others = here.ids
    lookout = Lookout(
        here.storage,
        here.settings,
        here.clock,
        here.wall,
        Evidence(Memory(2.0), here.ask),  # of a host that hears nobody: others hear, and write
        Actor(here.storage, lambda: None),
    )
    for _ in range(14):
        here.clock.advance(0.1)
        here.heard(*others)
        here.writer.flush(here.clock)
        lookout.look(here.since, "elsewhere")
        if here.clock.monotonic() > 0.9:
            here.answered(gone)
    assert here.failovers() == [gone]


def test_while_we_alone_are_deaf_the_rows_of_everybody_are_not_read_at_each_look(
    rig: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "MANY", 2)
    here = rig(12)
    here.pass_(0.5, *here.ids)
    here.mute()
    here.pass_(3.0)
    sent: list[str] = []
    listen = lambda connection, cursor, statement, *rest: sent.append(statement)  # noqa: E731
    sql_event.listen(here.storage._engine, "before_cursor_execute", listen)
    try:
        here.look()
    finally:
        sql_event.remove(here.storage._engine, "before_cursor_execute", listen)
    assert "it is more likely that we are deaf" in here.events("failover.held")[0]["evidence"]
    assert here.lookout.figures["silent"] == 12
    assert not [statement for statement in sent if "last_heard <" in statement]
    assert here.failovers() == []


def an_ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("whose", "lost"),
    [
        (lambda: f"{socket.gethostname()[:40]}:{an_ended_process()}:1", True),  # started again
        (lambda: f"{socket.gethostname()[:40]}:{os.getpid()}:1", True),  # SIGHUP, or process 1 of a container
        (lambda: f"{socket.gethostname()[:40]}:{os.getppid()}:1", False),  # a living one of this host
        (lambda: "elsewhere:1:1", False),
    ],
    ids=["ended", "begun anew", "lives", "elsewhere"],
)
def test_a_health_manager_that_was_started_again_needs_no_word_of_its_earlier_life(
    rig: Make, whose: Callable[[], str], lost: bool
) -> None:
    here = rig(7)
    here.mute()
    pace = Pace(traffic=0.0, timeout=here.settings.health_manager.heartbeat_timeout)
    here.clock.advance(0.1)
    here.heard(*here.ids)
    Writer(here.storage, here.memory, here.wall, whose(), pace).flush(here.clock)
    gone, *others = here.ids
    memory, name = Memory(2.0), holder_name()
    writer = Writer(here.storage, memory, here.wall, name, pace)
    lookout = Lookout(
        here.storage, here.settings, here.clock, here.wall, Evidence(memory, here.ask), Actor(here.storage, bool)
    )
    for turn in range(15):
        here.clock.advance(0.1)
        memory.keep([here.beat(id) for id in (here.ids if turn < 2 else others)], here.clock.monotonic())
        lookout.look(here.since, name)
        writer.flush(here.clock)
        if turn == 9:
            here.answered(gone)
    assert here.failovers() == ([gone] if lost else [])
    assert {e["rule"] for e in here.events("failover.held")} == (set() if lost else {"alone"})


@pytest.mark.parametrize(("deaf", "before"), [(True, 0), (True, 2_000_000), (False, 0)])
def test_others_that_went_deaf_in_the_same_moment_confirm_nothing(rig: Make, deaf: bool, before: int) -> None:
    """What the rows say of those who are judged is as old as their silence; the other says itself when it heard somebody last."""
    here = rig(9, heartbeat_timeout=20.0, heartbeat_interval=1.0)
    here.mute()
    pace = Pace(traffic=0.0, timeout=20.0)
    here.clock.advance(1.0)
    here.heard(*here.ids)
    Writer(here.storage, here.memory, here.wall, "elsewhere:1:1", pace).flush(here.clock)
    memory, name = Memory(2.0), holder_name()
    writer = Writer(here.storage, memory, here.wall, name, pace)
    lookout = Lookout(
        here.storage, here.settings, here.clock, here.wall, Evidence(memory, here.ask), Actor(here.storage, bool)
    )
    gone, ours = here.ids[:3], here.ids[3:]
    newest = (
        here.wall.at(here.clock.monotonic()) - before
    )  # who is deaf already when anybody is late for the first time
    for turn in range(27):
        here.clock.advance(1.0)
        if not deaf:
            newest = here.wall.at(here.clock.monotonic())
        figures = {"newest": newest}
        here.storage.transaction(lambda tx: tx.observe("elsewhere:1:1", figures, keep=3600.0))  # noqa: B023 - runs now
        memory.keep([here.beat(id) for id in ours], here.clock.monotonic())
        lookout.look(here.since, name)
        writer.flush(here.clock)
        if turn == 16 and not deaf:
            here.answered(*gone)
    assert sorted(here.failovers()) == ([] if deaf else sorted(gone))
    assert {e["rule"] for e in here.events("failover.held")} == ({"alone"} if deaf else set())


def test_who_hears_nobody_judges_nobody_though_the_rows_say_that_another_hears_most(rig: Make) -> None:
    here = rig(9, heartbeat_timeout=20.0, heartbeat_interval=1.0)
    here.mute()
    pace = Pace(traffic=0.0, timeout=20.0)
    here.clock.advance(1.0)
    mine = Memory(2.0)
    for memory, name in ((mine, "here:1:1"), (here.memory, "elsewhere:1:1")):
        memory.keep([here.beat(id) for id in here.ids], here.clock.monotonic())
        Writer(here.storage, memory, here.wall, name, pace).flush(here.clock)
    lookout = Lookout(
        here.storage, here.settings, here.clock, here.wall, Evidence(mine, here.ask), Actor(here.storage, bool)
    )
    other = Writer(here.storage, here.memory, here.wall, "elsewhere:1:1", pace)
    for _ in range(27):
        here.clock.advance(1.0)
        here.memory.keep([here.beat(id) for id in here.ids[3:]], here.clock.monotonic())
        other.flush(here.clock)
        newest = here.wall.at(here.clock.monotonic())
        here.storage.transaction(lambda tx: tx.observe("elsewhere:1:1", {"newest": newest}, keep=3600.0))  # noqa: B023 - runs now
        lookout.look(here.since, "here:1:1")
    assert not here.failovers()
    assert {e["rule"] for e in here.events("failover.held")} == {"doubt"}


def test_a_look_costs_with_the_silent_not_with_all(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = rig(30, heartbeat_timeout=10.0, heartbeat_interval=1.0)
    here.mute()
    gone, *others = here.ids
    here.look()
    here.clock.advance(7.0)
    here.heard(*others)
    here.look()  # writes its figures, which count everybody
    asked, read = list[str](), list[str]()
    heard_at, liveness = here.memory.heard_at, SqlTransaction.liveness

    def noted(one: str) -> float | None:
        asked.append(one)
        return heard_at(one)

    def noting(tx: SqlTransaction, ids: Collection[str] | None = None) -> Sequence[Liveness]:
        read.extend(here.ids if ids is None else ids)
        return liveness(tx, ids)

    monkeypatch.setattr(here.memory, "heard_at", noted)
    monkeypatch.setattr(SqlTransaction, "liveness", noting)
    for _ in range(3):
        here.clock.advance(0.1)
        here.look()
    assert set(asked) == {gone}
    assert set(read) == {gone}


def test_what_a_deleted_load_balancer_left_behind_is_not_failed_over(rig: Make) -> None:
    here = rig(3)
    here.mute()
    left, gone, well = here.amphorae
    words = "UPDATE load_balancer SET provisioning_status = 'DELETED' WHERE id = :id"
    with here.storage._engine.begin() as connection:
        connection.execute(text(words), {"id": left.load_balancer_id})
    here.pass_(0.7, well.id)
    here.answered(left.id, gone.id)
    here.pass_(1.0, well.id)
    assert here.failovers() == [gone.id]
    assert len(here.events("amphora.lost")) == 1
