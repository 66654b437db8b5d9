"""Members and a client of a load balancer in a process of their own, so that they and the controller do not share a lock.

Started by `bench_amphora`, it says the two members' ports in its first line; then each line of its input is a question:
`until NAME HOST PORT` asks again and again, over a new connection each time, and says when the member of that name
answered (the monotonic clock, which all processes of a machine share).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Self

from tests.support.members import ask_quietly, member

__all__ = ["Outside"]

PATIENCE = 60.0
PAUSE = 0.0005
"""Seconds between two requests: other work wants the processors, too."""


class Outside:
    """That process. A context manager.

    Attributes:
        ports: of the members `always` and `changed`.
    """

    def __enter__(self) -> Self:
        line = [sys.executable, "-m", "tests.benchmarks.amphora_client"]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ports: dict[str, int] = json.loads(self._read())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def ask_until(self, name: str, host: str, port: int) -> None:
        """Begin to ask until that member answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"until {name} {host} {port}\n")
        self._process.stdin.flush()

    def answered_at(self) -> float:
        """When it answered; waits for that."""
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of members and clients has ended")
        return line


def _until(name: str, host: str, port: int) -> float:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if ask_quietly(host, port, timeout=3.0) == name:
            return time.monotonic()
        time.sleep(PAUSE)
    raise RuntimeError(f"member {name} was never asked")


def _questions() -> Iterator[tuple[str, str, int]]:
    for line in sys.stdin:
        _, name, host, port = line.split()
        yield name, host, int(port)


def main() -> None:
    """Serve and ask until the input ends."""
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(member(name)) for name in ("always", "changed")}
        print(json.dumps({name: server.protocol_port for name, server in servers.items()}), flush=True)
        for question in _questions():
            print(_until(*question), flush=True)


if __name__ == "__main__":
    main()
