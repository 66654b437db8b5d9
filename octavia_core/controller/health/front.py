"""A process that receives and verifies heartbeats, and hands what they say to the health manager that started it.

It has one thread, since a thread that computes beside it would cost it up to 5 ms per system call. What it learns goes to
standard output in frames (`frames`); its first line of standard input says what to do, and the end of that input ends it. While the health manager is busy, reports wait here, one per
amphora and wording: the newest with the counters of all.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from octavia_core.controller.health.frames import frame
from octavia_core.controller.health.receive import Receiver
from octavia_core.domain.heartbeat import BadPacket
from octavia_core.domain.skim import FIELDS, Skimmed, Skimmer

__all__ = ["main"]

SOONEST = 0.05
"""Seconds between two frames at least; what is new is not kept back for longer."""
MOST = 4000
"""Reports of one frame at most: some hundred thousand bytes more and more would only wait in a pipe."""
PIPE = 1024 * 1024
"""Bytes that the pipe should hold; the kernel gives as much to a process without privileges."""
F_SETPIPE_SZ = 1031


class Front:
    """The loop of one process.

    Args:
        bound: the socket.
        keys: all that are valid.
        out: where frames are written.
        until: the descriptor whose end is the end, None for none.
    """

    def __init__(self, bound: socket.socket, keys: Sequence[str | bytes], out: int, until: int | None = None) -> None:
        self._receiver, self._skimmer, self._out = Receiver(bound, wake=until), Skimmer(keys), out
        self._until = until
        self._waiting: dict[tuple[str, bytes], tuple[float, Skimmed]] = {}
        self._refused: Counter[str] = Counter()
        self._oldest = self._sent_at = 0.0
        self._rest = memoryview(b"")

    def run(self) -> None:
        """To the end."""
        end = select.poll()
        if self._until is not None:
            end.register(self._until, select.POLLIN | select.POLLHUP)
        while not end.poll(0):
            self._take(self._receiver.batch(SOONEST if self._waiting or self._rest else None))
            self._hand_on()
        os.set_blocking(self._out, True)
        while self._waiting or self._rest:
            self._sent_at = 0.0
            self._hand_on()

    def _take(self, packets: list[bytes]) -> None:
        if not packets:
            return
        if not self._waiting:
            self._oldest = self._receiver.oldest
        now = time.monotonic()
        skim, refused = self._skimmer.skim, self._refused
        for packet in packets:
            try:
                said = skim(packet)
            except BadPacket as bad:
                refused[str(bad.reason)] += 1
                continue
            self._keep(said, now)

    def _keep(self, said: Skimmed, now: float) -> None:
        key = (said.amphora_id, said.words)
        found = self._waiting.pop(key, None)
        if found is not None:
            before = found[1]
            if said.seq is not None and said.seq == before.seq and said.source == before.source:
                self._refused["repeated"] += 1
                now, said = found
            else:
                said = _joined(before, said)
        self._waiting[key] = (now, said)

    def _hand_on(self) -> None:
        now = time.monotonic()
        if not self._rest and (self._waiting or self._refused) and now - self._sent_at >= SOONEST:
            some = [self._waiting.pop(key) for key in list(islice(self._waiting, MOST))]
            self._rest, self._sent_at = memoryview(frame(self._oldest, self._refused, some)), now
            self._refused.clear()
        while self._rest:
            try:
                self._rest = self._rest[os.write(self._out, self._rest) :]
            except BlockingIOError:
                return  # it is busy; the socket is read on


def _joined(before: Skimmed, said: Skimmed) -> Skimmed:
    """The newer report with the counters of both. Totals are those of the newer."""
    listeners = said.listeners if said.listeners is not None else before.listeners
    deltas = said.deltas if said.listeners is not None or before.listeners is None else before.deltas
    if not deltas:
        return said._replace(listeners=listeners, deltas=deltas)
    counters = tuple(
        new if place % FIELDS == 2 else old + new
        for place, (old, new) in enumerate(zip(before.counters, said.counters, strict=True))
    )
    return said._replace(counters=counters, listeners=listeners, deltas=deltas)


def _line(descriptor: int) -> bytes:
    """The first line, and nothing of what follows it."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line


def main() -> int:
    """Read what to do, and do it until standard input ends."""
    # A terminal and systemd send these to everybody; its health manager ends it, when all is read.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    orders = json.loads(_line(0))
    os.set_blocking(1, False)
    try:
        import fcntl

        fcntl.fcntl(1, F_SETPIPE_SZ, PIPE)
    except OSError:
        pass  # what the pipe holds by itself will do
    with socket.socket(fileno=orders["socket"]) as bound:
        try:
            Front(bound, [bytes.fromhex(key) for key in orders["keys"]], 1, 0).run()
        except BrokenPipeError:
            return 0  # the health manager is gone
    return 0


if __name__ == "__main__":
    sys.exit(main())
