"""Which tree is rendered: the rows, without what is leaving, and with what is broken replaced by its last good form.

Pure. A failed wish leaves its object in ERROR with the values that the user asked for; the amphorae go on serving the
object as it last worked. Every later operation, failover and repair renders by this one rule, so a bad object spoils
nothing else. When a wish is about the bad object again (mended or deleted), its row counts again.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, TypeVar

import attrs

from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Listener, LoadBalancer, Member, Node, Pool
from octavia_core.domain.vocabulary import Kind, Operating, Provisioning

__all__ = ["resolve"]

N = TypeVar("N", Listener, Pool, Member, HealthMonitor, L7Policy, L7Rule)

_KINDS: dict[type[Node], Kind] = {
    Listener: Kind.LISTENER,
    Pool: Kind.POOL,
    Member: Kind.MEMBER,
    HealthMonitor: Kind.HEALTH_MONITOR,
    L7Policy: Kind.L7POLICY,
    L7Rule: Kind.L7RULE,
}

_BELOW: dict[type[Node], tuple[str, ...]] = {
    Pool: ("members", "health_monitor"),
    Listener: ("l7policies",),
    L7Policy: ("rules",),
}


def resolve(tree: LoadBalancer, good: LoadBalancer | None, subjects: Collection[Subject] = ()) -> LoadBalancer:
    """The tree to render.

    Args:
        tree: what the rows say now.
        good: the last tree that every amphora accepted, or None.
        subjects: what the present wish is about: these count as the rows have them, even in ERROR.

    Returns:
        A tree without statuses of its own (all ACTIVE and OFFLINE), so that equal content is equal. References to
        objects that are left out are removed: a listener's default pool, a policy with its redirect pool.
    """
    return _Resolver(good, frozenset(subjects)).load_balancer(tree)


def _settled(node: Any) -> Any:
    if isinstance(node, Member):
        return _settled_member(node)
    return attrs.evolve(node, provisioning_status=Provisioning.ACTIVE, operating_status=Operating.OFFLINE)


@functools.lru_cache(maxsize=8192)
def _settled_member(member: Member) -> Member:
    """Of thousands, one has changed since the last time."""
    return attrs.evolve(member, provisioning_status=Provisioning.ACTIVE, operating_status=Operating.OFFLINE)


class _Resolver:
    def __init__(self, good: LoadBalancer | None, subjects: frozenset[Subject]) -> None:
        self._subjects = subjects
        self._good: dict[str, Node] = {node.id: node for _, node in good.nodes()} if good else {}

    def load_balancer(self, tree: LoadBalancer) -> LoadBalancer:
        pools = tuple(self._pool(p) for p in self._pick(tree.pools))
        known = {pool.id for pool in pools}
        listeners = tuple(self._listener(listener, known) for listener in self._pick(tree.listeners))
        return attrs.evolve(
            tree,
            pools=pools,
            listeners=listeners,
            provisioning_status=Provisioning.ACTIVE,
            operating_status=Operating.OFFLINE,
        )

    def _pick(self, nodes: tuple[N, ...]) -> list[N]:
        picked: list[N] = []
        for node in nodes:
            if node.provisioning_status is Provisioning.PENDING_DELETE:
                continue
            chosen: N | None = node
            if node.provisioning_status is Provisioning.ERROR and not self._asked(node):
                chosen = self._last_good(node)
            if chosen is not None:
                picked.append(_settled(chosen))
        return picked

    def _asked(self, node: Node) -> bool:
        return Subject(_KINDS[type(node)], node.id) in self._subjects

    def _last_good(self, node: N) -> N | None:
        """The last good form of the object itself, with the children that its row has now."""
        good = self._good.get(node.id)
        if not isinstance(good, type(node)):
            return None
        below: dict[str, Any] = {name: getattr(node, name) for name in _BELOW.get(type(node), ())}
        return attrs.evolve(good, **below)

    def _pool(self, pool: Pool) -> Pool:
        monitors = self._pick((pool.health_monitor,) if pool.health_monitor else ())
        return attrs.evolve(
            pool, members=tuple(self._pick(pool.members)), health_monitor=monitors[0] if monitors else None
        )

    def _listener(self, listener: Listener, pools: set[str]) -> Listener:
        policies = []
        for policy in self._pick(listener.l7policies):
            if policy.redirect_pool_id is not None and policy.redirect_pool_id not in pools:
                continue
            policies.append(attrs.evolve(policy, rules=tuple(self._pick(policy.rules))))
        default = listener.default_pool_id if listener.default_pool_id in pools else None
        return attrs.evolve(listener, l7policies=tuple(policies), default_pool_id=default)
