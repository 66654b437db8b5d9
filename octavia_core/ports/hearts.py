"""Hearts of amphorae in the database: when each was heard, what those of a pair said last, and traffic. Part of
`octavia_core.ports.storage.Transaction`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import attrs

from octavia_core.domain.outline import Outline
from octavia_core.domain.vocabulary import AmphoraStatus

__all__ = ["Heard", "Hearts", "LastReport", "Liveness", "TrafficDelta"]


@attrs.frozen(kw_only=True)
class Heard:
    """One heartbeat applied to the rows."""

    amphora_id: str
    at: int
    """Microseconds since the epoch at reception, receiver's clock."""
    sequence: int | None
    observer: str


@attrs.frozen(kw_only=True)
class LastReport:
    """The newest report of an amphora of a pair that any host has held against the rows.

    Attributes:
        at: when it was heard, microseconds since the epoch.
        last_heard: when the amphora was last heard at all, microseconds; None when that was never written.
        words: what it said, as its writer put it.
    """

    amphora_id: str
    load_balancer_id: str
    at: int
    last_heard: int | None
    words: str


@attrs.frozen(kw_only=True)
class Liveness:
    """What is known of one amphora's heart.

    Attributes:
        last_heard: microseconds, None when it never was.
        since: when its server was asked for, microseconds: from when "never heard" counts.
        declared_dead: microseconds when health declared it dead, None while it is not.
        observer: who heard it last, None when nobody of ours did.
        zone: where compute put it, `host` the machine; `address`: its management address; None where unknown.
    """

    amphora_id: str
    load_balancer_id: str | None
    status: AmphoraStatus
    compute_id: str | None
    last_heard: int | None
    since: int
    declared_dead: int | None
    busy: bool
    observer: str | None = None
    zone: str | None = None
    address: str | None = None
    host: str | None = None


@attrs.frozen(kw_only=True)
class TrafficDelta:
    """What to add to the counters of one listener on one amphora; `active_connections` is set, not added.

    `absolute` True: they are totals (heartbeats older than version 3), and take the place of what is less.
    """

    listener_id: str
    amphora_id: str
    bytes_in: int
    bytes_out: int
    active_connections: int
    total_connections: int
    request_errors: int
    absolute: bool = False


class Hearts(Protocol):
    """What health reads and writes."""

    def liveness(self, amphora_ids: Collection[str] | None = None) -> Sequence[Liveness]:
        """What is known of the hearts of all amphorae that are not DELETED (or of the given ones), in one query."""

    def amphora_ids(self) -> Collection[str]:
        """The ids of all amphorae that are not DELETED, in one query."""

    def heard(self, batch: Sequence[Heard]) -> None:
        """Move last_heard forward (never back), in as few statements as the database allows; mirrors upstream's amphora_health."""

    def heard_together(self, at: int, observer: str, amphora_ids: Collection[str]) -> None:
        """`heard` for many amphorae that were heard at the same time, which costs far less; their sequence stays as it was."""

    def observed(self, amphora_ids: Collection[str]) -> Mapping[str, tuple[int, str]]:
        """When (microseconds, rounded down) each of these was heard last, and by which of our health managers; those that none
        has heard are left out. In one query.
        """

    def keep_reports(self, reports: Mapping[str, tuple[int, str]]) -> None:
        """Store when (microseconds) each of these amphorae said what, for health managers of other hosts. A newer one that is
        stored already stays; amphorae that are unknown or DELETED are passed over.
        """

    def last_reports(self, load_balancer_ids: Collection[str]) -> Sequence[LastReport]:
        """What `keep_reports` has of their amphorae that do not go, by amphora, in one query."""

    def reported_on(self, amphora_ids: Collection[str]) -> Mapping[str, Outline | None]:
        """The load balancer of each amphora with what `lifecycle.operating.roll_up` needs (statuses, names, enabled), five
        hundred in a query; None for one that is DELETED or PENDING_DELETE, or belongs to none or to one that is DELETED; unknown
        amphorae are left out.
        """

    def calm(self, amphora_ids: Collection[str]) -> Mapping[str, bytes]:
        """What the rows say of the load balancers of these amphorae as `domain.calm.digest`, five hundred in a query: it is that
        of a heartbeat (`calm_of`) only when the two agree that all is well. Amphorae and load balancers that `reported_on` gives
        no outline of, load balancers that are not enabled and ONLINE, and pairs, which two speak for, are left out.
        """

    def changed_under(self, since: int, after: int) -> Collection[str]:
        """Amphorae that are not DELETED or PENDING_DELETE whose load balancer's row was written at `since` (microseconds) or
        later, by whoever keeps `updated_at` and `created_at`, or is named by an event with a higher sequence than `after`: in one
        query. Upstream's API and all workers write that row before they change anything below; health managers emit events.
        """

    def silent(self, before: int) -> Sequence[Liveness]:
        """What is known of the hearts of those that were last heard before then (microseconds), are not declared dead and not
        DELETED: costs with their number, not with that of all. Those that were never heard are not among them.
        """

    def declare_dead(self, amphora_id: str) -> bool:
        """Compare-and-set: True for exactly one caller, who starts the failover; marks the health row busy."""

    def forget_health(self, amphora_id: str) -> None:
        """Remove the liveness and health rows, and what its agent had (see `Marks`). Absent is success."""

    def add_traffic(self, batch: Sequence[TrafficDelta]) -> None:
        """Add to listener_statistics, inserting rows that are missing; no counter of a row becomes less."""

    def counted(self, amphora_ids: Collection[str]) -> Mapping[tuple[str, str], tuple[int, int, int, int]]:
        """(Listener, amphora) -> bytes in, bytes out, connections in all, request errors that listener_statistics has of these."""
