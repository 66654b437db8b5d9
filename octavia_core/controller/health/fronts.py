"""Hearing through processes: the health manager's daemon starts some that do nothing but receive and verify (`front`).

Each has a socket of its own on the same port, which this process binds and keeps, so that what arrives while one of them is
replaced waits for its successor.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from octavia_core.controller.health import front
from octavia_core.controller.health.frames import LENGTH, frame_of
from octavia_core.controller.health.hear import Keys, Lag, Told, at_its_port
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.receive import Receiver, bind_receiver
from octavia_core.domain.skim import Skimmed
from octavia_core.policy.retry import RetryPolicy
from octavia_core.settings import Settings

__all__ = ["Fronts"]

log = logging.getLogger("octavia_core.health")

BACKOFF = RetryPolicy(attempts=1_000_000, first=0.1, longest=10.0)
"""Pauses before a front process that ended is replaced."""
HEALTHY = 30.0
"""Seconds after which one that ends begins anew with the shortest pause."""
STILL = 1 / 3
"""Part of the heartbeat timeout after which a front process that says nothing, not even that it lives, is deaf."""
SHORTEST = 0.5
"""Seconds for which one may say nothing at least, however short the timeout is."""
BEGINS = 10.0
"""Seconds that one may take until it says something for the first time; it is deaf until then, but not replaced."""
LEAVES = 2.0
"""Seconds that one may take to end when it is asked to, before it is killed."""
SLICES = 4
"""Into so many pieces the wait for one is cut: if all of us stood still, only one of them passed."""
ENDED, STOOD = "ended", "stood still"


class Fronts:
    """Hearing through processes.

    Args:
        bound: the first socket; the others are bound beside it.
        count: how many processes.
    """

    def __init__(self, settings: Settings, bound: socket.socket, memory: Memory, told: Told, count: int) -> None:
        self._memory, self._told = memory, told
        self._stop, self._lag = threading.Event(), Lag()
        self._lock = threading.Lock()
        self._deaf: set[int] = set()
        self._heard = self._troubled = False
        self.replaced: Counter[str] = Counter()
        self._keys, self._patience = Keys(settings), _patience(settings)
        here = at_its_port(settings, bound)
        sockets = [bound, *(bind_receiver(here, beside=True) for _ in range(count - 1))]
        self._receivers = [Receiver(each) for each in sockets]
        self._sockets = sockets
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(
                target=self._keep_running, args=(number,), name=f"octavia-health-front-{number}", daemon=True
            )
            for number in range(count)
        ]

    @property
    def pids(self) -> list[int]:
        """See `Hearing`."""
        with self._lock:
            return [process.pid for process in self._processes.values() if process.poll() is None]

    def start(self) -> None:
        """See `Hearing`."""
        for thread in self._threads:
            thread.start()

    def renew(self, settings: Settings) -> None:
        """See `Hearing`."""
        with self._lock:
            self._patience = _patience(settings)
            self._keys.renew(settings)
            for process in self._processes.values():
                _order(process, self._orders())

    @property
    def keys(self) -> Mapping[int, bytes]:
        """See `Hearing`."""
        return self._keys.valid

    def stop(self) -> None:
        """See `Hearing`."""
        self._stop.set()
        with self._lock:
            for process in self._processes.values():
                _end(process)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)
        with self._lock:
            for process in self._processes.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()
        for each in self._sockets:
            each.close()

    def dropped(self) -> int:
        """See `Hearing`."""
        return sum(receiver.dropped() for receiver in self._receivers)

    def lag(self) -> float:
        """See `Hearing`."""
        return self._lag.taken()

    def _keep_running(self, number: int) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                process = self._start(number)
            except OSError as error:  # no process can be had now
                self._hears(number, False, trouble=True)
                log.error("no process can be started that receives heartbeats: %s; nobody is judged until then", error)
                self._stop.wait(BACKOFF.longest)
                continue
            if process is None:
                return
            still = self._follow(number, process)
            code = _ended(process, 0.0 if still else LEAVES)
            if self._stop.is_set():
                return
            self._hears(number, False, trouble=True)
            self.replaced[STOOD if still else ENDED] += 1
            failures = 1 if time.monotonic() - began > HEALTHY else failures + 1
            pause = BACKOFF.delay(failures)
            log.error(
                "the process %d that received heartbeats %s; nobody is judged until its successor hears, in %.1f s",
                process.pid,
                f"said nothing for {self._patience:.1f} s, so it was killed" if still else f"ended with {code}",
                pause,
            )
            self._stop.wait(pause)

    def _hears(self, number: int, hears: bool, *, trouble: bool = False) -> None:
        """One of them hears, or does not: for a trouble that is said, or because it has not begun yet."""
        with self._lock:
            before = bool(self._deaf)
            (self._deaf.discard if hears else self._deaf.add)(number)
            now = bool(self._deaf)
            troubled, again = self._troubled or trouble, self._heard
            self._troubled, self._heard = troubled and now, self._heard or not now
            if before == now:
                return
            self._told.deaf(now)  # by the one that holds the lock: what is told last is what is true
        if not now:
            words = "heartbeats are received again" if again else "heartbeats are received"
            log.log(logging.WARNING if troubled else logging.INFO, words)
        elif not trouble:
            log.info("the process that receives heartbeats is slow to begin; nobody is judged until it does")

    def _start(self, number: int) -> subprocess.Popen[bytes] | None:
        bound = self._sockets[number]
        with self._lock:
            if self._stop.is_set():
                return None
            process = subprocess.Popen(
                [sys.executable, "-P", front.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[bound.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            self._processes[number] = process
            _order(process, {"socket": bound.fileno(), **self._orders()})
        return process

    def _orders(self) -> Mapping[str, Any]:
        """What each of them is told at its beginning, and when settings are new."""
        say = min(front.SAY, self._patience / SLICES)
        return {"keys": [(number, key.hex()) for number, key in self._keys.valid.items()], "say": say}

    def _allowed(self) -> float:
        return self._patience

    def _to_begin(self) -> float:
        return max(BEGINS, self._patience)

    def _follow(self, number: int, process: subprocess.Popen[bytes]) -> bool:
        """Take in what it says until it ends, or says nothing for too long (True)."""
        assert process.stdout is not None
        source, told = _Source(process.stdout.fileno(), self._stop), dict[int, Skimmed]()
        begun = False
        while True:
            try:
                if not begun and not source.ready(self._allowed) and not self._stop.is_set():
                    self._hears(number, False)  # it is not replaced, since it may only be slow to begin
                data = source.frame(self._allowed if begun else self._to_begin)
            except TimeoutError:
                return True
            if data is None:
                return False
            if not begun:
                begun = True
                self._hears(number, True)
            frame = frame_of(data)
            self._memory.counters.update(frame.refused)
            news = self._memory.keep_again(told, frame.again)
            for read_at, said in frame.reports:
                news |= self._memory.keep((said,), read_at)
                if said.handle >= 0:
                    told[said.handle] = said._replace(counters=())
            for handle in frame.forgotten:
                told.pop(handle, None)
            if news:
                self._told.news()
            if frame.oldest:
                self._lag.note(frame.oldest)


class _Source:
    """What a front process says, as bytes from a pipe. How many seconds it may say nothing is asked again and again while it is waited
    for: with other settings it is another time, and the process says something as often as those ask for.

    Args:
        stop: when it is set, nobody waits for long any more.
    """

    def __init__(self, descriptor: int, stop: threading.Event) -> None:
        self._descriptor, self._stop = descriptor, stop
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def frame(self, patience: Callable[[], float]) -> bytes | None:
        """The next, None at the end. Raises TimeoutError when nothing came for so many seconds."""
        head = self._exactly(LENGTH.size, patience)
        return None if head is None else self._exactly(LENGTH.unpack(head)[0], patience)

    def ready(self, patience: Callable[[], float]) -> bool:
        """Whether something comes, or it ends, within so many seconds."""
        for _ in range(SLICES):
            if self._poll.poll(1000 * (min(patience(), LEAVES) if self._stop.is_set() else patience()) / SLICES):
                return True
        return False

    def _exactly(self, size: int, patience: Callable[[], float]) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            if not self.ready(patience):
                raise TimeoutError
            got = os.read(self._descriptor, size - len(parts))
            if not got:
                return None
            if len(got) == size:
                return got
            parts += got
        return bytes(parts)


def _patience(settings: Settings) -> float:
    """Seconds for which a process may say nothing."""
    return max(SHORTEST, settings.health_manager.heartbeat_timeout * STILL)


def _order(process: subprocess.Popen[bytes], orders: Mapping[str, Any]) -> None:
    """Tell it what to do; its pipe holds far more than that."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):  # it ended, which is noticed by its end of output; or was told to
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.flush()


def _ended(process: subprocess.Popen[bytes], patience: float) -> int:
    """Its exit code, when it has ended; nothing of it is left. It is killed when that takes longer than so many seconds."""
    _end(process)
    try:
        code = process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
