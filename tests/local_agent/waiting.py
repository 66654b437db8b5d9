"""Waiting for what happens, and for the end of processes."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["PATIENCE", "is_alive", "parent_of", "started", "until"]

T = TypeVar("T")

PATIENCE = 40.0
"""Seconds after which a thing that should happen is taken for not happening."""


def until(look: Callable[[], T | None], what: str) -> T:
    """Look again and again until something is there (neither None nor False)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found is not None and found is not False:
            return found
        select.select([], [], [], 0.01)
    raise AssertionError(f"never seen: {what}")


def is_alive(pid: int) -> bool:
    """True when the process runs; a zombie does not, unless other threads of it end a little later."""
    fields = _stat(pid)
    return bool(fields) and (fields[0] != "Z" or int(fields[17]) > 1)


def started(pid: int) -> int:
    """When the process was started, in clock ticks since boot; 0 when it is gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def parent_of(pid: int) -> int:
    """Its parent's pid; 0 when it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third (state) on; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
