"""Outages on real rows with simulated servers: the dead are rebuilt, the living are left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from octavia_core.controller.worker import Worker
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import TransientError
from octavia_core.flows.runner import Runner
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.hearts import Heard
from tests.health.rig import Rig, until

T = TypeVar("T")
Make = Callable[..., Rig]
TIMES = {"heartbeat_timeout": 60.0, "heartbeat_interval": 10.0}


class Minutes(SqlStorage):
    """A database whose clock is the test's, and that can be taken away: then every transaction fails."""

    away = False
    elapsed: Callable[[], float] | None = None
    begin: int | None = None

    def now(self) -> int:
        if self.begin is None:
            self.begin = super().now()
        return self.begin + int(1_000_000 * (self.elapsed() if self.elapsed else 0))

    def _run(self, once: Callable[[], T]) -> T:
        if self.away:
            raise TransientError("the database does not answer")
        return super()._run(once)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Make]:
    made: list[Rig] = []

    def make(count: int, **more: Any) -> Rig:
        made.append(Rig(tmp_path, count, storage=Minutes, **{**TIMES, **more}))
        made[0].storage.elapsed = made[0].clock.monotonic  # type: ignore[attr-defined]
        return made[0]

    yield make
    for each in made:
        each.close()


def minutes(rig: Rig, many: float, heard: Collection[str] = ()) -> None:
    """Let time pass: a heartbeat of these every ten seconds, two looks for each."""
    for _ in range(round(many * 6)):
        rig.heard(*heard)
        rig.writer.flush(rig.clock)
        for _ in range(2):
            rig.clock.advance(5)
            rig.look()


def rebuilt(rig: Rig) -> None:
    """Until no operation is open; five minutes at most, for the long form."""
    for _ in range(30_000):
        if not rig.storage.read(lambda tx: tx.operations(open_only=True, limit=1)):
            return
        threading.Event().wait(0.01)
    raise AssertionError("failovers are still under way")


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_all_amphorae_of_a_host_that_dies_are_rebuilt_and_no_others(rig: Make, count: int) -> None:
    here = rig(count, clock=SystemClock(), engine={"failovers_per_minute": 60_000})
    hosts = {h.amphora_id: h.host for h in here.storage.read(lambda tx: tx.liveness())}
    dead = {id for id, host in hosts.items() if host == "host-1"}
    assert len(dead) == count // 4
    for amphora in here.amphorae:
        if amphora.id in dead:
            here.world.compute.kill(str(amphora.compute_id))  # type: ignore[attr-defined]
    alive = [id for id in here.ids if id not in dead]
    worker = Worker(Runner(here.storage, here.world), threads=8)
    worker.start()
    try:
        for _ in range(60):
            minutes(here, 1 / 6, alive)
            if len(here.failovers()) == len(dead):
                break
            if here.clock.monotonic() > 40:
                until(lambda: any(here.ask.ended(id) for id in dead - set(here.failovers())) or not dead)
        assert set(here.failovers()) == dead
        worker.nudge()
        rebuilt(here)
    finally:
        worker.stop(10)
    serving = [a for a in here.storage.read(lambda tx: tx.amphorae()) if a.status is AmphoraStatus.ALLOCATED]
    assert len(serving) == count
    assert len({a.load_balancer_id for a in serving}) == count, "each load balancer has one that serves"
    lost = [e.data for e in here.storage.read(lambda tx: tx.events(limit=100_000)) if e.name == "amphora.lost"]
    assert len(lost) == len(dead)
    assert {(event["host"], event["zone"]) for event in lost} == {("host-1", "simulated")}


def test_cut_off_from_every_receiver_for_ten_minutes_nobody_is_failed_over(rig: Make) -> None:
    here = rig(100)
    here.mute()
    minutes(here, 2, here.ids)
    minutes(here, 10)
    for number in range(0, 100, 20):  # and they are heard again one after the other
        here.heard(*here.ids[: number + 20])
        here.clock.advance(2)
        here.look()
    minutes(here, 3, here.ids)
    assert here.failovers() == []
    (held,) = here.events("failover.held")
    assert (held["rule"], held["amphorae"]) == ("doubt", 100)
    assert held["silent"]["host"] == {f"host-{number}": 25 for number in range(1, 5)}
    assert held["silent"]["zone"] == {"simulated": 100}
    assert len(here.events("failover.resumed")) == 1


def test_cut_off_from_one_receiver_of_three_nobody_is_failed_over(rig: Make) -> None:
    here = rig(30)
    here.mute()
    sequence = 0

    def heard_elsewhere(observer: str, ids: Collection[str]) -> None:
        now = here.wall.now()
        beats = [Heard(amphora_id=id, at=now, sequence=sequence, observer=observer) for id in ids]
        here.storage.transaction(lambda tx: tx.heard(beats))

    for sequence in range(72):
        for turn, observer in enumerate(("here", "second", "third")):
            some = [id for number, id in enumerate(here.ids) if (number + sequence) % 3 == turn]
            if observer != "here" or not 12 <= sequence < 60:
                heard_elsewhere(observer, some)
        here.clock.advance(10)
        here.look()
    assert here.failovers() == []
    assert here.events("failover.held") == []


def test_a_database_that_is_away_for_ten_minutes_costs_nobody_when_it_is_back(rig: Make) -> None:
    here = rig(30)
    here.mute()
    minutes(here, 2, here.ids)
    here.storage.away = True  # type: ignore[attr-defined]
    for _ in range(60):
        here.heard(*here.ids[::2])  # the others send to health managers that cannot write, either
        here.clock.advance(10)
        with pytest.raises(TransientError):
            here.writer.flush(here.clock)
        with pytest.raises(TransientError):
            here.look()
    here.storage.away = False  # type: ignore[attr-defined]
    here.since = here.wall.now()  # as the health manager does: silence counts from here
    here.look()
    assert here.failovers() == []
    minutes(here, 3, here.ids)
    assert here.failovers() == []


def test_never_heard_since_boot_has_a_deadline_of_its_own(rig: Make) -> None:
    here = rig(6, engine={"boot_deadline": 300.0})
    here.mute()
    new = here._amphora()
    minutes(here, 5, here.ids)
    assert here.failovers() == [], "the boot deadline and a timeout are not over"
    for _ in range(12):
        minutes(here, 1 / 6, here.ids)
        if here.clock.monotonic() > 300 + 40:
            here.answered(new.id)
    assert here.failovers() == [new.id]
    assert "never heard; its server was asked for" in here.events("amphora.lost")[0]["evidence"]
