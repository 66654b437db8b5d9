"""What `/details` tells of this machine, from /proc."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["details", "hostname", "most_connections"]


def hostname() -> str:
    """This machine's name."""
    return os.uname().nodename


def most_connections() -> int:
    """The most proxied connections (HAProxy's maxconn) that the limit of open files allows.

    A connection takes two descriptors, and up to half a one for splicing; some are needed for the process itself.
    """
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

    hard = getrlimit(RLIMIT_NOFILE)[1]
    return 1_000_000 if hard == RLIM_INFINITY else max(10, (hard - 200) * 2 // 5)


def details() -> dict[str, Any]:
    """`cpu_count`, `cpu`, `memory` (kB), `disk` (bytes) and `load`, in upstream's forms."""
    memory = _memory()
    disk = os.statvfs("/")
    jiffies = _lines("/proc/stat")[0].split()[1:]
    return {
        "cpu_count": os.cpu_count() or 1,
        "cpu": {"total": sum(map(int, jiffies)), "user": jiffies[0], "system": jiffies[2], "soft_irq": jiffies[6]},
        "memory": {
            "total": memory.get("MemTotal", 0),
            "free": memory.get("MemFree", 0),
            "buffers": memory.get("Buffers", 0),
            "cached": memory.get("Cached", 0),
            "swap_used": memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
            "shared": memory.get("Shmem", 0),
            "slab": memory.get("Slab", 0),
        },
        "disk": {"used": (disk.f_blocks - disk.f_bfree) * disk.f_frsize, "available": disk.f_bavail * disk.f_frsize},
        "load": _lines("/proc/loadavg")[0].split()[:3],
    }


def _memory() -> dict[str, int]:
    found = {}
    for line in _lines("/proc/meminfo"):
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0])
    return found


def _lines(path: str) -> list[str]:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().splitlines()
