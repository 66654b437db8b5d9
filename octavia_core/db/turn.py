"""Taking turns at writing an SQLite file, among processes.

SQLite's own way to wait for another writer is a sleep that grows to a tenth of a second: whoever has just written takes
the file again long before the sleeper looks. Here a waiter looks every fraction of a millisecond, and who has just
written lets the waiters go first. It is a courtesy and nothing more: what keeps writers apart is SQLite's lock. So a
program that knows nothing of it does no harm, and a process that stops in the middle of its turn is waited for
no longer than a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path

__all__ = ["Turn"]

_WRITING, _WAITING = 0, 1
"""The bytes of the file that are locked."""
_LOOK = 0.0002
"""Seconds between two looks of a waiter."""
_COURTESY = 0.005
"""Seconds that who has just written stands back at most when others wait: many of their looks."""
_PATIENCE = 1.0
"""Seconds after which a waiter leaves the courtesy and queues with SQLite's own means."""


class Turn:
    """One process's place among the writers of a file. One thread at a time. Connects to nothing until it is used.

    Args:
        path: the lock file; made when it is missing, and never removed, since others may hold it.
        courtesy: seconds that it stands back for others at most.
    """

    def __init__(self, path: Path, *, courtesy: float = _COURTESY) -> None:
        self._path, self._courtesy = path, courtesy
        self._fd = -1
        self._usable = hasattr(fcntl, "F_OFD_SETLK")  # Linux; elsewhere writers queue by SQLite's own means
        self._just_had_it = False

    def __enter__(self) -> None:
        if self._usable and self._fd < 0:
            self._open()
        if not self._usable:
            return
        if self._just_had_it:
            self._stand_back()
        self._just_had_it = self._lock(_WRITING) or self._wait()

    def __exit__(self, *_: object) -> None:
        if self._just_had_it:
            self._unlock(_WRITING)

    def close(self) -> None:
        """Let go of the file. Twice is harmless; using it again opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            self._usable = False  # without it writers wait as SQLite has it, which is right, only slower

    def _wait(self) -> bool:
        announced = self._lock(_WAITING, fcntl.F_RDLCK)
        until = time.monotonic() + _PATIENCE
        try:
            while not self._lock(_WRITING):
                if time.monotonic() > until or self._fd < 0:  # closed meanwhile, by who closed the database
                    return False
                time.sleep(_LOOK)
            return True
        finally:
            if announced:
                self._unlock(_WAITING)

    def _stand_back(self) -> None:
        until = time.monotonic() + self._courtesy
        while self._held(_WAITING) and not self._held(_WRITING) and time.monotonic() < until:
            time.sleep(_LOOK)

    def _held(self, byte: int) -> bool:
        """By somebody else."""
        asked = _flock(fcntl.F_WRLCK, byte)
        with contextlib.suppress(OSError, ValueError):
            answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
            return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
        return False

    def _lock(self, byte: int, kind: int = fcntl.F_WRLCK) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(kind, byte))
        except (OSError, ValueError):  # the latter when it was closed meanwhile
            return False
        return True

    def _unlock(self, byte: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, byte))


_FLOCK = "hhlli0l"
"""struct flock of Linux: type, whence, start, length, process, padded to a multiple of its longest part."""


def _flock(kind: int, byte: int) -> bytes:
    # locks of the open file, not of the process: two storages of one process take turns, too (fcntl(2), F_OFD_SETLK)
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
