"""agent.log stays small, whoever else writes to it, and its last words are never lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from octavia_local.agent.root import LARGEST_LOG

_TALK = """
import sys
from octavia_local.agent.root import log
for number in range(int(sys.argv[1])):
    log(f"{number} " + "x" * 10000)
"""


def talk(log: Path, lines: int) -> None:
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", _TALK, str(lines)], stderr=file, check=True)


def numbers(path: Path) -> list[int]:
    return [int(line.split()[1]) for line in path.read_text().splitlines()]


def test_a_log_that_grew_large_makes_room_and_keeps_what_it_held_once(tmp_path: Path) -> None:
    log, old = tmp_path / "agent.log", tmp_path / "agent.log.1"
    talk(log, 50)
    assert numbers(log) == list(range(50))
    assert not old.exists()
    talk(log, 300)
    assert log.stat().st_size <= LARGEST_LOG + 20000
    assert old.stat().st_size <= LARGEST_LOG + 20000
    assert old.stat().st_mode & 0o077 == 0
    assert numbers(log)[-1] == 299
    assert numbers(old)[-1] == numbers(log)[0] - 1


def test_a_log_that_is_no_file_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _TALK, "150"], stderr=subprocess.PIPE, check=True)
    assert len(done.stderr.splitlines()) == 150
