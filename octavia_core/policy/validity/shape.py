"""The outline of a tree: collections are tuples of the right class, ids are ids, and there is not too much of anything.

Everything after this may walk the tree without looking at types; the bounds keep a check and a configuration file
within reason (a HAProxy configuration of a hundred thousand servers takes minutes to load).
"""

from __future__ import annotations

from typing import Any

from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Listener, LoadBalancer, Member, Pool
from octavia_core.policy.validity.values import identifier
from octavia_core.policy.validity.words import label, refusal

__all__ = ["require_shape"]

_MOST: dict[str, int] = {
    "listeners": 1000,
    "pools": 2000,
    "members": 10_000,
    "l7policies": 1000,
    "rules": 50,  # HAProxy's bound on the words of a line: all rules of a policy stand on one
}
_ALL_MEMBERS = 50_000
_ID = identifier(64)  # 36 in the tables; what may become a file name is a little wider


def require_shape(tree: LoadBalancer) -> None:
    """Refuse a tree that cannot be walked.

    Raises:
        BadRequest: a collection of the wrong type, too many objects, an id that is none, or one that is there twice.
    """
    seen: set[str] = set()
    _identify(tree, "load balancer", seen)
    owner = label(tree)
    _collection(owner, tree, "listeners", Listener, seen)
    _collection(owner, tree, "pools", Pool, seen)
    for listener in tree.listeners:
        _collection(label(listener), listener, "l7policies", L7Policy, seen)
        for policy in listener.l7policies:
            _collection(label(policy), policy, "rules", L7Rule, seen)
    members = 0
    for pool in tree.pools:
        _collection(label(pool), pool, "members", Member, seen)
        members += len(pool.members)
        if pool.health_monitor is not None:
            if not isinstance(pool.health_monitor, HealthMonitor):
                raise refusal(label(pool), "health_monitor", pool.health_monitor, "a health monitor or not set")
            _identify(pool.health_monitor, "health monitor", seen)
    if members > _ALL_MEMBERS:
        raise refusal(owner, "number of members", members, f"at most {_ALL_MEMBERS} in all its pools")


def _collection(owner: str, parent: Any, field: str, kind: type, seen: set[str]) -> None:
    found = getattr(parent, field)
    if not isinstance(found, tuple):
        raise refusal(owner, field, found, "a tuple")
    if len(found) > _MOST[field]:
        raise refusal(owner, f"number of {field}", len(found), f"at most {_MOST[field]}")
    for node in found:
        if not isinstance(node, kind):
            raise refusal(owner, field, node, f"a tuple of {kind.__name__}")
        _identify(node, kind.__name__, seen)


def _identify(node: Any, words: str, seen: set[str]) -> None:
    allowed = _ID(node.id)
    if allowed is not None:
        raise refusal(words, "id", node.id, allowed)
    if node.id in seen:
        raise refusal(words, "id", node.id, "an id that nothing else of this load balancer has")
    seen.add(node.id)
