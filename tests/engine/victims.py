"""A server of victims: forks, for each that is asked for, a process that runs a scenario until it comes to a point.

There it is killed, or stands still. The server has everything imported and not a single thread, so a fork is cheap and
clean: nothing of the second that a program takes to start. Protocol, JSON a line: in goes
["kill", directory, point, path], out comes the exit code as `os.waitstatus_to_exitcode` gives it (-9: killed where it should
be); in goes ["stop", directory, point, path], out comes the pid of the process that stands still there (null: it ended before),
and ["wait", pid] gives its exit code when it has ended.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from octavia_core.db.engine import make_engine
from octavia_core.domain.secret import Secret
from octavia_core.errors import DriverUnavailable
from octavia_core.settings import Database
from tests.engine.outside import SCENARIOS, die_at, points_of, prepared, stop_at

__all__ = ["Sleeper", "Victims", "victims"]

ROOT = Path(__file__).parents[2]


class Victims:
    """The client's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def kill(self, folder: Path, point: str, path: str) -> int:
        """Run the folder's operation in a fresh process that dies at that point; its exit code."""
        return int(self.ask("kill", str(folder), point, path))

    @contextlib.contextmanager
    def sleeper(self, folder: Path, point: str, path: str) -> Iterator[Sleeper]:
        """A process that works on the folder, and now stands still at that point; killed at the end."""
        pid = self.ask("stop", str(folder), point, path)
        assert pid is not None, "it ended before it came to that point"
        found = Sleeper(self, pid)
        try:
            yield found
        finally:
            found.end()

    def ask(self, *words: Any) -> Any:
        """One question to the server, and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server of victims has ended"
        return json.loads(answer)


@attrs.define
class Sleeper:
    """A process that stands still."""

    victims: Victims
    pid: int
    over: bool = False

    def wake(self) -> int:
        """Continue it, and wait until it ends; its exit code."""
        return self._ended(signal.SIGCONT)

    def end(self) -> None:
        """Kill it, unless it has ended."""
        if not self.over:
            self._ended(signal.SIGKILL)

    def _ended(self, by: signal.Signals) -> int:
        os.kill(self.pid, by)
        code = int(self.victims.ask("wait", self.pid))
        self.over = True
        return code


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
        process.wait(60)
        process.stdout.close()


def warm_up() -> None:
    """Do once what victims do: much is imported where it is used, and each of them would import it anew."""
    with tempfile.TemporaryDirectory(prefix="victims-") as folder:
        prepared(SCENARIOS[0], Path(folder))
        points_of(SCENARIOS[0], Path(folder))
    for url in ("postgresql://host/name", "mysql://host/name"):
        with contextlib.suppress(DriverUnavailable):
            make_engine(Database(connection=Secret(url)))
    assert threading.active_count() == 1, "a fork would lose them"
    gc.freeze()


def serve() -> None:
    """The server's side, until its input ends; whoever stands still then is killed."""
    warm_up()
    stopped: set[int] = set()
    try:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(answer(stopped, *json.loads(line))) + "\n")
            sys.stdout.flush()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)


def answer(stopped: set[int], word: str, *rest: Any) -> int | None:
    """What is said to one question."""
    if word == "wait":
        (pid,) = rest
        stopped.discard(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if word == "kill":
        return os.waitstatus_to_exitcode(os.waitpid(forked(lambda: die_at(*rest)), 0)[1])
    pid = forked(lambda: stop_at(*rest))
    found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if found is not None and found.si_code == os.CLD_STOPPED:
        stopped.add(pid)
        return pid
    os.waitpid(pid, 0)
    return None


def forked(act: Callable[[], None]) -> int:
    """A process of its own that does it, and nothing else."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return child


if __name__ == "__main__":
    serve()
