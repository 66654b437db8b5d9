"""Standard output that is closed, full or of another encoding; whoever follows something ends that with Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import Admin


@pytest.fixture
def made(admin: Admin) -> Admin:
    admin.inside("lb", "create", "--name", "bücher", "--no-wait")
    return admin


def shell(admin: Admin, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell, where octavia-admin is `$ADMIN`."""
    environment = admin.environment | {"ADMIN": f"{sys.executable} -m octavia_core.cli"} | more
    return subprocess.run(
        ["sh", "-c", line], env=environment, capture_output=True, text=True, check=False, timeout=60, encoding="utf-8"
    )


@pytest.mark.parametrize("command", ["lb list", "lb list --json", "lb show bücher", "health top --count 1"])
def test_a_full_disk_behind_standard_output_is_a_sentence(made: Admin, command: str) -> None:
    said = shell(made, f"$ADMIN {command} > /dev/full")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "standard output cannot be written: No space left on device" in said.stderr


@pytest.mark.parametrize(
    ("command", "code"), [("--help", 1), ("--version", 1), ("lb show nope --json", 3), ("nonsense --json", 2)]
)
def test_so_it_is_where_no_command_has_begun_or_it_has_failed(made: Admin, command: str, code: int) -> None:
    said = shell(made, f"$ADMIN {command} > /dev/full")
    assert (said.returncode, said.stderr.count("\n")) == (code, 1), said.stderr


def test_closed_streams_are_no_reason_to_fail(made: Admin) -> None:
    assert shell(made, "$ADMIN lb list >&- 2>&-").returncode == 0
    assert shell(made, "$ADMIN lb show nope >&- 2>&-").returncode == 3


def test_letters_that_an_encoding_has_not_are_shown_escaped(made: Admin) -> None:
    for command in ("lb list", "lb show bücher", "why bücher"):
        said = shell(made, f"$ADMIN {command}", PYTHONIOENCODING="ascii")
        assert said.returncode == 0, said
        assert "b\\xfccher" in said.stdout


def test_following_ends_with_ctrl_c_and_that_is_success(made: Admin) -> None:
    process = made.start("events", "--follow")
    assert process.stdout is not None
    assert "b\u00fccher" in process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_nothing_to_show_is_said_and_lines_have_no_blanks_at_their_ends(made: Admin) -> None:
    said = made.inside("events", "--after", "99999")
    assert (said.out, said.err) == ("", "no events with a number above 99999\n")
    assert made.inside("l7policy", "list").err == "no L7 policies\n"
    lines = made.inside("lb", "list").out.splitlines()
    assert len(lines) == 2
    assert all(line == line.rstrip() for line in lines)
