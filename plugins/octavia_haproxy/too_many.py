"""Load balancers with more members than an agent of upstream's can report: such an amphora would be taken for dead.

Refused is only what makes a load balancer too large. One that is too large already, and moves or shrinks, goes on.
"""

from __future__ import annotations

import re

from octavia_core.domain.reportable import excess_of
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Provisioning

__all__ = ["refusal"]

_SERVER = re.compile(r"^\s+server ", re.MULTILINE)


def refusal(load_balancer: LoadBalancer, stored: str | None) -> str | None:
    """Why it is not sent to an agent that reports everything in one datagram; None when it may be.

    Args:
        load_balancer: what is to be served.
        stored: the configuration that the amphora has; None when it has none.
    """
    found = excess_of(load_balancer)
    if found is None:
        return None
    before = len(_SERVER.findall(stored)) if stored else 0
    if before > found.limit or (stored is None and not _grows(load_balancer)):
        return None
    return (
        f"load balancer {load_balancer.id}: {found}; the amphora would be taken for dead, so it goes on with what it has: "
        "remove members, or spread them over several load balancers"
    )


def _grows(load_balancer: LoadBalancer) -> bool:
    """Whether anything of it is new; where nothing is, an amphora is being replaced."""
    members = [member for pool in load_balancer.pools for member in pool.members]
    nodes: list[LoadBalancer | Listener | Pool | Member] = [
        load_balancer,
        *load_balancer.listeners,
        *load_balancer.pools,
        *members,
    ]
    return Provisioning.PENDING_CREATE in {node.provisioning_status for node in nodes}
