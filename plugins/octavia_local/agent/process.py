"""One load balancer's HAProxy: started, replaced without losing a connection, respawned when it dies, ended.

The process that serves is `current`. A replacement is started beside it on the same sockets; only when it answers, the
old one is told to finish what it has (SIGUSR1). A replacement that does not come up changes nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from octavia_local.agent.generation import CONFIG, OWN_CONFIG, Generation
from octavia_local.agent.root import log
from octavia_local.agent.runtime import Channel
from octavia_local.agent.supervisor import Child, Spawn, Supervisor

__all__ = ["Haproxy", "NotStarted", "Running"]

_READY_WITHIN = 15.0  # seconds; a machine under heavy load starts HAProxy in one
_CHECKED_WITHIN = 60.0
_STOPPED_WITHIN = 3.0
_LETS_GO_WITHIN = 2.0
_QUICK_DEATH, _REFUSED_WITHIN = 0.1, 5.0
"""Seconds; dying sooner than the first again and again is not a crash but a fault, as is ending by itself sooner than the
second: a busy machine takes its time even to refuse a configuration.
"""
_LONGEST_PAUSE = 5.0
_LARGEST_LOG = 1024 * 1024


class NotStarted(Exception):
    """HAProxy did not come up; the text is its own words."""


class Running(NamedTuple):
    """A process and the way to talk to it."""

    child: Child
    channel: Channel


class Haproxy:
    """The processes of one load balancer.

    Args:
        program: absolute path of HAProxy.
        supervisor: starts them.
        folder: where stats sockets are made; only this user can enter it.
        log_path: file for their output.
    """

    def __init__(self, program: str, supervisor: Supervisor, folder: str, log_path: str) -> None:
        self._program, self._supervisor = program, supervisor
        self._folder, self._log_path = folder, log_path
        self._lock = threading.Lock()
        self._running: Running | None = None
        self._generation: Generation | None = None
        self._peer = ""
        self._finishing: list[Child] = []
        self._channels = 0
        self._quick_deaths = 0
        self.respawned: Callable[[], None] = lambda: None

    @property
    def current(self) -> Running | None:
        """The process that serves, or None when it is stopped. It may have died this instant."""
        with self._lock:
            return self._running

    @property
    def generation(self) -> Generation | None:
        """What `current` does."""
        with self._lock:
            return self._generation

    @property
    def peer(self) -> str:
        """The name that `current` has among peers."""
        with self._lock:
            return self._peer

    @property
    def count(self) -> int:
        """Running processes, those that finish their last connections included."""
        with self._lock:
            self._finishing = [child for child in self._finishing if child.running]
            return len(self._finishing) + (self._running is not None and self._running.child.running)

    def check(self, generation: Generation, peer: str) -> str | None:
        """Let HAProxy judge a generation: None when it is good, otherwise its words."""
        generation.write_own(None)
        path = generation.folder + "/output"
        output = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            argv = (self._program, "-c", *_named(generation, peer), "-f", OWN_CONFIG, "-f", CONFIG)
            child = self._supervisor.spawn(Spawn(argv, generation.folder, output, generation.descriptors))
            status = child.wait(_CHECKED_WITHIN)
            child.signal(signal.SIGKILL)
            said = os.pread(output, 65536, 0).decode("utf-8", "replace")
        finally:
            os.close(output)
        if status is None:
            return f"HAProxy did not finish the check in {_CHECKED_WITHIN:.0f} s"
        return None if status == 0 else said or f"HAProxy ended with status {status}"

    def switch(self, generation: Generation, peer: str, before_handover: Callable[[], None]) -> None:
        """Start a process for this generation, wait until it answers, then let the old one finish.

        Args:
            generation: what to run.
            peer: local peer name.
            before_handover: called when the new one answers and the old one still counts.

        When it returns, no new connection gets to the old one any more.

        Raises:
            NotStarted: it did not come up; the old one goes on as before.
        """
        with self._lock:
            self._channels += 1
            name = f"stats-{self._channels}.sock"
        channel = Channel(self._folder, name)
        try:
            generation.write_own(channel.descriptor)
            child, offset = self._start(generation, peer, channel)
            self._wait_until_it_answers(child, channel, offset)
            generation.write_states("")  # read once; a later start must not believe it
        except BaseException:  # no channel is left open
            channel.close()
            raise
        before_handover()
        with self._lock:
            old, self._running = self._running, Running(child, channel)
            held = self._generation.descriptors if self._generation is not None else ()
            self._generation, self._peer, self._quick_deaths = generation, peer, 0
            if old is not None:
                self._finishing = [one for one in (*self._finishing, old.child) if one.running]
        if old is not None:
            old.child.signal(signal.SIGUSR1)
            _wait_until_it_accepts_no_more(old.child, held)
            old.channel.close()
        if not child.running:  # it died before it was current, so its end was not acted upon
            self._supervisor.call(lambda: self._ended(child))

    def adopt(self, generation: Generation, peer: str) -> None:
        """The running process now does this: its next start shall use it."""
        with self._lock:
            if self._running is not None:
                generation.write_own(self._running.channel.descriptor)
            self._generation, self._peer = generation, peer

    def stop(self) -> None:
        """End all of them; connections are cut. Nothing running is fine. Not for the main thread."""
        with self._lock:
            running, self._running = self._running, None
            children = [*self._finishing, *([running.child] if running else [])]
            self._finishing = []
            self._generation = None
        for child in children:
            child.signal(signal.SIGTERM)
        for child in children:
            if child.wait(_STOPPED_WITHIN) is None:
                child.signal(signal.SIGKILL)
                child.wait(_STOPPED_WITHIN)
        if running is not None:
            running.channel.close()

    def _start(self, generation: Generation, peer: str, channel: Channel) -> tuple[Child, int]:
        output = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            offset = os.fstat(output).st_size
            if offset > _LARGEST_LOG:
                os.ftruncate(output, 0)
                offset = 0
            argv = (self._program, "-db", *_named(generation, peer), "-f", OWN_CONFIG, "-f", CONFIG)
            descriptors = (*generation.descriptors, channel.descriptor)
            what = Spawn(argv, generation.folder, output, descriptors, self._ended, last_signal=signal.SIGUSR1)
            return self._supervisor.spawn(what), offset
        finally:
            os.close(output)

    def _wait_until_it_answers(self, child: Child, channel: Channel, offset: int) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        with channel.connect(_READY_WITHIN) as connection:
            connection.sendall(b"show info\n")
            connection.settimeout(0.02)
            while True:
                try:
                    if connection.recv(4096):
                        return
                    break
                except TimeoutError:
                    if not child.running or time.monotonic() > deadline:
                        break
                except OSError:
                    break
        child.signal(signal.SIGKILL)
        child.wait(_STOPPED_WITHIN)
        with open(self._log_path, "rb") as file:
            file.seek(offset)
            said = file.read(65536).decode("utf-8", "replace").strip()
        raise NotStarted(said or f"HAProxy did not answer within {_READY_WITHIN:.0f} s")

    # -- on the main thread ----------------------------------------------------------------------------------------

    def _ended(self, child: Child) -> None:
        with self._lock:
            if self._running is None or self._running.child is not child:
                return  # stopped, replaced, or never the current one
            refused = child.status is not None and child.status > 0
            quick = time.monotonic() - child.started < (_REFUSED_WITHIN if refused else _QUICK_DEATH)
            self._quick_deaths = self._quick_deaths + 1 if quick else 0
            pause = 0.0 if self._quick_deaths < 2 else min(_LONGEST_PAUSE, 0.05 * 2.0 ** (self._quick_deaths - 2))
            channel = self._running.channel
        if pause:
            log(f"HAProxy {child.pid} ended with status {child.status} at once; next try in {pause:.2f} s")
            self._supervisor.after(pause, lambda: self._respawn(child, channel))
        else:
            self._respawn(child, channel)
            log(f"HAProxy {child.pid} ended with status {child.status}; a new one was started")

    def _respawn(self, dead: Child, channel: Channel) -> None:
        with self._lock:
            if self._running is None or self._running.child is not dead or self._generation is None:
                return
            try:
                child, _ = self._start(self._generation, self._peer, channel)
            except OSError as error:
                log(f"HAProxy cannot be started again: {error}; next try in {_LONGEST_PAUSE:.0f} s")
                self._supervisor.after(_LONGEST_PAUSE, lambda: self._respawn(dead, channel))
                return
            self._running = Running(child, channel)
        self.respawned()


def _named(generation: Generation, peer: str) -> tuple[str, ...]:
    """Its name among peers; a secret one is in its configuration, since everybody can read arguments."""
    return () if generation.tables else ("-L", peer)


def _wait_until_it_accepts_no_more(child: Child, descriptors: Sequence[int]) -> None:
    """A process that was told to finish accepts until it has handled the signal; it closes the sockets then."""
    deadline = time.monotonic() + _LETS_GO_WITHIN
    while child.running and time.monotonic() < deadline:
        if not any(_holds(child.pid, descriptor) for descriptor in descriptors):
            return
        time.sleep(0.001)


def _holds(pid: int, descriptor: int) -> bool:
    """True while the process has our socket open; children know it by the same number."""
    try:
        return os.stat(f"/proc/{pid}/fd/{descriptor}").st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False
