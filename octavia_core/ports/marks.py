"""What agents have of that which can be rotated: the heartbeat key, the list of controllers. Kept for as long as the
amphora, whatever became of the operations that told it. Part of `octavia_core.ports.storage.Transaction`.

A mark is a fingerprint; `what` is what it is of ("heartbeat-key", "controllers").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

__all__ = ["Marks"]


class Marks(Protocol):
    """Methods of a transaction."""

    def give_marks(self, amphora_ids: Collection[str], marks: Mapping[str, str]) -> None:
        """They have these for certain (what -> mark); what else they have stays. Twice is once."""

    def doubt_marks(self, amphora_ids: Collection[str], marks: Mapping[str, str]) -> None:
        """They are about to be given these: whatever else they had of the same `what`, they may not have it any more."""

    def marked(self, what: str) -> Mapping[str, str]:
        """Amphora -> the mark that it has for certain; those of which that is not known are left out."""

    def is_had(self, what: str, mark: str) -> bool:
        """Whether any amphora has it for certain."""

    def set_rotation(self, what: str, mark: str) -> None:
        """All agents are to have this one from now on."""

    def rotations(self) -> Mapping[str, str]:
        """What was ever rotated -> its mark that all agents are to have."""
