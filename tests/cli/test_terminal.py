"""What reaches a terminal: names that command nothing, ids that stay whole."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from octavia_core.cli.commands.health import _picture
from octavia_core.cli.output import Screen
from octavia_core.controller.fleet_health import Fleet, Manager

ID = "3f5a0c1e-8f0b-4a3e-9a54-5f0b7c1d2e3f"
HOSTILE = "a\x1b]0;owned\x07\x9b2J\x7fb"


def terminal(screen: Screen, width: int) -> io.StringIO:
    """Have the screen print on a terminal of that width."""
    file = io.StringIO()
    kind = type(screen.out)
    assert issubclass(kind, Console)
    screen.out = kind(file=file, force_terminal=True, color_system=None, width=width, highlight=False, emoji=False)
    return file


def test_a_name_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(json=False)
    screen.say(f"load balancer {HOSTILE}\nforged was asked for")
    screen.table(("id", "name"), [(ID, HOSTILE)], empty="")
    screen.note(HOSTILE)
    screen.error(f"no {HOSTILE}", kind="NotFound", code=3, operation=None)
    screen.data({"name": HOSTILE})
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\x7f"}
        assert "\\x1b]0;owned" in text
    assert "\\nforged" in said.out.splitlines()[0]


def test_json_gives_a_name_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(json=True).data({"name": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"name": HOSTILE}


@pytest.mark.parametrize("width", [40, 80, 200])
def test_ids_stay_whole_however_narrow_a_terminal_is(width: int) -> None:
    screen = Screen(json=False)
    out = terminal(screen, width)
    screen.table(
        ("id", "what", "state", "load balancer id", "error"),
        [(ID, "configure", "FAILED", ID, "the amphora said no " * 5)],
        empty="",
    )
    text = out.getvalue()
    assert text.count(ID) == 2
    assert "..." not in text
    assert "…" not in text


def manager(name: str) -> Manager:
    return Manager(
        name=name,
        age=2.5,
        alive=True,
        watched=100,
        hears=99,
        never_heard=0,
        silent=1,
        heartbeats=12345,
        per_second=9.9,
        lag=0.1,
        oldest=3.2,
        oldest_id=ID,
        dropped={"bad_digest": 3, "listener count differs": 7},
        held={"doubt": 3},
    )


@pytest.mark.parametrize(("width", "left"), [(240, False), (120, True), (80, True)])
def test_health_top_keeps_names_of_managers_whole_and_names_what_it_leaves_out(width: int, left: bool) -> None:
    names = [f"controller-number-{number}:12345:abcdef0{number}" for number in range(3)]
    found = Fleet(now=0, amphorae={}, paused=None, waiting=0, managers=tuple(map(manager, names)))
    screen = Screen(json=False)
    out = terminal(screen, width)
    screen.out.print(_picture(found, screen.out))
    text = out.getvalue()
    assert all(name in text for name in names)
    assert "99 of 100" in text
    assert (ID in text) is not left
    assert ("left out, for want of room: oldest" in text) is left
    assert all(len(line) <= width for line in text.splitlines())


def test_health_top_folds_names_where_there_is_no_room_for_them() -> None:
    found = Fleet(now=0, amphorae={}, paused=None, waiting=0, managers=(manager("n" * 50),))
    screen = Screen(json=False)
    out = terminal(screen, 30)
    screen.out.print(_picture(found, screen.out))
    assert sum(line.split(" ")[0].count("n") for line in out.getvalue().splitlines() if line.startswith("nn")) == 50
