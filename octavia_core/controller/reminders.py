"""Trouble that lasts is said when it begins, when its words change, and once a minute; not at every attempt."""

from __future__ import annotations

import logging

from octavia_core.ports.clock import Clock

__all__ = ["REMIND", "Reminders"]

REMIND = 60.0
"""Seconds after which the same trouble is said again."""


class Reminders:
    """What was said of each of several matters. Each matter is one thread's.

    Args:
        log: where it is said, as warnings.
        clock: of the seconds between two times.
    """

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._said: dict[str, tuple[str, float]] = {}

    def say(self, matter: str, words: str) -> None:
        """It is so, unless that was said lately."""
        now = self._clock.monotonic()
        before = self._said.get(matter)
        if before is None or before[0] != words or now - before[1] >= REMIND:
            self._log.warning("%s", words)
            self._said[matter] = words, now

    def over(self, matter: str) -> None:
        """It is not so any more, which is said, too. Harmless when nothing was said."""
        before = self._said.pop(matter, None)
        if before is not None:
            self._log.warning("this is over: %s", before[0])
