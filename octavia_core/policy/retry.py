"""How long to wait before asking again: arithmetic only. Who sleeps, and on which clock, is the caller's affair.

Pauses grow from `first` by `multiplier` to `longest`; chance takes up to the share `jitter` off each, so that many who
failed together do not come back together.
"""

from __future__ import annotations

import math

import attrs

from octavia_core.errors import ConfigurationError

__all__ = ["RetryPolicy"]


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When to give up, and how to wait until then.

    Attributes:
        attempts: how often it is tried in all, at least 1.
        first: pause after the first failure, seconds.
        longest: no pause is longer, seconds.
        multiplier: growth of the pause from failure to failure, at least 1.
        jitter: share of a pause that chance may take away, 0 to 1.

    Raises:
        ConfigurationError: a value is out of range.
    """

    attempts: int
    first: float
    longest: float
    multiplier: float = 2.0
    jitter: float = 0.5

    def __attrs_post_init__(self) -> None:
        rules = {
            "attempts must be at least 1": self.attempts >= 1,
            "first must not be negative": 0 <= self.first < math.inf,
            "longest must not be shorter than first": self.first <= self.longest < math.inf,
            "multiplier must be at least 1": 1 <= self.multiplier < math.inf,
            "jitter must be between 0 and 1": 0 <= self.jitter <= 1,
        }
        for rule, kept in rules.items():
            if not kept:
                raise ConfigurationError(f"{rule}, in {self}")

    def delay(self, attempt: int, chance: float = 1.0) -> float:
        """Seconds to wait after failure number `attempt` (the first is 1).

        Args:
            attempt: failures so far, at least 1; it may be larger than `attempts`.
            chance: 0 to 1, drawn by the caller; 1, as by default, takes nothing away.
        """
        if attempt < 1:
            raise ValueError(f"attempts count from 1, not {attempt}")
        try:
            pause = min(self.longest, self.first * self.multiplier ** (attempt - 1))
        except OverflowError:
            pause = self.longest if self.first else 0.0
        return pause * (1 - self.jitter * (1 - chance))

    def exhausted(self, attempt: int) -> bool:
        """Whether failure number `attempt` was the last one that is allowed."""
        return attempt >= self.attempts
