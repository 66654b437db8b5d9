"""Names of processes: who holds an operation, who hears heartbeats; and which of them have ended."""

from __future__ import annotations

import os
import socket
import uuid

from octavia_core.ports.fleet import Observer

__all__ = ["PLACE", "STALE", "ended_here", "has_ended", "holder_name", "living", "place_of_processes"]

STALE = 30.0
"""Seconds after which what a health manager has written last says nothing about now."""
PLACE = "processes"
"""Where a health manager's row says where its process number means something."""


def holder_name() -> str:
    """Who holds an operation: host, process and a random part, so that a restarted process is somebody else."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def ended_here(holder: str) -> bool:
    """Whether that holder was of this host, and its process ended, or is this one, which has begun anew since (its number does
    not change in a container). False where that cannot be told: another host's, or not such a name.
    """
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname()[:40] or not pid.isdecimal() or int(pid) == 0:
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # somebody else's, and alive
        return False
    return False


def place_of_processes() -> str:
    """The namespace that process numbers are counted in here; "" on a system that has none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def living(observer: Observer, now: int) -> bool:
    """Whether a row speaks of a health manager that works now (microseconds of the database's clock): it was written lately, and
    its process has not ended here since. One in a container has numbers of its own, and one of this process may be ourselves.
    """
    return now - observer.written_at <= STALE * 1_000_000 and not has_ended(observer)


def has_ended(observer: Observer) -> bool:
    """Whether the process that wrote the row is known to have ended, on this host; False where that cannot be told."""
    _, pid, *_ = (*observer.name.split(":"), "", "")
    if observer.figures.get(PLACE) != place_of_processes() or pid == str(os.getpid()):
        return False
    return ended_here(observer.name)
