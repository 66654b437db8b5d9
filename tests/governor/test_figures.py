"""What health managers write about themselves, and how it is shown."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from octavia_core.controller import governing
from octavia_core.controller.fleet_health import fleet
from octavia_core.controller.health.figures import rates
from octavia_core.controller.holder import PLACE, holder_name, place_of_processes
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables.own import oc_observer
from octavia_core.settings import Settings
from tests.cli.conftest import Admin
from tests.health.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, 6, heartbeat_timeout=10.0)
    yield made
    made.close()


def test_each_health_manager_writes_one_row_whom_it_hears_and_how_often(rig: Rig) -> None:
    gone, *well = rig.ids
    rig.memory.counters["signature"] += 3
    rig.pass_(5.0, *well)
    found = fleet(rig.storage)
    assert dict(found.amphorae) == {"ALLOCATED": 6}
    (here,) = found.managers
    assert here.alive
    assert (here.name, here.watched, here.hears, here.silent, here.never_heard) == ("here", 6, 6, 0, 0)
    assert here.oldest_id == gone
    assert here.oldest == pytest.approx(3.0, abs=0.2), "when it was written last"
    assert here.per_second == pytest.approx(50.0)
    assert dict(here.dropped) == {"signature": 3}
    rig.pass_(9.0, *well)
    (here,) = fleet(rig.storage).managers
    assert here.hears == 5, "one is not heard within the timeout"


def test_what_the_governor_holds_back_is_in_the_row_and_in_its_overview(rig: Rig) -> None:
    rig.mute()
    rig.pass_(14.0)
    (here,) = fleet(rig.storage).managers
    assert dict(here.held) == {"doubt": 6}
    found = governing.overview(rig.storage, rig.settings)
    assert (dict(found.held), found.observers) == ({"doubt": 6}, 1)
    assert "deaf" in found.evidence["doubt"]


def test_rates_need_something_to_compare_with() -> None:
    assert rates({"accepted": 9, "dropped": 0}, {}, None) == {"heartbeats": 9, "per_second": None, "dropped": {}}
    assert rates({"accepted": 9, "repeated": 1, "version": 2}, {"accepted": 4}, 2.0) == {
        "heartbeats": 10,
        "per_second": 3.0,
        "dropped": {"version": 2},
    }


@pytest.fixture
def written(admin: Admin) -> Admin:
    """A state directory in whose database a health manager of another version has written, too."""
    admin.inside("db", "upgrade")
    storage = SqlStorage.open(
        Settings.load(("test", {"database": {"connection": f"sqlite:///{admin.state}/octavia.db"}}))
    )
    figures = {"watched": 10, "hears": 0, "per_second": 12.5, "oldest": {"amphora_id": "a-1", "seconds": 7.25}}
    storage.transaction(lambda tx: tx.observe("host-1:7", {**figures, "dropped": {"key": 4}}, keep=60))
    storage.transaction(lambda tx: tx.observe("host-2:8", {"watched": "many", "dropped": [1]}, keep=60))
    storage.transaction(lambda tx: tx.set_pause("jo", "upgrade"))
    storage.close()
    return admin


def test_health_show_says_it_in_tables_and_as_json(written: Admin) -> None:
    shown = written.inside("health", "show").out
    assert "failovers are paused by jo" in shown
    assert "0 of 10" in shown
    assert "7.2 s (a-1)" in shown
    first, second = written.inside("health", "show", "--json").data["managers"]
    assert (first["per_second"], first["dropped"], first["alive"]) == (12.5, {"key": 4}, True)
    assert (second["name"], second["watched"], second["dropped"]) == ("host-2:8", None, {})


def test_health_top_shows_it_again_and_again(written: Admin) -> None:
    lines = written.inside("health", "top", "--every", "0.2", "--count", "2", "--json").out.splitlines()
    assert [json.loads(line)["managers"][0]["name"] for line in lines] == ["host-1:7"] * 2
    shown = written.inside("health", "top", "--every", "0.2", "--count", "2").out
    assert shown.count("host-1:7") == 2
    assert shown.endswith("\n")


def test_one_that_was_killed_is_gone_and_what_to_do_is_said(written: Admin) -> None:
    storage = SqlStorage.open(
        Settings.load(("test", {"database": {"connection": f"sqlite:///{written.state}/octavia.db"}}))
    )
    killed = holder_name()
    with subprocess.Popen(["true"]) as process:
        process.wait()
    killed = killed.replace(f":{os.getpid()}:", f":{process.pid}:")
    storage.transaction(lambda tx: tx.observe(killed, {PLACE: place_of_processes()}, keep=600))
    storage.close()
    said = written.inside("health", "show")
    assert "ago, gone" in said.out
    assert f"{killed} is gone: its process has ended; the others go on without it" in said.err
    assert said.err.rstrip().endswith("start it there: octavia-admin up")
    found = written.inside("health", "show", "--json").data
    assert {one["name"]: (one["alive"], one["life"], one["ended"]) for one in found["managers"]} == {
        "host-1:7": (True, "alive", False),
        "host-2:8": (True, "alive", False),
        killed: (False, "gone", True),
    }
    (advice,) = found["advice"]
    assert advice in said.err
    assert advice in " ".join(written.inside("health", "top", "--count", "1").out.split())


@pytest.mark.parametrize(("seconds", "life"), [(0, "alive"), (45, "silent"), (121, "gone")])
def test_rows_that_nobody_writes_any_more_are_called_what_they_are(written: Admin, seconds: int, life: str) -> None:
    storage = SqlStorage.open(
        Settings.load(("test", {"database": {"connection": f"sqlite:///{written.state}/octavia.db"}}))
    )
    past = storage.now() - seconds * 1_000_000
    storage.write(lambda tx: tx.write(update(oc_observer).values(written_at=past)))
    storage.close()
    said = written.inside("health", "show")
    found = written.inside("health", "show", "--json").data
    assert {one["life"] for one in found["managers"]} == {life}
    if life == "alive":
        assert found["advice"] == []
        return
    assert f"ago, {life}" in said.out
    (advice,) = found["advice"]
    assert advice.startswith(
        "health managers: none that has written lately, so nobody notices when an amphora dies; start one: "
    )
    assert advice.endswith("octavia-admin up")
    assert advice in said.err


def test_without_a_health_manager_it_says_so(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    said = admin.inside("health", "show")
    assert "amphorae: none" in said.out
    assert "no health manager has written lately" in said.err
    assert "start one: octavia-admin up" in said.err
    assert "no health manager has written lately" in admin.inside("health", "top", "--count", "1").out
