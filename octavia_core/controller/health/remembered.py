"""Who was heard, when, and signed with which key: what looks ask of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from octavia_core.controller.health.known import Known

__all__ = ["Remembered"]


class Remembered:
    """One entry per amphora. Safe for threads; those who change it hold the lock.

    Attributes:
        forgotten: how many amphorae were forgotten so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Known] = OrderedDict()  # who was heard longest ago comes first
        self._miscounted: set[str] = set()
        self._signs: dict[str, int] = {}  # with which key, of those that sign with another than the first
        self.forgotten = 0

    def heard_at(self, amphora_id: str) -> float | None:
        """When a heartbeat of it came that counts, None for never."""
        known = self._known.get(amphora_id)
        return None if known is None or not known.matches else known.heard_at

    def said_at(self, amphora_id: str) -> float | None:
        """When any heartbeat of it came, whether it counts or not; None for never."""
        known = self._known.get(amphora_id)
        return None if known is None else known.heard_at

    def knows(self, amphora_id: str) -> bool:
        """Whether a heartbeat of it ever came, and was not forgotten."""
        return amphora_id in self._known

    def late(self, before: float) -> set[str]:
        """Those that were heard, but not at that time or later, or whose last report does not count. Costs with their number: the
        first that was heard later ends it, and who was taken in out of turn is late when that one is heard again.
        """
        with self._lock:
            found = set(self._miscounted)
            for id, known in self._known.items():
                if known.heard_at >= before:
                    break
                found.add(id)
            return found

    def miscounted(self, amphora_id: str) -> bool:
        """Whether its last report had a wrong number of listeners."""
        known = self._known.get(amphora_id)
        return known is not None and not known.matches

    def oldest(self, wanted: Collection[str], but: Collection[str]) -> str | None:
        """Who of these, but for those, was heard longest ago; None when none of them was heard. Costs with the number of others
        that were heard before it.
        """
        with self._lock:
            return next((id for id in self._known if id in wanted and id not in but), None)

    def newest(self) -> float | None:
        """When the last heartbeat came that counts, whoever sent it; None when none has. One that was taken in out of turn may
        hide it until the next.
        """
        with self._lock:
            return next((known.heard_at for known in reversed(self._known.values())), None)

    def signed(self, since: float, some: int) -> Mapping[int, tuple[int, Sequence[str]]]:
        """Key (by its number) -> how many amphorae's newest heartbeat is signed with it and came at that time or later, and some
        of them. Costs with the number of those that were not heard, or sign with another key than the first.
        """
        with self._lock:
            found: dict[int, list[str]] = {}
            for id, key in self._signs.items():
                if self._known[id].heard_at >= since:
                    found.setdefault(key, []).append(id)
            late = 0
            for id, known in self._known.items():
                if known.heard_at >= since:
                    break
                late += id not in self._signs
            said = {key: (len(ids), sorted(ids)[:some]) for key, ids in found.items()}
            if many := len(self._known) - len(self._signs) - late:
                newest = (id for id in reversed(self._known) if id not in self._signs)
                said[0] = many, sorted(islice(newest, min(some, many)))
        return said

    def _leaves(self, amphora_id: str) -> None:
        """It is not known any more."""
        self._miscounted.discard(amphora_id)
        self._signs.pop(amphora_id, None)
        self.forgotten += 1

    def _signed_with(self, known: Known, key: int) -> None:
        known.key = key
        if key:
            self._signs[known.said.amphora_id] = key
        else:
            self._signs.pop(known.said.amphora_id, None)
