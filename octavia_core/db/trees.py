"""Trees and members as values, kept for a moment: an operation reads what it has just stored, and the next one that too.

To make a value of the JSON of a few thousand members takes longer than all else that a change of one of them asks for.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import attrs

from octavia_core.db.text import from_text, to_text
from octavia_core.domain.codec import from_json
from octavia_core.domain.tree import LoadBalancer, Member

__all__ = ["Members", "Trees", "text_of"]

_ROOM = 8 * 1024 * 1024
"""Characters of JSON whose values are kept: three trees of ten thousand members, or thousands of common ones."""

_MEMBERS = 8192
"""Members that are kept at most."""


class Members:
    """Members by the rows that they were read of: a change reads a tree three times, and nearly all of it is as it was. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Member]] = {}

    def of(self, row: Any, make: Callable[[Any], Member]) -> Member:
        """The member that this row says, a tuple that begins with its id; `make` makes one."""
        known = self._kept.get(row[0])
        if known is not None and known[0] == row:
            return known[1]
        made = make(row)
        if len(self._kept) >= _MEMBERS:
            self._kept.clear()
        self._kept[row[0]] = row, made
        return made


class Trees:
    """By the very text that they are stored as, so that they cannot be out of date. Thread-safe.

    Args:
        room: characters of text that are kept at most.
    """

    def __init__(self, room: int = _ROOM) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, LoadBalancer] = OrderedDict()
        self._room, self._taken = room, 0

    def of(self, text: str) -> LoadBalancer:
        """The tree that this text says.

        Raises:
            ValueError: it says none.
        """
        with self._lock:
            found = self._kept.get(text)
            if found is not None:
                self._kept.move_to_end(text)
                return found
        made = from_json(from_text(text), LoadBalancer)
        self.keep(text, made)
        return made

    def keep(self, text: str, tree: LoadBalancer) -> None:
        """Remember what a text says; the oldest ones make room for it."""
        with self._lock:
            if text not in self._kept and len(text) <= self._room:
                self._kept[text] = tree
                self._taken += len(text)
            while self._taken > self._room:
                old, _ = self._kept.popitem(last=False)
                self._taken -= len(old)


def text_of(tree: LoadBalancer) -> str:
    """`to_text` of a tree, letter for letter; members that were written before are not written anew."""
    written = to_text(attrs.evolve(tree, pools=())) or ""
    pools = [to_text(attrs.evolve(pool, members=())) or "" for pool in tree.pools]
    # a quote inside of a text has a backslash before it, so what is found is the field, unless headers are named like it
    if written.count(_POOLS) != 1 or any(pool.count(_MEMBERS_OF) != 1 for pool in pools):
        return to_text(tree) or ""
    whole = [
        text.replace(_MEMBERS_OF, f"{_MEMBERS_OF[:-1]}{','.join(map(_member_text, pool.members))}]")
        for text, pool in zip(pools, tree.pools, strict=True)
    ]
    return written.replace(_POOLS, f"{_POOLS[:-1]}{','.join(whole)}]")


_POOLS, _MEMBERS_OF = '"pools":[]', '"members":[]'


@functools.lru_cache(maxsize=8192)
def _member_text(member: Member) -> str:
    return to_text(member) or ""
