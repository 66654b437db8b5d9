"""Whether a load balancer can be reported in one heartbeat, which has to fit into one UDP datagram.

Our own agents report what does not fit in turns (`heartbeat.PARTIAL`); an agent of upstream's sends nothing then, and would
be taken for dead. An id takes 16 bytes, however it is compressed, and a member about 22.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs

from octavia_core.domain.heartbeat import LARGEST_DATAGRAM, encode
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Provisioning

__all__ = ["SURE", "Excess", "excess", "excess_of"]

SURE = 1500
"""Members that fit whatever they say, so nothing is reckoned; a listener takes less than four of them, a pool's key two."""
_MARGIN = 0.98
"""Of the datagram: other releases of zlib compress a little less, and words like `UP 1/3` take more."""
_WORDS = ("UP", "DOWN")
_GONE = (Provisioning.PENDING_DELETE, Provisioning.DELETED)
_UNKNOWN = "00000000-0000-4000-8000-000000000000"


@attrs.frozen
class Excess:
    """A load balancer that does not fit.

    Attributes:
        members: how often members are reported: once for each listener that uses their pool.
        listeners: how many.
        limit: of so many members about as many would fit.
    """

    members: int
    listeners: int
    limit: int

    def __str__(self) -> str:
        under = (
            "1 listener"
            if self.listeners == 1
            else f"{self.listeners} listeners, counted for each that uses their pool,"
        )
        return (
            f"{self.members} members of {under} do not fit into the heartbeat of an agent that reports all of them in one "
            f"datagram of {LARGEST_DATAGRAM} bytes; about {self.limit} do"
        )


def excess(listeners: Collection[str], pools: Mapping[str, Sequence[str]]) -> Excess | None:
    """By how much it does not fit; None when it does.

    Args:
        listeners: ids.
        pools: ids of members by key of the pool in the heartbeat.
    """
    members = sum(map(len, pools.values()))
    if members + 4 * len(listeners) + 2 * len(pools) <= SURE:
        return None
    stats = [dict.fromkeys(("tx", "rx", "conns", "totconns", "ereq"), 10**9 + 7919 * n) for n in range(len(listeners))]
    document = {
        "id": _UNKNOWN,
        "seq": 10**6,
        "listeners": {id: {"status": "OPEN", "stats": each} for id, each in zip(listeners, stats, strict=True)},
        "pools": {
            key: {"status": "UP", "members": {id: _WORDS[_side(id)] for id in ids}} for key, ids in pools.items()
        },
        "ver": 3,
    }
    size, room = len(encode(document, b"k")), int(LARGEST_DATAGRAM * _MARGIN)
    return None if size <= room else Excess(members, len(listeners), members * room // size)


def excess_of(tree: LoadBalancer) -> Excess | None:
    """The same for a load balancer with all that is enabled in it; pools of policies count for each listener that may use them."""
    listeners = [each for each in tree.listeners if each.enabled and each.provisioning_status not in _GONE]
    members = {
        pool.id: [each.id for each in pool.members if each.provisioning_status not in _GONE]
        for pool in tree.pools
        if pool.enabled and pool.provisioning_status not in _GONE
    }
    used: dict[str, Sequence[str]] = {}
    for listener in listeners:
        named = [
            listener.default_pool_id,
            *(policy.redirect_pool_id for policy in listener.l7policies if policy.enabled),
        ]
        used |= {f"{id}:{listener.id}": members[id] for id in named if id in members}
    return excess([each.id for each in listeners], used) if tree.enabled else None


def _side(id: str) -> int:
    """0 or 1, always the same for an id: as if half of them said something else."""
    return id.encode()[-1] & 1
