"""Stick tables go from one HAProxy to the next although the one before accepts from the same socket, as in a failover."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from octavia_local.agent.tables import Settling, settle
from octavia_local.agent.translate import NOBODY, TABLES
from tests.local_agent.rig import PATIENCE, until
from tests.support.haproxies import chosen

SECRET = "a-name-that-nobody-knows"


class Process:
    """A HAProxy with one table; its commands go through a socket in its folder."""

    def __init__(self, folder: Path, tables: socket.socket) -> None:
        folder.mkdir()
        self._stats = folder / "stats"
        (folder / "cfg").write_text(f"""
global
    stats socket {self._stats} level admin
    localpeer {SECRET}
defaults
    timeout client 5s
    timeout server 5s
    timeout connect 5s
backend b
    stick-table type ip size 100 expire 1h store gpc0 peers {TABLES}
peers {TABLES}
    bind fd@{tables.fileno()}
    server {SECRET}
    server {NOBODY} 127.0.0.1:1
""")
        command = [chosen().path, "-db", "-f", str(folder / "cfg")]
        self.process = subprocess.Popen(command, pass_fds=[tables.fileno()], stderr=subprocess.DEVNULL)
        until(self._answers, "a HAProxy that answers")

    def _answers(self) -> bool:
        try:
            return "Uptime" in self.ask("show info")
        except OSError:
            return False

    def ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._stats))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def knows(self) -> set[str]:
        """The keys of its table."""
        return {line.split("key=")[1].split()[0] for line in self.ask("show table b").splitlines() if "key=" in line}

    def finish(self) -> None:
        """Tell it to tell what it knows, and to end."""
        self.process.send_signal(signal.SIGUSR1)
        assert self.process.wait(PATIENCE) == 0


@contextlib.contextmanager
def processes() -> Iterator[list[Process]]:
    made: list[Process] = []
    try:
        yield made
    finally:
        for one in made:
            one.process.kill()
            one.process.wait(PATIENCE)


def test_one_that_another_has_answered_for_is_told_before_it_has_to_tell(tmp_path: Path) -> None:
    """The second begins while the first still accepts beside it; what both have known is known to the third."""
    with socket.create_server(("127.0.0.1", 0)) as tables, processes() as made:
        for number in range(3):
            settling = Settling()
            made.append(Process(tmp_path / str(number), tables))
            settling.begun(tables.getsockname(), SECRET)
            made[-1].ask(f"set table b key 10.0.0.{number} data.gpc0 1")
            if number:
                made[-2].finish()
                known = {f"10.0.0.{each}" for each in range(number + 1)}
                until(lambda known=known: made[-1].knows() == known, "what all before have known")
            until(partial(told, settling), "it is told that it knows all")


def told(settling: Settling) -> bool:
    """Tell it, as an agent does before it ends; on a busy machine as often as it takes."""
    settling.settle(in_need=True)
    return settling._due_until == 0.0


def test_one_that_knows_all_is_not_told_again_and_strangers_are_no_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tables, processes() as made:
        place = tables.getsockname()
        assert not settle(place, SECRET, 0.0)  # nobody accepts
        made.append(Process(tmp_path / "one", tables))
        assert not settle(place, "another-name", 0.0)
        assert settle(place, SECRET, PATIENCE)
        assert not settle(place, SECRET, 0.0)
    assert not settle(place, SECRET, 0.0)
