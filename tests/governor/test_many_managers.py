"""Three health managers on one database, each database: one failover for each death, whoever is first; one bucket."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.controller import governing
from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.ask import Inquiry
from octavia_core.controller.health.look import Evidence, Lookout
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.wall import Wall
from octavia_core.db.storage import SqlStorage
from octavia_core.settings import Settings
from tests.health.rig import Rig

DEATHS = 40


@pytest.fixture
def rig(tmp_path: Path, ready_database_url: str) -> Iterator[Rig]:
    made = Rig(tmp_path, DEATHS, database=ready_database_url, engine={"failovers_per_minute": 600_000})
    yield made
    made.close()


class Manager:
    """A health manager of its own: nothing but the database is shared."""

    def __init__(self, rig: Rig, settings: Settings) -> None:
        self.storage = SqlStorage.open(settings)
        self.ask = Inquiry(self.storage, rig.world, 1.0)
        wall, actor = Wall(self.storage, rig.clock), Actor(self.storage, lambda: None)
        self.lookout = Lookout(self.storage, settings, rig.clock, wall, Evidence(Memory(2.0), self.ask), actor)

    def close(self) -> None:
        self.ask.close()
        self.storage.close()


def all_notice(rig: Rig, settings: Settings) -> None:
    """Each of three is told of every death, in an order of its own, all at the same time."""
    managers = [Manager(rig, settings) for _ in range(3)]
    ready = threading.Barrier(len(managers))

    def notice(manager: Manager, order: list[str]) -> None:
        ready.wait(30)
        for server in order:
            manager.lookout.died(server, "its host lost power")

    threads = []
    for number, manager in enumerate(managers):
        order = [str(amphora.compute_id) for amphora in rig.amphorae]
        random.Random(number).shuffle(order)
        threads.append(threading.Thread(target=notice, args=(manager, order)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    for manager in managers:
        manager.close()


def test_each_death_has_exactly_one_failover_and_costs_one_token(rig: Rig) -> None:
    rig.storage.transaction(lambda tx: (tx.governing(hold=True), tx.set_tokens(600_000.0)))
    all_notice(rig, rig.settings)
    assert sorted(rig.failovers()) == sorted(rig.ids)
    assert len(rig.events("amphora.lost")) == DEATHS


def test_together_they_start_no_more_than_the_bucket_holds(rig: Rig) -> None:
    poor = Settings.load(
        (
            "test",
            {"database": {"connection": rig.settings.database.connection}, "engine": {"failovers_per_minute": 0.001}},
        )
    )
    rig.storage.transaction(lambda tx: (tx.governing(hold=True), tx.set_tokens(1.0)))
    all_notice(rig, poor)
    assert len(rig.failovers()) == 1
    governing.pause(rig.storage, actor="jo", reason="upgrade")
    all_notice(rig, rig.settings)
    assert len(rig.failovers()) == 1, "and none while they are paused"
    governing.resume(rig.storage, actor="jo")
    all_notice(rig, rig.settings)
    assert sorted(rig.failovers()) == sorted(rig.ids)
