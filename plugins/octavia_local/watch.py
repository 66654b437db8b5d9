"""Deaths of local amphorae, told at once: one thread that sleeps on the pidfds of all agents."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

from octavia_core.ports.compute import Death
from octavia_local.home import Home, amphora_id_of
from octavia_local.processes import Process

__all__ = ["DeathWatch"]

_log = logging.getLogger(__name__)

_LOOK_ROUND = 0.5
"""Seconds between two looks for amphorae that another process has booted."""

_STOP = -1


class DeathWatch:
    """A watch over all amphorae under a directory. Its own threads' callbacks may call anything, `close` included.

    Args:
        homes: the directory that holds the amphorae's directories; need not exist yet.
        on_death: called on the watch's thread, once for each process that ended without being destroyed on purpose.
    """

    def __init__(self, homes: Path, on_death: Callable[[Death], None]) -> None:
        self._homes = homes
        self._on_death = on_death
        self._lock = threading.Lock()
        self._known: dict[str, Process] = {}
        self._pidfds: dict[int, tuple[str, Process]] = {}
        self._dead: list[tuple[str, Process]] = []
        self._epoll: select.epoll | None = None
        self._wake = _STOP
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="octavia-local-deaths", daemon=True)

    def start(self) -> None:
        """Begin; every amphora that is there now is watched when this returns."""
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._look_round()
        self._thread.start()

    def add(self, amphora_id: str, process: Process) -> None:
        """Watch that process too; known already is harmless. One that has ended is told from the watch's thread."""
        with self._lock:
            if self._epoll is None or self._closing or self._known.get(amphora_id) == process:
                return
            self._known[amphora_id] = process
            fd = process.open()
            if fd is None:
                self._dead.append((amphora_id, process))
                os.eventfd_write(self._wake, 1)
            else:
                self._pidfds[fd] = amphora_id, process
                self._epoll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        """End it; returns when no callback runs any more (at once, when called by the callback itself)."""
        with self._lock:
            if self._epoll is None:
                return
            if not self._closing:
                self._closing = True
                os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        assert self._epoll is not None  # noqa: S101 - `start` made it
        next_look = time.monotonic() + _LOOK_ROUND
        while not self._closing:
            ready = self._epoll.poll(max(0.0, next_look - time.monotonic()))
            with self._lock:
                ended, self._dead = self._dead, []
                for fd, _ in ready:
                    if fd == self._wake:
                        os.eventfd_read(self._wake)
                    elif fd in self._pidfds:
                        ended.append(self._pidfds.pop(fd))
                        self._epoll.unregister(fd)
                        os.close(fd)
            for amphora_id, process in ended:
                self._tell(amphora_id, process)
            if time.monotonic() >= next_look:
                self._look_round()
                next_look = time.monotonic() + _LOOK_ROUND
        with self._lock:
            for fd in [*self._pidfds, self._wake]:
                os.close(fd)
            self._epoll.close()
            self._epoll = None

    def _tell(self, amphora_id: str, process: Process) -> None:
        home = Home(self._homes / amphora_id)
        if self._closing or home.removing or not home.path.is_dir():
            return
        death = Death(server_id=amphora_id, at=time.time(), evidence=f"process {process.pid} of its agent has ended")
        try:
            self._on_death(death)
        except Exception:  # a listener's mistake must not blind the watch for all other amphorae
            _log.exception("the listener for deaths failed for amphora %s", amphora_id)

    def _look_round(self) -> None:
        try:
            present = {name for name in os.listdir(self._homes) if amphora_id_of(name) == name}
        except FileNotFoundError:
            present = set()
        with self._lock:
            for gone in self._known.keys() - present:
                del self._known[gone]
            unknown = present - self._known.keys()
        for name in unknown:
            process = Home(self._homes / name).process()
            if process is not None:
                self.add(name, process)
