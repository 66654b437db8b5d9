"""What is known of one amphora, and its traffic that is not written yet."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import add

import attrs

from octavia_core.controller.health.grown import Grown
from octavia_core.controller.health.order import Order
from octavia_core.domain.heartbeat import LARGEST_COUNTER
from octavia_core.domain.skim import FIELDS, Skimmed
from octavia_core.ports.hearts import TrafficDelta

__all__ = ["NEVER", "NONE", "Known", "added", "deltas_of", "emptied", "rows_said", "rows_say"]

NEVER = -1
"""The gauge of a listener that has no row yet."""
SEVERAL = 4
"""Words of `Known.others`."""
NONE: frozenset[str] = frozenset()
"""No listener; one value for all amphorae."""


@attrs.define(eq=False)
class Known(Order):
    """One amphora. Times are monotonic seconds.

    Attributes:
        said: the first of its reports that had the words of its newest one; its counters are spent.
        heard_at: when its newest report came.
        listeners, deltas: as in `said`.
        key: of its newest report.
        applied: the words that the rows got, None when they got none.
        others: further words that the rows said all of, a few, since they were changed last: where members do not fit into a heartbeat,
            or are dear to look at, it does not say the same each time.
        applied_at: when they got them, -inf when they may have changed since.
        matches: whether its listeners were as many then as they should be; until they are, it does not count as heard.
        sums: traffic that is not written, laid out as `Skimmed.counters`, but for gauges: `open` are the newest, `gauges`
            those that the rows have.
        counted_at: since when `sums` are sums.
        totals: of an agent that sends no deltas.
        foreign: those of its listeners whose traffic is nobody's: they are not of its load balancer, or its row is not there.
    """

    said: Skimmed
    heard_at: float
    listeners: tuple[str, ...] = ()
    deltas: bool = True
    sums: array[int] = attrs.field(factory=lambda: array("q"))
    gauges: array[int] = attrs.field(factory=lambda: array("q"))
    open: Sequence[int] = ()
    counted_at: float = float("-inf")
    key: int = 0
    applied: bytes | None = None
    others: tuple[bytes, ...] = ()
    applied_at: float = 0.0
    matches: bool = True
    totals: Grown | None = None
    foreign: frozenset[str] = NONE


def rows_say(known: Known) -> bool:
    """Whether the rows say what it says, for all that is known; then those words are the ones that they got."""
    words = known.said.words
    if known.applied != words and known.matches and words in known.others:
        known.applied = words
    return known.applied == words


def rows_said(known: Known, words: bytes, *, unchanged: bool) -> None:
    """These words were held against the rows; `unchanged`: nothing was to be written, and nothing said by somebody else counted."""
    before, known.applied = known.applied, words
    if not unchanged:
        known.others = ()
    elif before == words:  # as is done again now and then, since rows may have changed: the others' turn comes
        known.others = known.others and (words,)
    elif before is not None:
        known.others = (*(each for each in known.others if each != words), words)[-SEVERAL:]


def added(known: Known, counters: Sequence[int]) -> None:
    """Add what is to be added, and set the gauges."""
    known.open = counters[2::FIELDS]
    if not any(counters):
        return
    try:
        known.sums = array("q", map(add, known.sums, counters))
    except OverflowError:  # only a liar counts that far
        known.sums = array(
            "q", [min(sum(pair), LARGEST_COUNTER - 1) for pair in zip(known.sums, counters, strict=True)]
        )


def emptied(known: Known) -> None:
    """Its traffic is handed out."""
    known.gauges = array("q", known.open)
    known.sums = array("q", bytes(8 * len(known.sums)))


def deltas_of(amphora_id: str, known: Known) -> list[TrafficDelta]:
    """What happened since the last time that was written; nothing for listeners where nothing has."""
    found = []
    for place, listener in enumerate(known.listeners):
        rx, tx, _, totconns, ereq = known.sums[place * FIELDS : (place + 1) * FIELDS]
        conns = known.open[place]
        if rx or tx or totconns or ereq or conns != known.gauges[place]:
            found.append(
                TrafficDelta(
                    listener_id=listener,
                    amphora_id=amphora_id,
                    bytes_in=rx,
                    bytes_out=tx,
                    active_connections=conns,
                    total_connections=totconns,
                    request_errors=ereq,
                    absolute=not known.deltas,
                )
            )
    return found
