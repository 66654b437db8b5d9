"""`octavia-admin operation ...` and `timeline`: the good case, and every bad one in a sentence that changes nothing."""

from __future__ import annotations

import functools
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.db import schema
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import Topology
from octavia_core.domain.wishes import NewLoadBalancer
from tests.cli.conftest import PATIENCE, Admin
from tests.engine.copies import dump, forget
from tests.explain.stage import Stage

NOBODY = "00000000-0000-4000-8000-000000000000"


@functools.cache
def template() -> Path:
    """Authorities and empty tables, made once."""
    folder = Path(tempfile.mkdtemp(prefix="octavia-desk-"))
    Stage(folder, f"sqlite:///{folder}/octavia.db").make()
    return folder


class Desk:
    """A cloud's database with operations of each kind, where nobody works; rows are compared before and after."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder, f"sqlite:///{folder}/octavia.db")
        shutil.copytree(template(), folder, dirs_exist_ok=True)
        self.stage.write()
        self.storage = SqlStorage.open(self.stage.settings)
        acceptor = Acceptor(self.storage, Topology.SINGLE)
        self.open = acceptor.create_load_balancer(NewLoadBalancer(name="web"), Asked(actor="somebody")).id
        self.over = acceptor.create_load_balancer(NewLoadBalancer(name="old"), Asked()).id
        self.storage.transaction(lambda tx: tx.close_operation(self.over, OperationState.FAILED, "no more servers"))
        self.parked = acceptor.create_load_balancer(NewLoadBalancer(name="slow"), Asked()).id
        claims = self.storage.claim("host:1:abcd", {"create": {1}}, lease=60, limit=2)
        for operation, claim in claims:
            if operation.id == self.parked:
                self.storage.park(claim, wake_in=900, wait=None, error="the network is away")

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        return dump(self.stage.url)

    def __call__(self, *words: str, code: int = 0) -> Any:
        said = self.stage.admin(*words)
        assert said.code == code, said
        return said

    def data(self, *words: str) -> Any:
        said = self(*words, "--json")
        assert said.err == ""
        return json.loads(said.out)

    def state(self, id: str) -> OperationState:
        row = self.storage.read(lambda tx: tx.operation(id))
        assert row is not None
        return row.state


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.storage.close()
    forget(made.stage.url)


def test_operations_are_listed(desk: Desk) -> None:
    listed = desk.data("operation", "list")
    assert [row["id"] for row in listed] == [desk.parked, desk.over, desk.open]
    assert [row["state"] for row in listed] == ["WAITING", "FAILED", "RUNNING"]
    assert {row["id"] for row in desk.data("operation", "list", "--open")} == {desk.parked, desk.open}
    assert [row["id"] for row in desk.data("operation", "list", "slow")] == [desk.parked]
    assert len(desk.data("operation", "list", "--limit", "1")) == 1
    table = desk("operation", "list").out
    assert "no more servers" in table
    assert all(id in table for id in (desk.open, desk.over, desk.parked))


def test_an_operation_is_shown_with_its_journal(desk: Desk) -> None:
    shown = desk.data("operation", "show", desk.open)
    assert (shown["flow"], shown["actor"], shown["state"], shown["journal"]) == ("create", "somebody", "RUNNING", [])
    table = desk("operation", "show", desk.over).out
    assert "FAILED" in table
    assert "no more servers" in table


def test_a_timeline_by_name_and_by_operation(desk: Desk) -> None:
    assert [moment["name"] for moment in desk.data("timeline", "web")] == ["operation.accepted"]
    assert desk.data("timeline", desk.open) == desk.data("timeline", "web")
    assert "was asked for" in desk("timeline", desk.open).out


def test_a_parked_operation_is_hastened_and_who_asked_is_remembered(desk: Desk) -> None:
    assert desk.data("operation", "retry", desk.parked)["wake_at"] == 0
    (event,) = [m for m in desk.data("timeline", desk.parked) if m["name"] == "operation.retried"]
    assert "asked for by" in event["text"]
    assert "octavia-admin" in event["text"]
    assert "looked at now" in desk("operation", "retry", desk.parked).out


def test_an_operation_is_cancelled(desk: Desk) -> None:
    assert desk.data("operation", "cancel", desk.parked)["cancelled"] is True
    row = desk.storage.read(lambda tx: tx.operation(desk.parked))
    assert row is not None
    assert row.undoing
    assert "octavia-admin" in (row.error or "")
    assert desk.data("why", desk.parked)["situation"] == "undoing"
    assert "is being undone" in desk("operation", "cancel", desk.open).out


def test_a_release_says_first_what_it_will_do_and_without_a_yes_does_nothing(desk: Desk) -> None:
    before = desk.rows()
    said = desk("operation", "release", desk.open, code=2)
    assert f"Operation {desk.open} (create, RUNNING) ends as CANCELLED; nothing that it did is undone." in said.out
    assert "Its holder host:1:abcd may change nothing in the database from then on." in said.out
    assert said.err == "nothing was done; do it with --yes\n"
    only = desk.stage.admin("operation", "release", desk.open, "--json")
    assert only.code == 2
    assert json.loads(only.out)["released"] is False
    assert desk.rows() == before


def test_a_release_lets_go_stores_what_is_needed_and_remembers_who(desk: Desk) -> None:
    done = desk.data("operation", "release", desk.open, "--yes")
    assert done["released"] is True
    assert desk.state(desk.open) is OperationState.CANCELLED
    stored = desk.data("operation", "show", done["stored"])
    assert (stored["flow"], stored["state"]) == ("create", "QUEUED")
    (event,) = [e for e in desk.storage.read(lambda tx: tx.events()) if e.name == "operation.released"]
    assert event.operation_id == desk.open
    assert "octavia-admin" in event.data["actor"]
    assert event.data["actor"] in event.text
    assert "ends as CANCELLED" in event.text
    assert any(m["name"] == "operation.released" for m in desk.data("timeline", desk.open))


@pytest.mark.parametrize(("answer", "state"), [("y", OperationState.CANCELLED), ("n", OperationState.RUNNING)])
def test_on_a_terminal_a_release_asks(desk: Desk, answer: str, state: OperationState) -> None:
    terminal, mine = pty.openpty()
    words = [
        "operation",
        "release",
        desk.open,
        "--config-file",
        str(desk.stage.config),
        "--state",
        str(desk.stage.folder),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "octavia_core.cli", *words],
        stdin=mine,
        stdout=mine,
        stderr=mine,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "dumb", "COLUMNS": "200"},
    )
    os.close(mine)
    shown = b""
    try:
        while b"Do it? [y/N]" not in shown:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # it has ended
                raise AssertionError(shown.decode()) from None
        assert b"ends as CANCELLED" in shown, "what it will do comes first"
        assert desk.state(desk.open) is OperationState.RUNNING
        os.write(terminal, f"{answer}\n".encode())
        assert process.wait(PATIENCE) == (0 if answer == "y" else 2)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert desk.state(desk.open) is state


@pytest.mark.parametrize("verb", ["show", "retry", "cancel", "release"])
def test_an_operation_that_is_not_there(desk: Desk, verb: str) -> None:
    refused(desk, ["operation", verb, NOBODY], 3, "octavia-admin operation list")
    refused(desk, ["operation", verb, "web"], 3, "no operation 'web'")


def test_a_timeline_of_nothing(desk: Desk) -> None:
    refused(desk, ["timeline", NOBODY], 3, "no load balancer, amphora or operation")
    refused(desk, ["why", NOBODY], 3, "no load balancer, amphora or operation")
    refused(desk, ["operation", "list", NOBODY], 3, "no load balancer")


@pytest.mark.parametrize("verb", ["retry", "cancel", "release"])
def test_an_operation_that_is_over(desk: Desk, verb: str) -> None:
    refused(desk, ["operation", verb, desk.over], 2, f"operation {desk.over} is over")
    if verb == "release":
        refused(desk, ["operation", verb, desk.over, "--yes"], 2, f"operation {desk.over} is over")


def test_a_second_release(desk: Desk) -> None:
    desk("operation", "release", desk.open, "--yes")
    refused(desk, ["operation", "release", desk.open, "--yes"], 2, "is over (CANCELLED); ask for what you want anew")


def test_what_is_not_parked_cannot_be_hastened(desk: Desk) -> None:
    refused(desk, ["operation", "retry", desk.open], 2, "is RUNNING, not parked, so there is nothing to hasten")


def refused(desk: Desk, words: list[str], code: int, sentence: str) -> None:
    """One sentence, that code, the same as JSON, and no row is different."""
    before = desk.rows()
    said = desk(*words, code=code)
    assert said.err.count("\n") == 1
    assert sentence in said.err
    error = json.loads(desk.stage.admin(*words, "--json").out)["error"]
    assert (error["exit_code"], error["message"] in said.err) == (code, True)
    assert desk.rows() == before


ASKING = (
    ["why", "web"],
    ["timeline", "web"],
    ["events"],
    ["operation", "list"],
    ["operation", "show", NOBODY],
    ["operation", "retry", NOBODY],
    ["operation", "cancel", NOBODY],
    ["operation", "release", NOBODY, "--yes"],
    ["db", "check"],
)


def test_a_database_without_our_tables_names_the_command_that_makes_them(database_url: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, database_url)
    stage.write()
    for words in ASKING:
        said = stage.admin(*words)
        assert said.code == 5, said
        assert said.err.count("\n") == 1
        assert "has no tables yet; run: octavia-admin db upgrade" in said.err
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert not engine.dialect.has_table(connection, "oc_operation")
    engine.dispose()


def test_a_database_of_an_unknown_revision_is_left_alone(database_url: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, database_url)
    stage.make()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = 'oc9999'"))
    before = dump(database_url)
    for words in (*ASKING, ["db", "upgrade"]):
        said = stage.admin(*words)
        assert said.code == 5, said
        assert said.err.count("\n") == 1
        assert "newer version of octavia-core (revision oc9999" in said.err
    assert dump(database_url) == before
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")) == "oc9999"
    engine.dispose()
    forget(database_url)


def test_settings_of_a_cloud_that_are_not_there(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sqlite://")
    said = stage.admin("operation", "list")
    assert said.code == 5
    assert str(stage.config) in said.err
    assert said.err.count("\n") == 1


def test_a_state_directory_needs_no_settings_file(tmp_path: Path) -> None:
    admin = Admin(tmp_path / "state")
    admin.inside("db", "upgrade")
    assert admin.inside("operation", "list", "--json").data == []
    assert admin.inside("timeline", "web", code=3).out == ""


def test_looking_at_a_clouds_database_needs_none_of_its_drivers(tmp_path: Path) -> None:
    """A machine to look from has the database's address, and not the drivers that the settings name."""
    admin = Admin(tmp_path / "state")
    made = admin.inside("lb", "create", "--name", "web", "--json").data
    config = tmp_path / "cloud.toml"
    config.write_text(
        f'[database]\nconnection = "sqlite:///{tmp_path}/state/octavia.db"\n'
        '[controller_worker]\ncompute_driver = "elsewhere"\nnetwork_driver = "elsewhere"\namphora_driver = "elsewhere"\n'
        '[certificates]\ncert_manager = "elsewhere"\n'
    )
    said = admin.inside("why", "web", "--config-file", str(config), "--json").data
    assert said["id"] == made["id"]
    assert [lb["name"] for lb in admin.inside("lb", "list", "--config-file", str(config), "--json").data] == ["web"]
    shown = admin.inside("lb", "show", "web", "--config-file", str(config), "--json").data
    assert (shown["id"], shown["provisioning_status"]) == (made["id"], "ACTIVE")
    assert "web" in admin.inside("lb", "show", "web", "--config-file", str(config)).out
    refused = admin.inside("orphans", "--config-file", str(config), code=5)
    assert "no compute driver named 'elsewhere'" in refused.err
    admin.inside("down")
