"""Heartbeats of an amphora with more members than one datagram takes: all listeners, and members in turns.

Such a heartbeat is marked (`octavia_core.domain.heartbeat.PARTIAL`), so that what it does not name keeps its status.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

__all__ = ["Portions"]

_TRIES = 8
"""The second fits nearly always; each later one is smaller by a tenth at least."""
_SPARE = 0.99
"""Of the room that is reckoned, since members do not all take the same."""


class Portions:
    """Whose turn it is. For one thread."""

    def __init__(self) -> None:
        self._room = 0
        """As many members as fitted beside the listeners the last time; 0 while nothing was too large."""
        self._next: dict[Hashable, int] = {}

    def listeners_alone(
        self, document: Mapping[str, Any], key: str | bytes, to: Hashable, urgent: Collection[tuple[str, str]]
    ) -> bytes | None:
        """As `pack`, without a word about pools and members; nobody loses a turn by it."""
        from octavia_core.domain.heartbeat import LARGEST_DATAGRAM, PARTIAL, encode

        packet = encode({**document, "pools": {}, PARTIAL: True}, key)
        return packet if len(packet) <= LARGEST_DATAGRAM else None

    def pack(
        self, document: Mapping[str, Any], key: str | bytes, to: Hashable, urgent: Collection[tuple[str, str]]
    ) -> bytes | None:
        """The document, signed, or as much of it as fits into a datagram.

        Args:
            document: a whole heartbeat.
            key: the heartbeat key.
            to: the controller that gets it. Each has turns of its own, so that each hears of all members in the end.
            urgent: (pool key, member) of what is not to wait for its turn.

        Returns:
            None when not even the listeners fit.
        """
        from octavia_core.domain.heartbeat import LARGEST_DATAGRAM, PARTIAL, encode  # late, as in `beats`

        tried: tuple[int, int] | None = None
        if not self._room or sum(len(said["members"]) or 1 for said in document["pools"].values()) <= self._room:
            whole = encode(document, key)
            if len(whole) <= LARGEST_DATAGRAM:
                self._room = 0
                return whole
            self._room = sum(len(said["members"]) or 1 for said in document["pools"].values())
            tried = self._room, len(whole)
        items = [(pool, each) for pool, said in document["pools"].items() for each in said["members"] or ("",)]
        bare = {**document, "pools": {}, PARTIAL: True}
        least = len(packet := encode(bare, key))
        if least > LARGEST_DATAGRAM:
            return None
        room = self._room
        for _ in range(_TRIES):
            if tried is not None:
                each = max(1, tried[1] - least) / max(1, tried[0])
                room = min(int(room * 0.9), int((LARGEST_DATAGRAM - least) / each * _SPARE))
            if room < 1:
                break
            chosen, after = self._chosen(items, room, to, urgent)
            attempt = encode({**bare, "pools": _of(document["pools"], chosen)}, key)
            if len(attempt) <= LARGEST_DATAGRAM:
                each = max(1, len(attempt) - least) / room
                self._room = int((LARGEST_DATAGRAM - least) / each * _SPARE)
                self._next[to] = after
                return attempt
            tried = room, len(attempt)
        return packet

    def _chosen(
        self, items: list[tuple[str, str]], room: int, to: Hashable, urgent: Collection[tuple[str, str]]
    ) -> tuple[list[tuple[str, str]], int]:
        """What goes into this one, in the order of the whole, and where the next one begins."""
        first = {place for place, item in enumerate(items) if item in urgent} if urgent else set()
        taken = set(sorted(first)[: room // 2])
        place = self._next.get(to, 0) % len(items)
        for _ in range(len(items)):
            if len(taken) >= room:
                break
            taken.add(place)
            place = (place + 1) % len(items)
        return [items[each] for each in sorted(taken)], place


def _of(pools: Mapping[str, Any], chosen: list[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pool, member in chosen:
        said = found.setdefault(pool, {"status": pools[pool]["status"], "members": {}})
        if member:
            said["members"][member] = pools[pool]["members"][member]
    return found
