"""Totals of the oldest agents, which tell all that their HAProxy has counted: made to grow, whatever HAProxy does."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from octavia_core.controller.health.order import GAUGE
from octavia_core.domain.heartbeat import LARGEST_COUNTER
from octavia_core.domain.skim import FIELDS

__all__ = ["Grown"]

_MANY = 1000
"""Listeners of one amphora that are remembered though it does not report them any more."""


@attrs.define(eq=False)
class Grown:
    """Of one amphora. `last`: what each listener said; `base`: what it had before its HAProxy began anew, all times together;
    `fell_at`: since when totals are lower than they were, which is not believed yet.
    """

    last: dict[str, tuple[int, ...]] = attrs.field(factory=dict)
    base: dict[str, tuple[int, ...]] = attrs.field(factory=dict)
    fell_at: float | None = None

    def taken(
        self, listeners: Sequence[str], counters: Sequence[int], now: float, believed_after: float
    ) -> list[int] | None:
        """The same counters with what was before; None while lower ones are not believed.

        Args:
            listeners: whose, in this order.
            counters: as in `Skimmed`.
            now: when they came, monotonic.
            believed_after: seconds for which totals must have been lower, 0 where it is certain that they are of now.
        """
        said = {
            listener: tuple(counters[place * FIELDS : (place + 1) * FIELDS]) for place, listener in enumerate(listeners)
        }
        fell = [id for id, numbers in said.items() if _less(numbers, self.last.get(id))]
        if not fell:
            self.fell_at = None
        elif believed_after:
            self.fell_at = now if self.fell_at is None else self.fell_at
            if now - self.fell_at < believed_after:
                return None
            self.fell_at = None
        for id in fell:
            self.base[id] = _sum(self.base.get(id), self.last[id])
        if len(self.last) > _MANY:
            self.last.clear()
            self.base = {id: base for id, base in self.base.items() if id in said}
        self.last |= said
        return [number for id, numbers in said.items() for number in _sum(self.base.get(id), numbers)]


def _less(numbers: Sequence[int], before: Sequence[int] | None) -> bool:
    """HAProxy counts all anew, so one that is less says it of all; connections that are open may be fewer."""
    if before is None:
        return False
    return any(new < old for place, (new, old) in enumerate(zip(numbers, before, strict=True)) if place != GAUGE)


def _sum(base: Sequence[int] | None, numbers: tuple[int, ...]) -> tuple[int, ...]:
    if base is None:
        return numbers
    both = [min(sum(pair), LARGEST_COUNTER - 1) for pair in zip(base, numbers, strict=True)]
    both[GAUGE] = numbers[GAUGE]
    return tuple(both)
