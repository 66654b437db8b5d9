"""The demo, as a stranger runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 110.0


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder), "HOME": str(folder)}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "octavia_core.cli", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
    )


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_all_of_it_holds_and_nothing_is_left(short: Path) -> None:
    process = start(short, "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    said = json.loads(out.splitlines()[-1])
    active = {"created", "member_died", "member_added", "amphora_killed", "controller_killed"}
    assert said["load_balancer"].keys() == active | {"deleted"}
    assert {said["load_balancer"][act]["provisioning_status"] for act in active} == {"ACTIVE"}
    assert said["load_balancer"]["deleted"]["provisioning_status"] == "DELETED"
    assert said["load_balancer"]["member_died"]["operating_status"] == "DEGRADED"
    traffic, failover = said["traffic"], said["failover"]
    assert traffic["sent"] > 200
    assert traffic["failed"] == failover["failed_requests"] + said["member"]["failed_requests"]
    assert traffic["unexpected"] == 0
    assert 0 <= failover["detected_ms"] < failover["restored_ms"]
    assert said["resume"]["status"] == "ACTIVE"
    assert said["leftovers"] == []
    assert said["problems"] == []
    assert said["seconds"] > 0
    assert list(short.iterdir()) == [], "the temporary state directory is gone"


def test_kept_running_until_it_is_told_to_end(short: Path) -> None:
    process = start(short, "--keep", "--state", str(short / "kept"))
    assert process.stderr is not None
    state = ""
    for line in process.stderr:
        state = line.partition("OCTAVIA_STATE=")[2].strip() or state
        if "curl -k" in line:
            break
    assert state == str(short / "kept"), process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "all of it held" in out
    assert "no process, port, file or row is left" in out


def test_a_state_directory_that_is_in_use_is_left_alone(short: Path) -> None:
    (short / "mine").mkdir()
    (short / "mine" / "letter.txt").write_text("dear")
    process = start(short, "--state", str(short / "mine"))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err == f"Error: {short / 'mine'} is not empty; the demo needs a state directory of its own\n"
    assert [file.name for file in (short / "mine").iterdir()] == ["letter.txt"]
