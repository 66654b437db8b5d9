"""What is said before anything is done: help, usage, exit codes, JSON, colours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from octavia_core.cli.exits import Exit, exit_of
from octavia_core.cli.program import build, run
from octavia_core.cli.reference import every_command
from octavia_core.cli.session import Session, guarded
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import (
    BadRequest,
    DriverNotFound,
    LoadBalancerBusy,
    NotFound,
    OperationFailed,
    StateDirectoryBusy,
    TransientError,
)
from octavia_core.policy.changes import wish
from tests.cli.conftest import Admin


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVIA_STATE", str(tmp_path / "nowhere"))
    return tmp_path / "nowhere"


@pytest.mark.parametrize("path", [" ".join(path) for path in every_command()])
def test_every_command_has_help(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*path.split(), "--help"]) == 0
    said = capsys.readouterr()
    assert path in said.out
    assert "--json" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lb", "shwo"], "No such command 'shwo'"),
        (["lb", "create", "--nam", "x"], "--name"),
        (["lb", "show"], "Missing argument 'LB'"),
        (["member", "create", "web"], "Missing argument 'ADDRESS:PORT'"),
        (["listener", "set", "x", "--connection-limit", "many"], "--connection-limit"),
        (["lb", "create", "--topology", "TRIPLE"], "TRIPLE"),
        (["lb", "delete", "x", "--timeout", "-1"], "--timeout"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_code_2(
    arguments: list[str], words: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == Exit.BAD_REQUEST
    said = capsys.readouterr()
    assert said.err.startswith("Error: ")
    assert words in said.err
    assert "--help" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not nowhere.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lb", "create", "--listener", "HTTP"], "--listener 'HTTP' must be PROTOCOL:PORT"),
        (["listener", "create", "web", "HTTP"], ": listener 'HTTP' must be PROTOCOL:PORT"),
        (["member", "create", "pool", "1.2.3.4"], "member is '1.2.3.4', but must be ADDRESS:PORT"),
        (["monitor", "create", "pool", "HTTP:/ delay"], "monitor: 'delay' must be NAME=VALUE"),
        (["lb", "create", "--listener", "HTTP:web"], "protocol_port"),
        (["lb", "create", "--listener", "HTPP:80"], "HTPP"),
        (["lb", "create", "--listener", "HTTP:80", "--member", "10.0.0.1"], "ADDRESS:PORT"),
        (["lb", "create", "--listener", "HTTP:80", "--monitor", "HTTP:/ dely=1"], "delay"),
        (["lb", "apply", "-f", "/nonexistent.json"], "cannot be read"),
        (["l7policy", "create", "x", "REJECT", "--rule", "PATH"], "TYPE COMPARE VALUE"),
        (["listener", "set", "x", "--insert-headers", "X-Forwarded-For"], "NAME=VALUE"),
    ],
)
def test_a_wrong_request_makes_no_state_directory(
    arguments: list[str], words: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) in {Exit.BAD_REQUEST, Exit.CONFIGURATION}
    said = capsys.readouterr()
    assert words in said.err or "no state directory" in said.err
    assert said.err.count("\n") == 1
    assert not nowhere.exists()


def test_looking_where_there_is_nothing_says_how_to_begin(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lb", "list"]) == Exit.CONFIGURATION
    assert f"there is no state directory at {nowhere}; octavia-admin up" in capsys.readouterr().err
    assert not nowhere.exists()


def test_an_option_before_or_after_the_command_wins_over_the_environment(
    nowhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["--state", f"{tmp_path}/a", "lb", "list"],
        ["lb", "list", "--state", f"{tmp_path}/b"],
        ["--state", f"{tmp_path}/c", "lb", "list", "--state", f"{tmp_path}/b"],
    ):
        run(arguments)
        assert f"{tmp_path}/{'a' if arguments[-1] == 'list' else 'b'};" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--json", "lb", "list"], ["lb", "list", "--json"]])
def test_with_json_an_error_is_an_object_too(
    arguments: list[str], nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(arguments)
    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert (error["type"], error["exit_code"]) == ("StateDirectoryError", 5)
    assert error["message"] in said.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OperationFailed("op", "why"), 1),
        (TransientError("away"), 1),
        (BadRequest("no"), 2),
        (NotFound("load balancer", "x"), 3),
        (LoadBalancerBusy("x", "PENDING_UPDATE"), 4),
        (StateDirectoryBusy("/x", 1), 4),
        (DriverNotFound("compute", "x", ()), 5),
    ],
)
def test_errors_have_their_codes(error: Exception, code: int) -> None:
    assert exit_of(error) == code


def test_a_bug_is_a_sentence_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, guarded(Session(state=str(tmp_path))):
        raise ZeroDivisionError("of ours")
    assert ended.value.exit_code == Exit.BUG
    said = capsys.readouterr().err
    (file,) = tmp_path.glob("traceback-*.txt")
    assert str(file) in said
    assert said.count("\n") == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert "ZeroDivisionError: of ours" in file.read_text()


def test_ctrl_c_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, guarded(Session(state=str(tmp_path))):
        raise KeyboardInterrupt
    assert ended.value.exit_code == Exit.INTERRUPTED
    assert capsys.readouterr().err == "Error: interrupted\n"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from octavia_core.cli.program import run\n"
        "run(['lb', 'create', '--help'])\n"
        "heavy = {'sqlalchemy', 'alembic', 'cryptography', 'urllib3', 'pluggy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr


def test_nobody_reading_is_quiet(admin: Admin) -> None:
    admin("db", "upgrade")
    reading, writing = os.pipe()
    os.close(reading)
    process = admin.start("config", "show", "--all", stdout=writing)
    os.close(writing)
    _, said = process.communicate(timeout=60)
    assert process.returncode == Exit.PIPE_CLOSED
    assert said == ""


def test_without_a_terminal_there_are_no_colours_and_nothing_is_cut(admin: Admin) -> None:
    admin("db", "upgrade")
    said = admin("config", "show", "--all")
    assert not re.search(r"\x1b|[─│╭]|…", said.out)
    assert str(admin.state / "authority/controllers.pem") in said.out


def test_the_program_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    from octavia_core import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"octavia-core {__version__}\n"


def test_the_app_can_be_built_any_number_of_times() -> None:
    assert len(build().registered_groups) == len(build().registered_groups)


def test_the_document_of_the_docs_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/apply-a-document.md").read_text()
    document = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert document is not None
    asked = wish(NewLoadBalancer, tomllib.loads(document[1]))
    assert (asked.name, len(asked.pools[0].members), asked.listeners[0].default_pool_id) == ("web", 2, "servers")
