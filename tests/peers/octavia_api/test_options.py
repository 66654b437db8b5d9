"""The options of octavia.conf, compared with those that upstream's own package says, by oslo.config's entry point."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from octavia_core.settings import Settings
from octavia_oslo.conf import open_conf
from octavia_oslo.options import LIBRARY_GROUPS, READ_HERE, lines
from tests.peers.environment import peer

ASK = """
import json, sys
from importlib.metadata import entry_points
(entry,) = [each for each in entry_points(group="oslo.config.opts") if each.name == "octavia"]
json.dump([[str(group or "DEFAULT"), o.dest, o.default, bool(o.secret)] for group, options in entry.load()()
           for o in options], sys.stdout, default=str)
"""
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "differences.md"
OTHER_DEFAULTS = frozenset(re.findall(r"^\| \[(\w+)\] (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
"""(group, option) whose default is not upstream's: the page says why."""

Theirs = dict[tuple[str, str], tuple[Any, bool]]


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    """(group, option) -> (default, whether it is a secret)."""
    said = subprocess.run(
        [str(peer() / "python"), "-W", "ignore", "-c", ASK], check=True, capture_output=True, text=True
    ).stdout
    return {(group, name): (default, secret) for group, name, default, secret in json.loads(said)}


def test_every_option_that_we_know_is_upstreams_with_its_default(theirs: Theirs) -> None:
    opened = open_conf([])
    for line in lines():
        where = (line.group, line.name)
        assert where in theirs, f"{where} is none of upstream's"
        default, secret = theirs[where]
        assert secret == line.secret, where
        if where == ("DEFAULT", "host"):
            continue
        ours = opened[line.name] if line.group == "DEFAULT" else opened[line.group][line.name]
        if isinstance(ours, dict):
            default = {name: str(value) for name, value in default.items()}
        assert ours == default or str(ours) == str(default), where


def test_every_option_of_upstreams_controller_is_known(theirs: Theirs) -> None:
    known = {(line.group, line.name) for line in lines()}
    missing = {where for where in theirs if where not in known and where[0] not in LIBRARY_GROUPS}
    assert missing == set()
    assert len(known) == 199


def test_the_cores_settings_have_upstreams_defaults(theirs: Theirs) -> None:
    assert set(theirs) >= READ_HERE
    assert len(OTHER_DEFAULTS) == 3
    for group, name, value, _ in Settings():
        if (group, name) in theirs and (group, name) not in OTHER_DEFAULTS:
            default = theirs[(group, name)][0]
            ours = list(value) if isinstance(value, tuple) else value
            assert ours == default or (not ours and not default), (group, name)
