"""Edits of a load balancer's tree, and what a tree is after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Listener, LoadBalancer, Member, Node, Pool
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.policy.validity.words import KIND_OF

__all__ = ["Change", "Delete", "Edit", "Insert", "Plan", "applied"]

N = TypeVar("N", Listener, Pool, Member, L7Policy, L7Rule)


@attrs.frozen
class Insert:
    """Store a new object with everything below it. It carries its id and the id of its parent.

    An L7 policy comes last on its listener; those that belong behind it are moved by changes that follow.
    """

    node: LoadBalancer | Node

    @property
    def kind(self) -> Kind:
        """What it is."""
        return KIND_OF[type(self.node)]

    @property
    def id(self) -> str:
        """Its id."""
        return self.node.id


@attrs.frozen
class Change:
    """Set attributes. `position` of an L7 policy moves it there, and its siblings make room.

    Without values: the object is in ERROR though it is as wanted, so it is only to be tried again.
    """

    kind: Kind
    id: str
    values: Mapping[str, Any]


@attrs.frozen
class Delete:
    """Remove an object with everything below it."""

    kind: Kind
    id: str


Edit = Insert | Change | Delete


@attrs.frozen
class Plan:
    """Edits in an order that foreign keys allow; each object is named by one edit at most."""

    edits: tuple[Edit, ...] = ()

    @property
    def empty(self) -> bool:
        """True when there is nothing to do."""
        return not self.edits


def applied(tree: LoadBalancer | None, plan: Plan) -> LoadBalancer:
    """The tree after the edits, as storage and a successful operation leave it: what was edited is ACTIVE.

    Raises:
        ValueError: there is no tree, and the plan does not begin by making one.
    """
    for edit in plan.edits:
        if isinstance(edit, Insert) and isinstance(edit.node, LoadBalancer):
            tree = edit.node
        elif tree is None:
            raise ValueError("there is no load balancer to edit")
        else:
            tree = _edited(tree, edit)
    if tree is None:
        raise ValueError("there is no load balancer to edit")
    return tree


def _edited(tree: LoadBalancer, edit: Edit) -> LoadBalancer:
    if isinstance(edit, Insert):
        return _with(tree, edit.node)
    if edit.kind is Kind.LOAD_BALANCER:
        return attrs.evolve(tree, **edit.values) if isinstance(edit, Change) else tree
    pools, listeners = _all(tree.pools, edit), _all(tree.listeners, edit)
    pools = tuple(
        attrs.evolve(pool, members=_all(pool.members, edit), health_monitor=_monitor(pool.health_monitor, edit))
        for pool in pools
    )
    listeners = tuple(attrs.evolve(one, l7policies=_policies(one.l7policies, edit)) for one in listeners)
    if isinstance(edit, Delete) and edit.kind is Kind.POOL:
        listeners = tuple(_released(one, edit.id) for one in listeners)
    return attrs.evolve(tree, pools=pools, listeners=listeners)


def _with(tree: LoadBalancer, node: object) -> LoadBalancer:
    match node:
        case Pool():
            return attrs.evolve(tree, pools=(*tree.pools, node))
        case Listener():
            return attrs.evolve(tree, listeners=(*tree.listeners, node))
        case Member():
            return _on_pool(tree, node.pool_id, lambda pool: attrs.evolve(pool, members=(*pool.members, node)))
        case HealthMonitor():
            return _on_pool(tree, node.pool_id, lambda pool: attrs.evolve(pool, health_monitor=node))
        case L7Policy():
            listeners = tuple(
                attrs.evolve(one, l7policies=(*one.l7policies, node)) if one.id == node.listener_id else one
                for one in tree.listeners
            )
            return attrs.evolve(tree, listeners=listeners)
        case L7Rule():
            listeners = tuple(
                attrs.evolve(one, l7policies=tuple(_ruled(policy, node) for policy in one.l7policies))
                for one in tree.listeners
            )
            return attrs.evolve(tree, listeners=listeners)
    return tree


def _on_pool(tree: LoadBalancer, pool_id: str, edit: Any) -> LoadBalancer:
    return attrs.evolve(tree, pools=tuple(edit(pool) if pool.id == pool_id else pool for pool in tree.pools))


def _ruled(policy: L7Policy, rule: L7Rule) -> L7Policy:
    return attrs.evolve(policy, rules=(*policy.rules, rule)) if policy.id == rule.l7policy_id else policy


def _all(nodes: tuple[N, ...], edit: Change | Delete) -> tuple[N, ...]:
    kept = []
    for node in nodes:
        if node.id != edit.id:
            kept.append(node)
        elif isinstance(edit, Change):
            values = {name: value for name, value in edit.values.items() if name != "position"}
            kept.append(attrs.evolve(node, provisioning_status=Provisioning.ACTIVE, **values))
    return tuple(kept)


def _monitor(monitor: HealthMonitor | None, edit: Change | Delete) -> HealthMonitor | None:
    if monitor is None or monitor.id != edit.id:
        return monitor
    if isinstance(edit, Delete):
        return None
    return attrs.evolve(monitor, provisioning_status=Provisioning.ACTIVE, **edit.values)


def _policies(policies: tuple[L7Policy, ...], edit: Change | Delete) -> tuple[L7Policy, ...]:
    kept = list(_all(policies, edit))
    if isinstance(edit, Change) and "position" in edit.values:
        moved = next((policy for policy in kept if policy.id == edit.id), None)
        if moved is not None:
            kept.remove(moved)
            kept.insert(edit.values["position"] - 1, moved)
    kept = [attrs.evolve(policy, rules=_all(policy.rules, edit)) for policy in kept]
    return tuple(attrs.evolve(policy, position=place) for place, policy in enumerate(kept, start=1))


def _released(listener: Listener, pool_id: str) -> Listener:
    """References to a pool that goes become NULL."""
    policies = tuple(
        attrs.evolve(policy, redirect_pool_id=None) if policy.redirect_pool_id == pool_id else policy
        for policy in listener.l7policies
    )
    default = None if listener.default_pool_id == pool_id else listener.default_pool_id
    return attrs.evolve(listener, default_pool_id=default, l7policies=policies)
