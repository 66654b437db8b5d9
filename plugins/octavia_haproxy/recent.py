"""What a driver remembers of agents it has talked to lately. Bounded; what is forgotten is asked again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

import attrs

from octavia_haproxy.render.held import Held

__all__ = ["Known", "Recent"]

K = TypeVar("K")
V = TypeVar("V")

_MOST = 4096


@attrs.frozen(kw_only=True)
class Known:
    """What an agent of ours was seen to run last. Taken for granted only by a request that the agent refuses otherwise.

    Attributes:
        etag: of the configuration.
        held: what matters of it.
        version: of HAProxy there, in the agent's words.
    """

    etag: str
    held: Held
    version: str


class Recent(Generic[K, V]):
    """The newest entries. Safe for threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[K, V] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, key: K) -> V | None:
        """The entry, None when there is none (any more)."""
        return self._known.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember it, as the newest."""
        with self._guard:
            self._known[key] = value
            self._known.move_to_end(key)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)

    def discard(self, key: K) -> None:
        """Forget it. Absent is success."""
        with self._guard:
            self._known.pop(key, None)
