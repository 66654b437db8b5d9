"""Trouble that lasts is said when it begins, when it has other words, and once a minute; not at every attempt."""

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
        self._said: dict[str, dict[str, float]] = {}

    def say(self, matter: str, words: str) -> None:
        """It is so, unless that was said lately: of words that take turns, each counts by itself."""
        now, said = self._clock.monotonic(), self._said.setdefault(matter, {})
        if words not in said or now - said[words] >= REMIND:
            self._log.warning("%s", words)
            for old in [old for old, at in said.items() if now - at >= REMIND]:
                del said[old]
            said[words] = now

    def over(self, matter: str) -> None:
        """It is not so any more, which is said, too. Harmless when nothing was said."""
        before = self._said.pop(matter, None)
        if before:
            self._log.warning("this is over: %s", next(reversed(before)))
