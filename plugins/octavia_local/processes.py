"""Processes of this machine, told apart for certain: a pid alone may be somebody else by now.

A process is (boot id of the kernel, pid, start time in clock ticks since boot); the last comes from field 22 of
`/proc/<pid>/stat` (proc(5)). Signals go through a pidfd whose owner was checked after opening it, so that a pid that is
used again is never hit.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["Process", "arguments", "boot_id", "end", "every_process", "start_time", "tell"]

_DEAD_STATES = frozenset({"Z", "X", "x"})
"""proc(5): zombie and dead. In a container whose process 1 does not reap, a dead agent stays a zombie for ever."""


@attrs.frozen(kw_only=True)
class Process:
    """One process, for ever. `start_time` 0 means that it had ended before anybody could look."""

    boot_id: str
    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this pid now."""
        return cls(boot_id=boot_id(), pid=pid, start_time=start_time(pid) or 0)

    def alive(self) -> bool:
        """Does it run (or stand frozen)? A zombie does not."""
        return self.boot_id == boot_id() and start_time(self.pid) == self.start_time

    def open(self) -> int | None:
        """A pidfd of exactly this process, or None when it has ended. The caller closes it."""
        if self.boot_id != boot_id() or not self.start_time:
            return None
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if start_time(self.pid) != self.start_time:
            os.close(fd)
            return None
        return fd


def boot_id() -> str:
    """The kernel's name for the time since it started; processes and half-written files of another one are dead."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> int | None:
    """Clock ticks between the kernel's start and the process's, or None when it has ended."""
    fields = _stat(pid)
    return None if fields is None or _has_ended(fields) else int(fields[19])


def _has_ended(fields: list[str]) -> bool:
    """The first thread is a zombie as soon as it has ended itself; the files are open as long as any thread runs."""
    return fields[0] in _DEAD_STATES and int(fields[17]) <= 1


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the third (state) on; the second may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - half the time of Path, and read by every look
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].decode("ascii").split()


def arguments(pid: int) -> list[str]:
    """The process's argv; empty when it has ended or is a zombie."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ProcessLookupError):
        return []
    return [os.fsdecode(part) for part in raw.split(b"\0")[:-1]]


def every_process() -> Iterator[tuple[Process, int, list[str]]]:
    """(process, parent's pid, argv) of every process of this user that runs or stands frozen."""
    own, boot = os.geteuid(), boot_id()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            if entry.stat().st_uid != own:
                continue
        except OSError:
            continue
        fields = _stat(pid)
        if fields is not None and not _has_ended(fields):
            # argv is read after the start time: should the pid change hands between, `end` will notice
            yield Process(boot_id=boot, pid=pid, start_time=int(fields[19])), int(fields[1]), arguments(pid)


def end(process: Process, within: float) -> bool:
    """Kill it (frozen or not) and wait until it has ended and its sockets are closed; False when that took too long.

    The kernel makes a pidfd readable after the descriptors of the process are closed.
    """
    return tell(process, signal.SIGKILL, within)


def tell(process: Process, number: int, within: float) -> bool:
    """Send it a signal that ends it, and wait as `end` does."""
    fd = process.open()
    if fd is None:
        return True
    try:
        deadline = time.monotonic() + within
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(fd)
