"""The commands of docs/how-to/rehearse-an-outage.md run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from octavia_core.testing.outages import SCENARIOS
from tests.cli.conftest import Admin

PAGE = (Path(__file__).parents[2] / "docs/how-to/rehearse-an-outage.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_every_scenario_is_on_the_page() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE) == list(SCENARIOS)


def test_the_commands_run_and_exit_as_the_page_says(
    admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("rehearsal.toml").write_text(toml, encoding="utf-8")
    admin.inside("db", "upgrade")
    lost = {"name": "amphora.lost", "at": 5_000_000, "amphora_id": "a", "data": {"rule": "silence", "host": "rack-1"}}
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        words, _, said = command.partition(" # exits with ")
        program, *arguments = shlex.split(words)
        assert program == "octavia-admin"
        if ">" in arguments:
            assert admin.inside(*arguments[: arguments.index(">")]).out == ""
            Path(arguments[-1]).write_text(json.dumps(lost), encoding="utf-8")
            continue
        shown = admin.inside(*arguments, code=int(said or 0)).out
        assert "healthy" in shown or '"wrong": 0' in shown
