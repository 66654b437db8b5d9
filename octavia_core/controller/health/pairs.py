"""The two amphorae of a pair: who else is fresh, here or on another host, and since when they differ about a member.

What this process has heard lies in memory. What another one has heard lies in a row, written with each report that said
something new; of the two, the newer counts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from octavia_core.controller.health.memory import Memory
from octavia_core.domain.heartbeat import DELTAS_SINCE, Heartbeat, ListenerReport, PoolReport
from octavia_core.domain.outline import Outline
from octavia_core.domain.vocabulary import Topology
from octavia_core.lifecycle.together import Difference, differences, together
from octavia_core.ports.hearts import LastReport

__all__ = ["Elsewhere", "Pairs", "Said", "from_words", "words"]


SWEEP = 600.0
"""Seconds between two looks for pairs that are gone."""


@attrs.frozen
class Said:
    """What the amphorae of a pair say together, and what is to be said of their differences now.

    Attributes:
        heartbeat: of all that are fresh.
        by: the amphorae that said it.
        news: differences that have lasted too long since the last time, with the event after which each of them began.
        begun: differences for which that event is yet to be told to `begin`.
    """

    heartbeat: Heartbeat
    by: tuple[str, ...]
    news: tuple[tuple[Difference, int], ...] = ()
    begun: tuple[Difference, ...] = ()


@attrs.frozen
class Elsewhere:
    """What the rows say of reports, whoever heard them.

    Attributes:
        reports: by load balancer.
        wall: the time that goes with `now`, microseconds.
    """

    reports: Mapping[str, Sequence[LastReport]] = attrs.field(factory=dict)
    wall: int = 0


class Pairs:
    """Used by the one thread that writes.

    Args:
        memory: what was heard.
        fresh: seconds for which a report counts beside a newer one of the other amphora.
        patience: seconds for which they may differ about a member.

    Attributes:
        fresh, patience: the same; they may be set anew.
    """

    def __init__(self, memory: Memory, *, fresh: float, patience: float) -> None:
        self._memory, self.fresh, self.patience = memory, fresh, patience
        self._amphorae: dict[str, set[str]] = {}
        self._owner: dict[str, str] = {}
        self._swept_at: float | None = None
        self._since: dict[str, dict[Difference, float]] = {}
        self._told: set[Difference] = set()
        self._after: dict[Difference, int] = {}

    def due(self, now: float) -> Collection[str]:
        """Amphorae of pairs that have differed for too long since they were looked at: their next report is to be."""
        self._sweep(now)
        late = [
            id
            for id, since in self._since.items()
            if any(now - at > self.patience and each not in self._told for each, at in since.items())
        ]
        return {amphora for id in late for amphora in self._amphorae.get(id, ())}

    def others(self, amphora_ids: Iterable[str]) -> set[str]:
        """Who else may belong to the pairs of these."""
        owners = {self._owner[id] for id in amphora_ids if id in self._owner}
        return {other for owner in owners for other in self._amphorae[owner]}

    def told(self, news: Iterable[Difference]) -> None:
        """It is written; it is not said again while it lasts."""
        self._told |= {each for each in news if any(each in since for since in self._since.values())}

    def begin(self, begun: Iterable[Difference], sequence: int) -> None:
        """These have begun after the event of that sequence: what another host says of them comes later."""
        for each in begun:
            self._after.setdefault(each, sequence)

    def said(
        self,
        tree: Outline,
        beat: Heartbeat,
        trees: Mapping[str, Outline | None],
        elsewhere: Elsewhere,
        now: float,
    ) -> Said:
        """What is to be judged: the heartbeat itself, or what it says together with the other one's.

        Args:
            tree: the load balancer of the heartbeat's amphora.
            beat: the newest of that amphora.
            trees: which load balancer the amphorae of `others` have, by the rows.
            elsewhere: what the rows have.
            now: monotonic.
        """
        if tree.topology is not Topology.ACTIVE_STANDBY:
            return Said(beat, (beat.amphora_id,))
        pair = self._amphorae.setdefault(tree.id, set())
        pair.add(beat.amphora_id)
        self._owner[beat.amphora_id] = tree.id
        found: dict[str, tuple[float, float, Heartbeat]] = {}  # age of what was said, of the last sign of life, what
        for other in sorted(pair - {beat.amphora_id}):
            known = self._memory.latest(other)
            its = trees.get(other, tree)  # not asked, when this one is heard for the first time
            if known is None or its is None or its.id != tree.id:
                pair.discard(other)
                self._owner.pop(other, None)
            else:
                found[other] = (now - known.heard_at, now - known.heard_at, known.heartbeat)
        for stored in elsewhere.reports.get(tree.id, ()):
            age = (elsewhere.wall - stored.at) / 1_000_000
            heard = (elsewhere.wall - max(stored.at, stored.last_heard or 0)) / 1_000_000
            mine = found.get(stored.amphora_id)
            if stored.amphora_id == beat.amphora_id or (mine is not None and mine[0] <= age):
                continue
            if (its_words := from_words(stored)) is not None:
                found[stored.amphora_id] = (age, heard, its_words)
        reports = [beat, *[report for _, (_, heard, report) in sorted(found.items()) if heard <= self.fresh]]
        since = self._differ(tree.id, differences(reports), now)
        late = {each for each, at in since.items() if now - at > self.patience}
        news = tuple((each, self._after.get(each, 0)) for each in sorted(late - self._told))
        begun = tuple(each for each in since if each not in self._after)
        settled = not tree.provisioning_status.pending
        whole = together(reports, disputed={each.pool_id for each in late}, settled=settled)
        return Said(whole, tuple(sorted(report.amphora_id for report in reports)), news, begun)

    def _differ(self, load_balancer_id: str, found: Collection[Difference], now: float) -> Mapping[Difference, float]:
        before = self._since.pop(load_balancer_id, {})
        self._forget(set(before) - set(found))
        since = {each: before.get(each, now) for each in found}
        if since:
            self._since[load_balancer_id] = since
        return since

    def _forget(self, over: Collection[Difference]) -> None:
        self._told.difference_update(over)
        for each in over:
            self._after.pop(each, None)

    def _sweep(self, now: float) -> None:
        """Now and then, forget the pairs that memory has forgotten."""
        if self._swept_at is not None and now - self._swept_at < SWEEP:
            return
        self._swept_at = now
        for owner, pair in list(self._amphorae.items()):
            for amphora in [each for each in pair if self._memory.latest(each) is None]:
                pair.discard(amphora)
                self._owner.pop(amphora, None)
            if not pair:
                del self._amphorae[owner]
                self._forget(self._since.pop(owner, {}))


def words(beat: Heartbeat) -> str:
    """What a report says, without its numbers: JSON for `keep_reports`."""
    return json.dumps(
        [
            {id: report.status for id, report in beat.listeners.items()},
            {id: [report.status, dict(report.members)] for id, report in beat.pools.items()},
            *([True] if beat.partial else ()),
        ],
        separators=(",", ":"),
    )


def from_words(stored: LastReport) -> Heartbeat | None:
    """What `words` said; None when a later release, or somebody by hand, wrote something else."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        listeners, pools, *partial = json.loads(stored.words)
        if partial not in ([], [True]):
            return None
        return Heartbeat(
            stored.amphora_id,
            None,
            DELTAS_SINCE,
            {id: ListenerReport(str(status)) for id, status in listeners.items()},
            {
                id: PoolReport(str(status), {each: str(word) for each, word in of.items()})
                for id, (status, of) in pools.items()
            },
            bool(partial),
        )
    return None
