"""What is said where no health manager has written lately: whether it ended, cannot write, or may live."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from octavia_core.controller.holder import PLACE, holder_name, place_of_processes
from octavia_core.controller.unheard import unheard
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables.own import oc_observer
from octavia_core.domain.secret import Secret
from octavia_core.errors import TransientError
from octavia_core.settings import Database, Settings
from tests.cli.conftest import Admin
from tests.support.databases import copy_to

HOST = socket.gethostname()[:40]


class Place(SqlStorage):
    """One that can be told to take no writes."""

    refuses = False

    def turn(self, name: str, seconds: float) -> bool:
        if self.refuses:
            raise TransientError("the database takes no writes now: it is read-only")
        return super().turn(name, seconds)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Place]:
    made = Place.open(Settings(database=Database(connection=Secret(copy_to(tmp_path / "octavia.db")))))
    assert isinstance(made, Place)
    yield made
    made.close()


def silent(storage: SqlStorage, name: str, place: str = "") -> None:
    """A health manager has written its row 45 s ago."""
    storage.transaction(lambda tx: tx.observe(name, {PLACE: place}, keep=3600))
    past = storage.now() - 45_000_000
    storage.write(lambda tx: tx.write(update(oc_observer).values(written_at=past)))


def said(storage: SqlStorage, words: str) -> str:
    """These words, which say 45 s, when they say at most as many seconds as it was by now."""
    found = re.search(r"written nothing for (\d+) s", words)
    assert found is not None, words
    (row,) = storage.read(lambda tx: tx.observers())
    assert 45 <= int(found[1]) <= round((storage.now() - row.written_at) / 1_000_000)
    return words.replace(found[0], "written nothing for 45 s")


def test_one_that_works_is_not_missed(storage: Place) -> None:
    storage.transaction(lambda tx: tx.observe(holder_name(), {}, keep=3600))
    assert unheard(storage, running=None) is None


def test_one_of_this_host_lives_or_has_ended(storage: Place) -> None:
    mine = holder_name()
    silent(storage, mine, place_of_processes())
    found = unheard(storage, running=None)
    assert found is not None
    assert said(storage, found.words).startswith(
        f"process {mine.split(':')[1]} on {HOST} lives and has written nothing for 45 s; see its log"
    )
    assert not found.start
    storage.transaction(lambda tx: tx.forget_observer(mine))
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    silent(storage, f"{HOST}:{process.pid}:1", place_of_processes())
    found = unheard(storage, running=None)
    assert found is not None
    assert (
        found.words
        == f"none: the last one, process {process.pid} on {HOST}, has ended, so nobody notices when an amphora dies"
    )
    assert found.start


def test_of_one_of_another_host_it_is_said_what_is_known(storage: Place) -> None:
    silent(storage, "elsewhere:1:1")
    found = unheard(storage, running=None)
    assert found is not None
    assert said(storage, found.words).startswith(
        "the last one, process 1 on elsewhere, has written nothing for 45 s; see its log if it lives"
    )
    assert found.start


def test_a_controller_that_runs_hears_by_itself(storage: Place) -> None:
    silent(storage, "elsewhere:1:1")
    found = unheard(storage, running=True)
    assert found is not None
    words = "the controller of this state directory has written nothing for 45 s; see its log"
    assert said(storage, found.words) == words


def test_a_database_that_takes_no_writes_is_what_is_named(storage: Place) -> None:
    silent(storage, "elsewhere:1:1")
    storage.refuses = True
    found = unheard(storage, running=None)
    assert found is not None
    assert "the database takes no writes now: it is read-only" in found.words
    assert not found.start, "one more could not write either"


def test_without_any_the_command_says_how_to_start_one(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    said = " ".join(admin.inside("governor", "show").out.split())
    assert "none that has written lately, so nobody notices when an amphora dies; start one: octavia-admin up" in said
    found = admin.inside("governor", "show", "--json").data
    assert found["unheard"] == "none that has written lately, so nobody notices when an amphora dies"
