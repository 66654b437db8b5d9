"""What all health managers share through the database: the pause and the tokens of failovers, their figures, and the
failovers that come back. Part of `octavia_core.ports.storage.Transaction`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import attrs

from octavia_core.domain.operation import Operation

__all__ = ["Comeback", "Fleet", "Governing", "Observer", "Unserving"]


@attrs.frozen(kw_only=True)
class Governing:
    """What holds for the failovers of all health managers. Times are microseconds of the database's clock.

    Attributes:
        paused_by: who paused failovers, None while nobody has.
        tokens: failovers that may start at once, as counted at `counted_at`; None when nobody has counted yet.
        now: when this was read.
    """

    now: int
    paused_by: str | None = None
    paused_reason: str | None = None
    paused_at: int | None = None
    tokens: float | None = None
    counted_at: int = 0


@attrs.frozen(kw_only=True)
class Observer:
    """One health manager by its own figures, as it wrote them at `written_at` (microseconds, database's clock)."""

    name: str
    written_at: int
    figures: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Comeback:
    """A failover that has to be tried again. Times are microseconds of the database's clock.

    Attributes:
        attempts: failovers that this has stored so far.
        next_at: when the next one may be stored.
        since: when it was first seen that the amphora should be replaced and is not.
        operation_id: the last of these failovers.
        reason: why the one before failed, or what is wrong.
    """

    amphora_id: str
    load_balancer_id: str
    attempts: int
    next_at: int
    since: int
    reason: str
    operation_id: str | None = None


@attrs.frozen(kw_only=True)
class Unserving:
    """An amphora that should be replaced while nothing replaces it.

    Attributes:
        operation_id: the last failover of its load balancer that failed or was cancelled; None when none is known.
        actor: who asked for that one; `reason`: why it ended; `failed_at`: when, microseconds.
    """

    amphora_id: str
    load_balancer_id: str
    operation_id: str | None = None
    actor: str | None = None
    reason: str | None = None
    failed_at: int | None = None


class Fleet(Protocol):
    """Methods of a transaction."""

    def governing(self, *, hold: bool = False) -> Governing:
        """What holds now. With `hold` nobody else changes it until this transaction is over."""

    def set_pause(self, by: str | None, reason: str | None) -> None:
        """Pause the failovers of everybody from now on, or (None) let them go."""

    def set_tokens(self, tokens: float) -> None:
        """Store how many failovers may start at once, counted now. Read them with `hold` in the same transaction."""

    def observe(self, name: str, figures: Mapping[str, Any], *, keep: float) -> None:
        """Write the one row of a health manager; rows that nobody has written for `keep` seconds are removed."""

    def forget_observer(self, name: str) -> None:
        """Take the row of a health manager away: it has ended. Absent is success."""

    def observers(self) -> Sequence[Observer]:
        """All rows of health managers, by name."""

    def requests(self, flow: str, prefix: str) -> Sequence[Operation]:
        """Operations of a flow whose `request_id` begins like that (no wildcards in it)."""

    def amphora_states(self) -> Mapping[str, int]:
        """How many amphorae there are in each status; the DELETED ones are left out."""

    def unserving(self, *, limit: int = 1000) -> Sequence[Unserving]:
        """Amphorae that are in ERROR or declared dead, whose load balancer (ACTIVE or ERROR) has served before (or somebody
        else has made it, and its VIP has an address), is not one whose deletion failed, and that no open operation is
        about: the longest lost first.
        """

    def lost_lately(self, seconds: float) -> Mapping[str, int]:
        """How many amphorae were declared dead in that time, by the rule of the governor (events `amphora.lost`)."""

    def comebacks(self, amphora_ids: Collection[str] | None = None) -> Sequence[Comeback]:
        """All that wait, or those of the given amphorae, by `next_at`."""

    def set_comeback(self, comeback: Comeback) -> None:
        """Insert it, or replace that of the same amphora."""

    def set_host(self, amphora_id: str, host: str) -> None:
        """Remember on which machine compute has put it. Without a row of its heart nothing is remembered."""

    def forget_comebacks(self, amphora_ids: Collection[str]) -> None:
        """They are served again, gone, or asked for anew. Absent is success."""
