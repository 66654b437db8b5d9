"""Where a load balancer goes: on an existing amphora, a spare, or a new one. Facts in, decisions out.

Rule 1: the amphorae of one load balancer are different ones. Rule 2: load balancers that share an apolocation group
never share an amphora. Rule 3: flavor, zone and image are exactly those asked for. Rule 4: an amphora takes no more
load balancers than its capacity. Rule 5: with anti-affinity the amphorae of one load balancer stand on different
failure domains: only amphorae on known, different domains are taken, and when that does not give all of them, all are
new ones, which the cloud keeps apart by their server group. Rule 6: what is there comes first: an existing amphora that already carries the colocation group, then the one
with the fewest load balancers, then a spare, then a new one. Colocation is a preference: it never leaves a load
balancer without a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import attrs

from octavia_core.domain.vocabulary import Topology

__all__ = ["Candidate", "Decision", "Demand", "Source", "place"]


@attrs.frozen(kw_only=True)
class Demand:
    """What a load balancer asks for.

    Attributes:
        flavor, zone, image: of the amphora, None for the default; a None fits only None.
        apolocation: groups whose load balancers must not share an amphora with it.
        colocation: groups whose load balancers should share one with it.
        capacity: load balancers that one amphora may carry; with 1 only spares and new ones are left.
        anti_affinity: its amphorae stand on different failure domains.
    """

    topology: Topology = Topology.SINGLE
    flavor: str | None = None
    zone: str | None = None
    image: str | None = None
    apolocation: frozenset[str] = frozenset()
    colocation: frozenset[str] = frozenset()
    capacity: int = 1
    anti_affinity: bool = False


@attrs.frozen(kw_only=True)
class Candidate:
    """An amphora that is there.

    Attributes:
        load_balancers: how many it carries; 0 for a spare.
        groups: apolocation and colocation groups of those.
        domain: failure domain it stands on (hypervisor, rack), None when not known.
    """

    amphora_id: str
    load_balancers: int = 0
    flavor: str | None = None
    zone: str | None = None
    image: str | None = None
    groups: frozenset[str] = frozenset()
    domain: str | None = None


class Source(StrEnum):
    """Where an amphora comes from."""

    EXISTING = "existing"
    SPARE = "spare"
    NEW = "new"


@attrs.frozen
class Decision:
    """One amphora: which, None for a new one, and one sentence that says why."""

    source: Source
    amphora_id: str | None
    reason: str


def place(
    demand: Demand, existing: Sequence[Candidate], spares: Sequence[Candidate], *, beside: Sequence[Candidate] = ()
) -> tuple[Decision, ...]:
    """Choose the amphorae that a load balancer still lacks.

    Args:
        demand: what it asks for; its topology says how many amphorae it has in all.
        existing: amphorae that serve and may serve more.
        spares: ready ones, the preferred first. The caller takes the chosen one by compare-and-set and asks again
            when somebody else was quicker.
        beside: amphorae it keeps, as when one half of a pair is replaced.

    Returns:
        A decision for each missing amphora; empty when `beside` is complete.
    """
    wanted = 2 if demand.topology is Topology.ACTIVE_STANDBY else 1
    taken: list[Candidate | None] = list(beside)
    decisions: list[Decision] = []
    while len(taken) < wanted:
        decision, chosen = _one(demand, existing, spares, taken)
        decisions.append(decision)
        taken.append(chosen)
    if demand.anti_affinity and not beside and any(decision.source is Source.NEW for decision in decisions):
        reason = "what is there does not give a pair on different failure domains"
        return tuple(Decision(Source.NEW, None, reason) for _ in decisions)
    return tuple(decisions)


def _one(
    demand: Demand, existing: Sequence[Candidate], spares: Sequence[Candidate], taken: Sequence[Candidate | None]
) -> tuple[Decision, Candidate | None]:
    def rank(host: Candidate) -> tuple[bool, int, str]:
        return not demand.colocation & host.groups, host.load_balancers, host.amphora_id

    shared = [
        host
        for host in existing
        if host.load_balancers < demand.capacity
        and not demand.apolocation & host.groups
        and _fits(demand, host)
        and _apart(demand, host, taken)
    ]
    if shared:
        best = min(shared, key=rank)
        why = "carries its colocation group" if demand.colocation & best.groups else "has the fewest load balancers"
        reason = f"{why}, {best.load_balancers} of {demand.capacity}"
        return Decision(Source.EXISTING, best.amphora_id, reason), best
    for spare in spares:
        if _fits(demand, spare) and _apart(demand, spare, taken):
            return Decision(Source.SPARE, spare.amphora_id, "a ready spare of its flavor, zone and image"), spare
    reason = f"none of {len(existing)} existing amphorae has room for it, and none of {len(spares)} spares fits"
    return Decision(Source.NEW, None, reason), None


def _fits(demand: Demand, host: Candidate) -> bool:
    return (host.flavor, host.zone, host.image) == (demand.flavor, demand.zone, demand.image)


def _apart(demand: Demand, host: Candidate, taken: Sequence[Candidate | None]) -> bool:
    """Whether it may stand beside those; None among them is one that is still to be built."""
    if any(other and other.amphora_id == host.amphora_id for other in taken):
        return False
    if not demand.anti_affinity:
        return True
    domains = {other.domain if other else None for other in taken} | {host.domain}
    return None not in domains and len(domains) == len(taken) + 1
