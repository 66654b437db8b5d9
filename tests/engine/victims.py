"""A server of victims: forks, for each line it reads, a process that runs a scenario until it is killed at a point.

It has everything imported and not a single thread, so a fork is cheap and clean. Protocol, JSON a line: in goes
[directory, point, path], out comes the exit code as `os.waitstatus_to_exitcode` gives it (-9: killed where it should be).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.engine.outside import die_at, stop_at

__all__ = ["Victims", "sleeper", "victims", "wake"]

ROOT = Path(__file__).parents[2]


class Victims:
    """The client's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def kill(self, folder: Path, point: str, path: str) -> int:
        """Run the folder's operation in a fresh process that dies at that point; its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), point, path]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server of victims has ended"
        return int(answer)


@contextlib.contextmanager
def victims() -> Iterator[Victims]:
    """Start the server; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.victims"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield Victims(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def serve() -> None:
    """The server's side, until its input ends."""
    for line in sys.stdin:
        directory, point, path = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                die_at(directory, point, path)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


@contextlib.contextmanager
def sleeper(folder: Path, point: str, path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that works on the folder, and now stands still at that point; killed at the end."""
    process = subprocess.Popen([sys.executable, "-m", "tests.engine.victims", str(folder), point, path], cwd=ROOT)
    try:
        found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        assert found.si_code == os.CLD_STOPPED, "it ended before it came to that point"
        yield process
    finally:
        process.kill()
        process.wait()


def wake(process: subprocess.Popen[bytes]) -> int:
    """Continue it, and wait until it ends; its exit code."""
    process.send_signal(signal.SIGCONT)
    return process.wait(30)


if __name__ == "__main__":
    if sys.argv[1:]:
        stop_at(*sys.argv[1:4])
    else:
        serve()
