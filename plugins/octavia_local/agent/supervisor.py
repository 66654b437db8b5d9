"""Starting, watching and ending child processes, from the agent's main thread only.

Rule 1: a child dies with the agent, whatever ends it. PR_SET_PDEATHSIG follows the *thread* that forked, so every fork
happens on the main thread, which lives as long as the process; the child checks after setting it that its parent is
still there. Rule 2: a death is noticed through a pidfd, not by polling. Rule 3: other threads ask through `call`.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import os
import select
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from octavia_local.agent.root import log

__all__ = ["Child", "Spawn", "Supervisor"]

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Spawn(NamedTuple):
    """A program to start.

    Attributes:
        argv: absolute program path and its arguments; nothing secret, everybody can read it.
        cwd: working directory.
        output: file descriptor for standard output and standard error.
        descriptors: inherited under the same numbers; everything else is closed.
        on_exit: called on the main thread, once, when it ended.
        environment: variables besides those that all children get; nothing secret.
        death_signal: what the kernel sends it when the agent ends; one that has children of its own needs a gentle one.
        last_signal: what asks it to finish what it has begun and to take nothing new.
    """

    argv: Sequence[str]
    cwd: str
    output: int
    descriptors: Sequence[int] = ()
    on_exit: Callable[[Child], None] | None = None
    environment: Mapping[str, str] = {}
    death_signal: int = signal.SIGKILL
    last_signal: int = signal.SIGTERM


class Child:
    """A process that was started here. `status` is None while it runs, then its exit code or minus its signal."""

    def __init__(self, pid: int, on_exit: Callable[[Child], None] | None, last_signal: int) -> None:
        self.pid, self.last_signal = pid, last_signal
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None
        self.started = time.monotonic()
        self._on_exit = on_exit
        self._exited = threading.Event()
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """True until its death was noticed."""
        return self.status is None

    def signal(self, number: int) -> None:
        """Send a signal to exactly this process; nothing when it has ended."""
        with self._lock:
            if self.status is None:
                try:
                    signal.pidfd_send_signal(self.pidfd, number)
                except ProcessLookupError:
                    return

    def wait(self, timeout: float) -> int | None:
        """The status, or None when it still runs after `timeout` seconds. Not for the main thread."""
        self._exited.wait(timeout)
        return self.status

    def reap(self, *, quietly: bool) -> None:
        """Take over its exit status; for the main thread, when the pidfd says that it ended. Quietly: without `on_exit`."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        with self._lock:
            self.status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
            os.close(self.pidfd)
        self._exited.set()
        if self._on_exit is not None and not quietly:
            self._on_exit(self)


class Supervisor:
    """The loop of the main thread.

    Args:
        environment: what children get; nothing secret.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._parent = os.getpid()
        self._main = threading.get_ident()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._children: dict[int, Child] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ending = self._closed = False

    # -- any thread ------------------------------------------------------------------------------------------------

    def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the main thread and return what it returns or raise what it raises."""
        if threading.get_ident() == self._main:
            return job()
        done = threading.Event()
        outcome: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(job())
            except Exception as error:  # noqa: BLE001 - it is raised again in the thread that asked
                failure.append(error)
            finally:
                done.set()

        self._jobs.append(run)
        self._wake_up()
        done.wait()
        if failure:
            raise failure[0]
        return outcome[0]

    def spawn(self, what: Spawn) -> Child:
        """Start a program; returns when it is forked. Its failure to start is its exit with status 127."""
        return self.call(lambda: self._fork(what))

    def stop(self) -> None:
        """Let `run` return. Safe in a signal handler."""
        self._ending = True
        self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake for a long time
            os.write(self._wake, b"!")

    # -- the main thread -------------------------------------------------------------------------------------------

    def after(self, seconds: float, job: Callable[[], None]) -> None:
        """Run `job` in so many seconds; for the main thread."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), job))

    def run(self) -> None:
        """Serve until `stop`."""
        # a signal may reach another thread, and Python handles it on this one: the byte wakes it
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        while not self._ending:
            self._turn(None)

    def _ask_all(self, by: Callable[[Child], int], patience: float) -> None:
        self._closed = True  # nothing is started any more, and no death is acted upon
        for child in list(self._children.values()):
            child.signal(by(child))
        deadline = time.monotonic() + patience
        while self._children and time.monotonic() < deadline:
            self._turn(deadline)

    def finish_all(self, patience: float) -> None:
        """Ask every child to finish what it has begun; returns when all have ended, after `patience` seconds at the latest."""
        self._ask_all(lambda child: child.last_signal, patience)

    def end_all(self, patience: float) -> None:
        """End every child: SIGTERM, and SIGKILL for those that are still there after `patience` seconds."""
        self._ask_all(lambda _: signal.SIGTERM, patience)
        for child in list(self._children.values()):
            child.signal(signal.SIGKILL)
        while self._children:
            self._turn(time.monotonic() + 1)

    def _turn(self, deadline: float | None) -> None:
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        timeout = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
        for descriptor, _ in self._poll.poll(timeout):
            child = self._children.get(descriptor)
            if child is not None:
                self._poll.unregister(descriptor)
                del self._children[descriptor]
                self._guarded(partial(child.reap, quietly=self._closed))
            elif descriptor == self._woken:
                os.read(self._woken, 4096)
        while self._jobs:
            self._jobs.popleft()()
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._guarded(heapq.heappop(self._timers)[2])

    @staticmethod
    def _guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - HAProxy dies with this loop, so nothing may end it
            log(f"supervisor: {type(error).__name__}: {error}")

    def _fork(self, what: Spawn) -> Child:
        if self._closed:
            raise OSError("the agent is ending")
        with warnings.catch_warnings():
            # Python 3.12 warns about fork with threads; the child below takes no lock and goes straight to exec
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._become(what)
        child = Child(pid, what.on_exit, what.last_signal)
        self._children[child.pidfd] = child
        self._poll.register(child.pidfd, select.POLLIN)
        return child

    def _become(self, what: Spawn) -> None:
        """In the child: never returns."""
        try:
            self._prctl(_PR_SET_PDEATHSIG, what.death_signal)
            if os.getppid() == self._parent:
                os.chdir(what.cwd)
                os.dup2(self._null, 0)
                os.dup2(what.output, 1)
                os.dup2(what.output, 2)
                for descriptor in what.descriptors:
                    os.set_inheritable(descriptor, True)
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                os.execve(what.argv[0], list(what.argv), {**self._environment, **what.environment})  # noqa: S606 - a fixed program, no shell
        except BaseException as error:  # noqa: BLE001 - a forked child must not run on as a second agent
            os.write(what.output, f"cannot start {what.argv[0]}: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(127)
