"""What a health manager says of itself: one row, written every few seconds, so that nobody has to talk to processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavia_core.controller.holder import PLACE, place_of_processes
from octavia_core.errors import TransientError
from octavia_core.ports.storage import Storage

__all__ = ["EVERY", "NEWEST", "SOME", "Figures", "leave", "rates", "signatures"]

log = logging.getLogger("octavia_core.health")

EVERY = 3.0
"""Seconds between two times that the row is written, at least."""
KEEP = 600.0
"""Seconds after which the row of a health manager that is gone is removed, by one that lives."""
NEWEST = "newest"
"""Where it says when it heard somebody last, microseconds of the database's clock; None for never."""
SOME = 10
"""Amphorae that are named where there may be many."""
_FINE = frozenset({"accepted", "late", "repeated"})


class Figures:
    """Writes them. Used by one thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._at: float | None = None
        self._before: Mapping[str, int] = {}

    def tick(self, now: float, name: str, counters: Mapping[str, int], rest: Callable[[], Mapping[str, Any]]) -> bool:
        """Write the row when it is time; whether it was.

        Args:
            now: monotonic seconds.
            name: the health manager's.
            counters: datagrams by what became of them, since it began.
            rest: everything else, asked for only when it is written.
        """
        if self._at is not None and now - self._at < EVERY:
            return False
        counted = dict(counters)
        passed = None if self._at is None else now - self._at
        figures = {**rates(counted, self._before, passed), **rest(), PLACE: place_of_processes()}
        self._at, self._before = now, counted
        try:
            self._storage.transaction(lambda tx: tx.observe(name, figures, keep=KEEP))
        except TransientError as error:
            log.info("the figures of this health manager are not written now: %s", error)
            return False
        return True


def leave(storage: Storage, name: str) -> None:
    """Take the row of a health manager that ends away, so that nobody counts on it; where that fails, it is old soon."""
    try:
        storage.transaction(lambda tx: tx.forget_observer(name))
    except TransientError as error:
        log.info("the figures of this health manager are left behind: %s", error)


def signatures(
    signed: Mapping[int, tuple[int, Sequence[str]]], fingerprints: Mapping[int, str]
) -> Mapping[str, Mapping[str, int | Sequence[str]]]:
    """Fingerprint of a key -> how many amphorae sign with it, and some of them.

    Args:
        signed: as `Memory.signed` says it.
        fingerprints: of all keys that are valid, by their numbers.
    """
    return {
        fingerprints[key]: {"amphorae": many, "some": list(some)}
        for key, (many, some) in sorted(signed.items())
        if key in fingerprints
    }


def rates(counters: Mapping[str, int], before: Mapping[str, int], seconds: float | None) -> dict[str, Any]:
    """Heartbeats since the process began and per second lately, and what was refused or lost, by reason.

    Args:
        counters: as `Memory.counters`.
        before: the same, so many `seconds` ago.
        seconds: None when there is nothing to compare with.
    """
    fine = sum(counters.get(name, 0) for name in _FINE)
    past = sum(before.get(name, 0) for name in _FINE)
    return {
        "heartbeats": fine,
        "per_second": None if not seconds else round((fine - past) / seconds, 1),
        "dropped": {name: many for name, many in sorted(counters.items()) if name not in _FINE and many},
    }
