"""What the shell offers after TAB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavia_core import Controller, NewListener, NewLoadBalancer, NewPool


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory where things are asked for and nobody works."""
    path = tmp_path_factory.mktemp("completion") / "state"
    with Controller.open(path, run=False) as controller:
        listener = NewListener(name="plain", protocol="HTTP", protocol_port=80, default_pool=NewPool(name="servers"))
        controller.create_load_balancer(NewLoadBalancer(name="web", listeners=[listener]))
        controller.create_load_balancer(NewLoadBalancer(name="we$(id)"))
    return path


def offered(line: str, state: Path) -> list[str]:
    """What bash would be told for a line that ends where TAB was pressed."""
    words = line.split(" ")
    environment = os.environ | {
        "_OCTAVIA_ADMIN_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "OCTAVIA_STATE": str(state),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-m", "octavia_core.cli"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.stderr == ""
    return run.stdout.split()


def test_commands_options_names_and_ids_are_offered(state: Path) -> None:
    assert offered("octavia-admin lis", state) == ["listener"]
    assert "--persistence" in offered("octavia-admin pool create web --p", state)
    found = offered("octavia-admin lb show ", state)
    assert "web" in found
    assert len(found) == 2
    assert not any("$" in word for word in found)  # a name that a shell would carry out is offered as its id
    assert offered("octavia-admin pool show s", state) == ["servers"]
    assert offered("octavia-admin simulate zone", state) == ["zone-dies"]
    operations = offered("octavia-admin operation show ", state)
    assert len(operations) == 2
    assert offered(f"octavia-admin why {operations[0][:8]}", state) == [operations[0]]


def test_where_there_is_nothing_nothing_is_offered_said_or_made(tmp_path: Path) -> None:
    assert offered("octavia-admin lb show w", tmp_path / "absent") == []
    assert offered("octavia-admin --config-file /absent/octavia.toml lb show w", tmp_path / "absent") == []
    assert offered(f"octavia-admin --state {tmp_path}/absent amphora show ", tmp_path / "absent") == []
    assert not (tmp_path / "absent").exists()
