"""Database servers that stand still, as a machine does whose disk hangs: they take connections and answer nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.servers import below, guard_of

__all__ = ["frozen", "runs", "swallowing"]

PATIENCE = 30.0


@contextlib.contextmanager
def frozen(kind: str) -> Iterator[None]:
    """Inside the block no process of the durable server of that kind runs (SIGSTOP); afterwards all of them go on."""
    guard = guard_of(kind, durable=True)
    stopped: list[int] = []
    try:
        while new := [pid for pid in below(guard) if pid not in stopped]:  # one may have been started meanwhile
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped += new
            deadline = time.monotonic() + PATIENCE
            while any(map(runs, new)):  # a signal is obeyed when the process has its turn: until then it may answer
                assert time.monotonic() < deadline, new
                time.sleep(0.001)
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def runs(pid: int) -> bool:
    """Whether one of its threads has not stopped (proc(5), stat: the state comes behind the name in brackets)."""
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if task.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] not in "TtZX":
                return True
    return False


@contextlib.contextmanager
def swallowing() -> Iterator[int]:
    """A port of this machine behind which everything that is sent disappears, as in a network that loses all packets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for one in taken:
                one.close()
