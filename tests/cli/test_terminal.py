"""What reaches a terminal: names that command nothing, ids that stay whole."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from octavia_core.cli.output import Screen

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
