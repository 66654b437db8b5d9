"""Worker processes: N of them, replaced when they die, told when there is work, and ended without losing any.

The supervisor is the one that polls: one query per host while nothing happens. A child is an ordinary program that is
started afresh (never forked from this process), reads its settings itself, works, looks at the queue when a line comes on
its standard input, and ends in peace when that input ends: so it never outlives its supervisor by more than its grace.
It reports, through a pipe of its own, that it works, or the sentence why it never will: then there is no use in another one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from octavia_core.controller.knock import Door
from octavia_core.controller.reminders import Reminders
from octavia_core.errors import ConfigurationError, OctaviaError
from octavia_core.policy.retry import RetryPolicy
from octavia_core.ports.clock import SystemClock

__all__ = ["REPORT", "Program", "Supervisor", "follow_input", "report_ready", "report_refusal"]

log = logging.getLogger("octavia_core.supervisor")

BACKOFF = RetryPolicy(attempts=1_000_000, first=0.1, longest=30.0)
"""Pauses before a child that died is replaced: at once after one bad moment, ever more slowly where starting is in vain,
and never more slowly than somebody who has mended the cause would wait for."""
HEALTHY = 30.0
"""Seconds after which a child that dies begins anew with the shortest pause."""
TICK = 1.0
"""Longest time, seconds, until a signal or the death of a child is noticed."""
REPORT = "OCTAVIA_WORKER_REPORT"
"""Environment variable with the number of the file that a child reports to."""
_READY, _REFUSED = b"ready\n", b"refused "
BUSY = 0.01
"""Pause between two nudges while something stays due: the child that was nudged has had the time to claim it."""


@attrs.frozen(kw_only=True)
class Program:
    """What the children run.

    Attributes:
        command: the program and its arguments.
        environment: of child number n.
        grace: seconds that children have to end what they do.
    """

    command: Sequence[str]
    environment: Callable[[int], Mapping[str, str]]
    grace: float

    def start(self, number: int) -> tuple[subprocess.Popen[bytes], int]:
        """One more process, and the end of the pipe where its report comes."""
        hears, tells = os.pipe()
        try:
            environment = {**self.environment(number), REPORT: str(tells)}
            process = subprocess.Popen(self.command, stdin=subprocess.PIPE, env=environment, pass_fds=(tells,))
        except BaseException:  # no descriptor is left open, Ctrl-C included
            os.close(hears)
            raise
        finally:
            os.close(tells)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(hears, False)
        return process, hears


@attrs.define(eq=False)
class _Child:
    """One process."""

    number: int
    process: subprocess.Popen[bytes]
    since: float
    pidfd: int
    failures: int
    hears: int
    _report: bytes = b""

    @property
    def ready(self) -> bool:
        """It has said that it works, and lives."""
        return self._listened().startswith(_READY) and self.reap() is None

    @property
    def refusal(self) -> str | None:
        """Why it can never work; None when it has not said so."""
        said = self._listened()
        return said.removeprefix(_REFUSED).decode("utf-8", "replace").strip() if said.startswith(_REFUSED) else None

    def _listened(self) -> bytes:
        while self.hears >= 0:
            try:
                more = os.read(self.hears, 4096)
            except BlockingIOError:
                break
            self._report += more
            if not more:
                os.close(self.hears)
                self.hears = -1
        return self._report

    def nudge(self) -> None:
        """Say that there may be work; a child that is gone or does not read needs no telling."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            os.write(self.process.stdin.fileno(), b"\n")

    def let_go(self) -> None:
        """End its input: it finishes or parks what runs, and ends."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def reap(self) -> int | None:
        """Its exit code, None while it lives."""
        code = self.process.poll()
        if code is not None and self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
            self.let_go()
            self._listened()  # to its end
            if self.hears >= 0:  # somebody whom it started has it
                os.close(self.hears)
                self.hears = -1
        return code


class Supervisor:
    """Keeps children running until it is stopped.

    Args:
        program: what they run.
        count: how many children.
        look: seconds until something is due in the queue, 0 for now, None for nothing: `Storage.next_due`.
        poll: longest pause between two looks, seconds.
        door: where others of this machine knock when they have stored something; None for polling alone.
    """

    def __init__(
        self,
        program: Program,
        *,
        count: int,
        look: Callable[[], float | None],
        poll: float,
        door: Door | None = None,
    ) -> None:
        self._program, self._door = program, door
        self._count, self._look, self._poll = max(1, count), look, poll
        self._children: list[_Child] = []
        self._former: list[_Child] = []
        self._leaving: list[tuple[_Child, float]] = []
        self._again: dict[int, tuple[float, int]] = {}
        self._next = 0
        self._pause = BUSY
        self._said = Reminders(log, SystemClock())

    @property
    def pids(self) -> list[int]:
        """The processes that take work now."""
        return [child.process.pid for child in self._at_work() if child.reap() is None]

    def run(self, stop: threading.Event) -> None:
        """Keep the children running until `stop`, then end them; returns when all of them have ended.

        Raises:
            ConfigurationError: what a child said why it can never work, and no other one works.
        """
        try:
            for number in range(self._count):
                self._start(number, 0)
            while not stop.is_set():
                self._replace()
                self._relieve()
                self._reap_leaving()
                self._sleep(self._nudge_who_can())
        finally:
            self._end()

    def reload(self, count: int, poll: float) -> None:
        """Start new children, which read the settings anew. The present ones work on until all of those are ready, then end in
        peace; when a new one cannot work with the new settings they stay. Call it from `look`: not thread-safe.
        """
        if self._former:  # the last new ones are not ready yet: those before them go on waiting for relief
            self._let_go(self._children)
        else:
            self._former = self._children
        self._count, self._poll = max(1, count), poll
        self._children, self._again = [], {}
        for number in range(self._count):
            self._start(number, 0)

    # -- inside ----------------------------------------------------------------------------------------------------
    def _start(self, number: int, failures: int) -> None:
        self._again.pop(number, None)
        process, hears = self._program.start(number)
        self._children.append(_Child(number, process, time.monotonic(), os.pidfd_open(process.pid), failures, hears))
        log.info("worker %d is process %d", number, process.pid)

    def _at_work(self) -> list[_Child]:
        return [*self._former, *self._children]

    def _replace(self) -> None:
        self._former = [child for child in self._former if child.reap() is None]
        for child in list(self._children):
            code = child.reap()
            if code is None:
                continue
            self._children.remove(child)
            if child.refusal is not None and self._refused(child.refusal):
                return
            failures = 1 if time.monotonic() - child.since > HEALTHY else child.failures + 1
            pause = BACKOFF.delay(failures)
            self._again[child.number] = (time.monotonic() + pause, failures)
            log.error(
                "worker %d (process %d) ended with %d%s; another one is started in %.1f s, and what it did is taken over "
                "when its lease ends",
                child.number,
                child.process.pid,
                code,
                f", {failures} times in a row" if failures > 1 else "",
                pause,
            )
        for number, (at, failures) in list(self._again.items()):
            if time.monotonic() >= at:
                self._start(number, failures)

    def _refused(self, why: str) -> bool:
        """A child can never work: True when those before the last reload go on instead, False when it is tried again."""
        if self._former:
            log.error("the settings are not read anew, the workers go on with those they have: %s", why)
            self._let_go(self._children)
            self._children, self._former, self._again = self._former, [], {}
            self._count = len(self._children)
            return True
        if not any(child.ready for child in self._children):
            raise ConfigurationError(why)
        log.error("a worker cannot work with the settings as they are now: %s", why)
        return False

    def _relieve(self) -> None:
        """Let go of those before the last reload, when all new ones are ready."""
        if self._former and len(self._children) == self._count and all(child.ready for child in self._children):
            self._let_go(self._former)
            self._former = []

    def _let_go(self, children: Sequence[_Child]) -> None:
        until = time.monotonic() + self._program.grace
        for child in children:
            child.let_go()
            self._leaving.append((child, until))

    def _nudge_who_can(self) -> float:
        """Tell one child after the other while something is due; seconds until the next look."""
        try:
            due = self._look()
            self._said.over("queue")
        except OctaviaError as error:
            self._said.say("queue", f"the queue cannot be read, trying again: {error}")
            return self._poll
        working = self._at_work()
        if due is None or due > 0 or not working:
            self._pause = BUSY
            return self._poll if due is None else min(self._poll, due + 0.001)
        self._next = (self._next + 1) % len(working)
        working[self._next].nudge()
        # who is busy does not claim at once; what stays due is looked at less and less often
        self._pause = min(2 * self._pause, self._poll)
        return self._pause

    def _sleep(self, seconds: float) -> None:
        """Until the time is over, a child dies, or it is time to look at signals."""
        starts = [at - time.monotonic() for at, _ in self._again.values()]
        waiter = select.poll()
        for child in self._at_work():
            if child.pidfd >= 0:
                waiter.register(child.pidfd, select.POLLIN)
        idle = self._pause == BUSY  # while there is work, whoever ends some looks for more: knocks can wait
        if idle and self._door is not None and self._door.fileno() >= 0:
            waiter.register(self._door.fileno(), select.POLLIN)
        waiter.poll(max(1, int(1000 * min([seconds, TICK, *starts]))))
        if idle and self._door is not None:
            self._door.heard()

    def _reap_leaving(self) -> None:
        for child, until in list(self._leaving):
            if child.reap() is None:
                if time.monotonic() < until:
                    continue
                log.warning(
                    "process %d did not end in time, it is killed; its leases end by themselves", child.process.pid
                )
                child.process.kill()
                child.process.wait()
                child.reap()
            self._leaving.remove((child, until))

    def _end(self) -> None:
        until = time.monotonic() + self._program.grace
        self._let_go(self._at_work())
        self._children, self._former = [], []
        while self._leaving:
            self._reap_leaving()
            waiter = select.poll()
            for child, _ in self._leaving:
                waiter.register(child.pidfd, select.POLLIN)
            if self._leaving:
                waiter.poll(int(1000 * min(TICK, max(0.01, until - time.monotonic()))))


def follow_input(nudge: Callable[[], None], stop: threading.Event, *, descriptor: int = 0) -> threading.Thread:
    """For a child: nudge for what comes on standard input, and set `stop` when it ends. On a thread of its own."""

    def loop() -> None:
        while True:
            try:
                said = os.read(descriptor, 4096)
            except OSError:
                said = b""
            if not said:
                stop.set()
                return
            nudge()

    thread = threading.Thread(target=loop, name="octavia-supervisor", daemon=True)
    thread.start()
    return thread


def report_ready() -> None:
    """For a child: it works. Without a supervisor nobody is told."""
    _report(_READY)


def report_refusal(why: str) -> bool:
    """For a child: it can never work, in one sentence; False when there is no supervisor to tell."""
    return _report(_REFUSED + " ".join(why.split()).encode() + b"\n")


def _report(words: bytes) -> bool:
    number = os.environ.get(REPORT, "")
    if not number.isdigit():
        return False
    try:
        os.write(int(number), words)
    except OSError:  # it is gone
        return False
    return True
