"""What is known of amphorae is kept from the garbage collector.

A full collection looks at every object that there is and holds all threads meanwhile: with a hundred thousand amphorae for more than
a second, once in a second or two, as what heartbeats replace counts as growth. What memory knows has no cycles, so it needs no
collector.
"""

from __future__ import annotations

import gc

__all__ = ["Frozen"]

_YOUNG = 50_000
"""Objects that are made before the young ones are looked through (CPython's default, 700, is for programs that hold little)."""
_SELDOM = 1000
"""Collections of the young between two full ones, but for those that are asked for here."""


class Frozen:
    """For a process that is a health manager and nothing else: thresholds and `gc.freeze` count for all that is in it. A further one
    gives free what the one before has frozen: the health manager that ended, with all that it knew of rows, is in rings.
    """

    def __init__(self) -> None:
        gc.unfreeze()
        gc.set_threshold(_YOUNG, 20, _SELDOM)

    def tick(self) -> None:
        """Collect what came since the last time, and freeze what is left of it: the next collection is as short again."""
        gc.collect()
        gc.freeze()
