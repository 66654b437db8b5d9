"""What the two amphorae of a pair say together: one heartbeat made of both, which is then judged as any other.

Rule 1: the better word of a member counts, since whoever holds the VIP may reach it. Rule 2: a listener that only one of
them has is worth less than one that both have. Rule 3: that they differ about a member is no news for as long as two
heartbeats; then its pool says so. Rule 4: reports that are not fresh are not asked (the caller sees to that). Rule 5:
no driver, no SQL, no clock in this file.

Traffic is not combined here: rows of it are per amphora, and are summed by who reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import attrs

from octavia_core.domain.heartbeat import Heartbeat, ListenerReport, PoolReport
from octavia_core.lifecycle.operating import DISPUTED, HALF

__all__ = ["Difference", "differences", "together"]

_BEST_FIRST = ("UP", "no check", "DRAIN", "MAINT", "RESTARTING")
"""Words of members; another one is worse than these, and DOWN the worst."""


@attrs.frozen(order=True)
class Difference:
    """One amphora says that a member works, the other that it does not."""

    pool_id: str
    member_id: str
    up: str
    down: str


def together(reports: Sequence[Heartbeat], *, disputed: Collection[str] = (), settled: bool = True) -> Heartbeat:
    """One heartbeat that says what they all say.

    Args:
        reports: fresh ones of amphorae of one load balancer, the newest first; at least one.
        disputed: ids of pools about whose members they have differed for too long.
        settled: False while the load balancer changes: one may have what the other is to be given this very moment.
    """
    newest = reports[0]
    if len(reports) == 1:
        return newest
    by_pool = [report.reports_by_pool() for report in reports]
    return Heartbeat(
        amphora_id=newest.amphora_id,
        seq=newest.seq,
        version=newest.version,
        listeners={
            id: ListenerReport(_listener([report.listeners.get(id) for report in reports], settled=settled))
            for id in _ids(report.listeners for report in reports)
        },
        pools={
            id: _pool([found[id] for found in by_pool if id in found], disputed=id in disputed) for id in _ids(by_pool)
        },
        partial=any(report.partial for report in reports),
    )


def differences(reports: Sequence[Heartbeat]) -> tuple[Difference, ...]:
    """What the reports differ about, sorted. Of several that say the same, the first is named."""
    found = []
    by_pool = [(report.amphora_id, report.reports_by_pool()) for report in reports]
    for pool in _ids(pools for _, pools in by_pool):
        said = [(amphora, pools[pool].members) for amphora, pools in by_pool if pool in pools]
        for member in _ids(members for _, members in said):
            words = [(amphora, members[member]) for amphora, members in said if member in members]
            up = [amphora for amphora, word in words if word.startswith("UP")]
            down = [amphora for amphora, word in words if word.startswith("DOWN")]
            if up and down:
                found.append(Difference(pool, member, up[0], down[0]))
    return tuple(sorted(found))


def _ids(several: Iterable[Iterable[str]]) -> list[str]:
    """The ids of all, each once, in the order in which they are met."""
    return list(dict.fromkeys(id for ids in several for id in ids))


def _listener(reports: Sequence[ListenerReport | None], *, settled: bool) -> str:
    words = [report.status for report in reports if report is not None]
    best = "OPEN" if "OPEN" in words else words[0]
    return HALF if settled and len(words) < len(reports) and best in ("OPEN", "FULL") else best


def _pool(reports: Sequence[PoolReport], *, disputed: bool) -> PoolReport:
    words = [report.status for report in reports]
    best = "UP" if "UP" in words else words[0]
    members = {
        id: min((report.members[id] for report in reports if id in report.members), key=_badness)
        for id in _ids(report.members for report in reports)
    }
    return PoolReport(DISPUTED if disputed and best == "UP" else best, members)


def _badness(word: str) -> int:
    for place, known in enumerate(_BEST_FIRST):
        if word.startswith(known):
            return place
    return len(_BEST_FIRST) + word.startswith("DOWN")
