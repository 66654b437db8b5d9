"""What is known of amphorae is kept from the garbage collector.

A full collection looks at every object that there is and holds all threads meanwhile: with a hundred thousand amphorae for more than
a second, several times in a minute. What memory knows has no cycles, so it needs no collector.
"""

from __future__ import annotations

import gc

__all__ = ["Frozen"]

_MORE = 1000
"""So many new amphorae, or a tenth more than before, are worth it: what is frozen while it is in use stays looked after by
reference counts alone.
"""


class Frozen:
    """For a process that is a health manager and nothing else: `gc.freeze` counts for all its objects. Used by one thread."""

    def __init__(self) -> None:
        self._known = 0

    def tick(self, known: int) -> None:
        """So many amphorae are known by now."""
        self._known = min(self._known, known)
        if known - self._known >= max(_MORE, self._known // 10):
            self._known = known
            gc.freeze()
