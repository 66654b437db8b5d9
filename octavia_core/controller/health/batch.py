"""What memory hands out to be written."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from octavia_core.controller.health.known import Known
from octavia_core.domain.heartbeat import Heartbeat
from octavia_core.domain.skim import Skimmed

__all__ = ["Batch", "Beat", "beat_of"]


@attrs.frozen
class Beat:
    """A report to hold against the rows.

    Attributes:
        matches: whether its listeners were as many as they should be last time.
        seq: its number.
        expected: whether it would be news if the rows said anything else: it is the first of its amphora, or they got it before.
    """

    said: Skimmed
    heard_at: float
    matches: bool
    seq: int | None = None
    expected: bool = False

    @property
    def heartbeat(self) -> Heartbeat:
        """What it says of statuses, read anew; its counters mean nothing."""
        return self.said.statuses()


def beat_of(known: Known) -> Beat:
    """The newest report of an amphora."""
    expected = known.applied is None or known.applied == known.said.words
    return Beat(known.said, known.heard_at, known.matches, known.seq, expected)


@attrs.frozen
class Batch:
    """What is to be written now; whoever takes it writes it or gives it back.

    Attributes:
        beats: reports to hold against the rows, by amphora.
        steady: when the others were heard, by amphora: they say what the rows have.
        traffic: how many seconds old sums are that are due once the reports are written, None for none.
    """

    beats: Mapping[str, Beat]
    steady: Mapping[str, float]
    traffic: float | None = None

    def __len__(self) -> int:
        return len(self.beats) + len(self.steady)
