"""Where the traffic of listeners is counted, besides the database: a log, a time series, a metering service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from octavia_core.ports.hearts import TrafficDelta

__all__ = ["StatisticsPort"]


class StatisticsPort(Protocol):
    """One such place.

    The health manager sums what heartbeats say for up to half a minute and hands it over from one thread, a batch of some
    thousand listeners at most at a time. Each batch comes once, after the database has it (where that is one of the places):
    what a driver raises is logged and counted, and the batch is not handed over again, so that nothing is counted twice.
    """

    def store(self, batch: Sequence[TrafficDelta]) -> None:
        """Count it. It should take milliseconds: the next batch waits."""

    def close(self) -> None:
        """Nothing comes any more. Twice is harmless."""
