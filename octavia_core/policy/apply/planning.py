"""The plan: what to insert, change and delete, in order."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from octavia_core.domain.tree import (
    AdditionalVip,
    HealthMonitor,
    L7Policy,
    L7Rule,
    Listener,
    LoadBalancer,
    Member,
    Node,
    Pool,
)
from octavia_core.domain.vocabulary import Kind, Provisioning, Topology
from octavia_core.domain.wishes import FIRST_PEER_PORT, NewLoadBalancer
from octavia_core.errors import BadRequest
from octavia_core.policy.apply import matching
from octavia_core.policy.apply.edits import Change, Delete, Edit, Insert, Plan
from octavia_core.policy.changes.names import CHANGEABLE
from octavia_core.policy.validity.words import KIND_OF, label, show

__all__ = ["plan"]

N = TypeVar("N", Listener, Pool, Member, HealthMonitor, L7Policy, L7Rule)

_LEAVING = Provisioning.PENDING_DELETE
_TEXTS = ("name", "description")  # upstream's API stores the empty text where nothing was said
_SETS = ("allowed_cidrs",)  # their table keeps no order


def plan(tree: LoadBalancer | None, wanted: NewLoadBalancer, new_id: Callable[[], str]) -> Plan:
    """What turns `tree` into what is wanted.

    Args:
        tree: what exists, or None.
        wanted: the document. Pools may be referred to by name or id.
        new_id: makes the ids of what is new; it may be called more often than there are new objects.

    Returns:
        The edits. None for what is as wanted already; objects in ERROR are named by a change even then, so that
        applying the same document again tries them again.

    Raises:
        BadRequest: it cannot be had by edits: something fixed for the life of the load balancer differs, or a member's
            subnet or a monitor's type, whose successor would have to exist beside it.
    """
    if tree is None:
        return Plan((Insert(wanted.build(new_id, topology=wanted.topology or Topology.SINGLE)),))
    _same_load_balancer(tree, wanted)
    existing = _present(tree)
    built = attrs.evolve(wanted, project_id=tree.project_id).build(new_id, topology=tree.topology)
    return _Planner(tree, existing, attrs.evolve(built, id=tree.id)).plan()


def _same_load_balancer(tree: LoadBalancer, wanted: NewLoadBalancer) -> None:
    fixed: dict[str, tuple[object, object]] = {
        "project_id": (tree.project_id, wanted.project_id),
        "topology": (tree.topology, wanted.topology),
        "vip_address": (tree.vip.ip_address, wanted.vip_address),
        "vip_port_id": (tree.vip.port_id, wanted.vip_port_id),
        "vip_subnet_id": (tree.vip.subnet_id, wanted.vip_subnet_id),
        "vip_network_id": (tree.vip.network_id, wanted.vip_network_id),
        "vip_qos_policy_id": (tree.vip.qos_policy_id, wanted.vip_qos_policy_id),
        "flavor_id": (tree.flavor_id, wanted.flavor_id),
        "availability_zone": (tree.availability_zone, wanted.availability_zone),
    }
    for name, (found, wish) in fixed.items():
        if wish is not None and wish != found:
            _refuse(label(tree), name, found, wish, "make another load balancer for that, or leave it out")
    left = list(tree.additional_vips)
    for vip in sorted(
        wanted.additional_vips, key=_vagueness
    ):  # who leaves it open is content with what the others leave
        found = next((one for one in left if _is_that(one, vip)), None)
        if found is None:
            there = ", ".join(one.ip_address or "one without an address yet" for one in tree.additional_vips)
            asked = next((show(text) for text in (vip.ip_address, vip.subnet_id) if text is not None), "another one")
            raise BadRequest(
                f"{label(tree)}: additional_vips is {there or 'empty'}, and {asked} cannot be added; make another load "
                "balancer for that, or leave it out"
            )
        left.remove(found)


def _vagueness(vip: AdditionalVip) -> int:
    return (vip.ip_address is None) + (vip.subnet_id is None)


def _is_that(there: AdditionalVip, wanted: AdditionalVip) -> bool:
    """Whether a VIP that is there is what is wanted."""
    if wanted.subnet_id not in (None, there.subnet_id):
        return False
    return wanted.ip_address is None or _same_address(wanted.ip_address, there.ip_address)


def _same_address(wanted: str, there: str | None) -> bool:
    try:
        return there is not None and ipaddress.ip_address(wanted) == ipaddress.ip_address(there)
    except ValueError:
        return False


def _refuse(owner: str, name: str, found: object, wish: object, way: str) -> None:
    raise BadRequest(f"{owner}: {name} is {show(found)} and cannot become {show(wish)}; {way}")


def _present(tree: LoadBalancer) -> LoadBalancer:
    """Without what is leaving already."""
    listeners = tuple(
        attrs.evolve(one, l7policies=tuple(attrs.evolve(p, rules=_staying(p.rules)) for p in _staying(one.l7policies)))
        for one in _staying(tree.listeners)
    )
    pools = []
    for pool in _staying(tree.pools):
        monitor = pool.health_monitor
        if monitor is not None and monitor.provisioning_status is _LEAVING:
            monitor = None
        pools.append(attrs.evolve(pool, members=_staying(pool.members), health_monitor=monitor))
    return attrs.evolve(tree, listeners=listeners, pools=tuple(pools))


def _staying(nodes: tuple[N, ...]) -> tuple[N, ...]:
    return tuple(node for node in nodes if node.provisioning_status is not _LEAVING)


class _Planner:
    def __init__(self, tree: LoadBalancer, existing: LoadBalancer, wanted: LoadBalancer) -> None:
        self._tree, self._existing, self._wanted = tree, existing, wanted
        self._pairs = matching.Pairs()
        self._kept: set[str] = set()
        self._inserts: list[Edit] = []
        self._changes: list[Edit] = []
        self._moves: list[Edit] = []
        self._deletes: dict[Kind, list[Edit]] = {kind: [] for kind in Kind}

    def plan(self) -> Plan:
        self._match()
        self._load_balancer()
        for pool in self._wanted.pools:
            self._pool(pool)
        for listener in self._wanted.listeners:
            self._listener(listener)
        for pool in self._existing.pools:
            if not self._pairs.taken(pool.id) and pool.id not in self._kept:
                self._delete(pool)
        for listener in self._existing.listeners:
            if not self._pairs.taken(listener.id):
                self._delete(listener)
        children_first = (
            Kind.L7RULE,
            Kind.L7POLICY,
            Kind.MEMBER,
            Kind.HEALTH_MONITOR,
            Kind.LISTENER,
            Kind.POOL,
        )
        deletes = [edit for kind in children_first for edit in self._deletes[kind]]
        return Plan((*self._inserts, *self._changes, *self._moves, *deletes))

    def _match(self) -> None:
        pairs, old = self._pairs, {one.id: one for one in self._existing.listeners}
        matching.listeners(self._wanted, self._existing, pairs)
        for listener in self._wanted.listeners:
            before = old.get(pairs.of(listener.id) or "")
            if before is not None:
                matching.policies(listener, before, pairs)
        self._wanted = self._named(self._wanted)
        for id in self._referred():
            if self._existing.pool(id) is not None:
                self._kept.add(id)
                pairs.pair(id, id)
        matching.pools(self._wanted, self._existing, pairs)

    def _named(self, wanted: LoadBalancer) -> LoadBalancer:
        """References by the name of an existing pool that the document does not describe become its id."""
        known = {pool.id for pool in (*wanted.pools, *self._existing.pools)}
        names = {pool.name: pool.id for pool in reversed(self._existing.pools) if pool.name}

        def id_of(reference: str | None) -> str | None:
            return names.get(reference, reference) if reference is not None and reference not in known else reference

        listeners = tuple(
            attrs.evolve(
                one,
                default_pool_id=id_of(one.default_pool_id),
                l7policies=tuple(attrs.evolve(p, redirect_pool_id=id_of(p.redirect_pool_id)) for p in one.l7policies),
            )
            for one in wanted.listeners
        )
        return attrs.evolve(wanted, listeners=listeners)

    def _referred(self) -> set[str]:
        found: set[str | None] = set()
        for listener in self._wanted.listeners:
            found |= {listener.default_pool_id, *(policy.redirect_pool_id for policy in listener.l7policies)}
        return {id for id in found if id is not None}

    def _load_balancer(self) -> None:
        values = self._differences(self._tree, self._wanted)
        if values:
            self._changes.append(Change(Kind.LOAD_BALANCER, self._tree.id, values))

    def _pool(self, wanted: Pool) -> None:
        old = self._existing.pool(self._pairs.of(wanted.id))
        if old is None:
            self._inserts.append(Insert(attrs.evolve(wanted, load_balancer_id=self._tree.id)))
            return
        self._change(old, wanted)
        matching.members(wanted, old, self._pairs)
        before = {member.id: member for member in old.members}
        for member in wanted.members:
            found = before.get(self._pairs.of(member.id) or "")
            if found is None:
                self._inserts.append(Insert(attrs.evolve(member, pool_id=old.id)))
                continue
            if member.subnet_id is not None and member.subnet_id != found.subnet_id:
                way = "delete the member first, then apply again"
                _refuse(f"{label(found)} of {label(old)}", "subnet_id", found.subnet_id, member.subnet_id, way)
            self._change(found, member)
        for found in old.members:
            if not self._pairs.taken(found.id):
                self._delete(found)
        self._monitor(old, wanted.health_monitor)

    def _monitor(self, pool: Pool, wanted: HealthMonitor | None) -> None:
        old = pool.health_monitor
        if old is None:
            if wanted is not None:
                self._inserts.append(Insert(attrs.evolve(wanted, pool_id=pool.id)))
        elif wanted is None:
            self._delete(old)
        elif wanted.type != old.type:
            way = "delete the monitor first, then apply again"
            _refuse(f"{label(old)} of {label(pool)}", "type", old.type, wanted.type, way)
        else:
            self._change(old, wanted)

    def _listener(self, wanted: Listener) -> None:
        old = self._existing.listener(self._pairs.of(wanted.id) or "")
        policies = tuple(attrs.evolve(p, redirect_pool_id=self._id(p.redirect_pool_id)) for p in wanted.l7policies)
        wanted = attrs.evolve(wanted, default_pool_id=self._id(wanted.default_pool_id), l7policies=policies)
        if old is None:
            ports = [one.peer_port or 0 for one in self._tree.listeners]
            ports += [edit.node.peer_port or 0 for edit in self._new_listeners()]
            peer_port = max(ports, default=FIRST_PEER_PORT - 1) + 1
            self._inserts.append(Insert(attrs.evolve(wanted, load_balancer_id=self._tree.id, peer_port=peer_port)))
            return
        self._change(old, wanted)
        self._policies(old, wanted)

    def _new_listeners(self) -> list[Any]:
        return [edit for edit in self._inserts if isinstance(edit, Insert) and edit.kind is Kind.LISTENER]

    def _id(self, wanted: str | None) -> str | None:
        """The id that a wanted object's reference will have."""
        return None if wanted is None else self._pairs.of(wanted) or wanted

    def _policies(self, old: Listener, wanted: Listener) -> None:
        before = {policy.id: policy for policy in old.l7policies}
        order: list[str] = []
        new: list[L7Policy] = []
        for policy in wanted.l7policies:
            found = before.get(self._pairs.of(policy.id) or "")
            order.append(found.id if found else policy.id)
            if found is None:
                new.append(policy)
        stored = next(one for one in self._tree.listeners if one.id == old.id)
        rows = [policy.id for policy in sorted(stored.l7policies, key=lambda one: one.position)]
        for policy in new:
            rows.append(policy.id)
            self._inserts.append(Insert(attrs.evolve(policy, listener_id=old.id, position=len(rows))))
        moves = _moves(rows, order, {policy.id for policy in new})
        for policy in wanted.l7policies:
            found = before.get(self._pairs.of(policy.id) or "")
            if found is not None:
                self._policy(found, policy, moving=found.id in moves)
        for id, position in moves.items():
            values = self._differences(before[id], self._as_wanted(wanted, id))
            self._moves.append(Change(Kind.L7POLICY, id, {**values, "position": position}))
        for found in old.l7policies:
            if not self._pairs.taken(found.id):
                self._delete(found)

    def _as_wanted(self, listener: Listener, id: str) -> L7Policy:
        return next(policy for policy in listener.l7policies if self._pairs.of(policy.id) == id)

    def _policy(self, old: L7Policy, wanted: L7Policy, *, moving: bool) -> None:
        if not moving:
            self._change(old, wanted)
        matching.rules(wanted, old, self._pairs)
        before = {rule.id: rule for rule in old.rules}
        for rule in wanted.rules:
            found = before.get(self._pairs.of(rule.id) or "")
            if found is None:
                self._inserts.append(Insert(attrs.evolve(rule, l7policy_id=old.id)))
            else:
                self._change(found, rule)
        for found in old.rules:
            if not self._pairs.taken(found.id):
                self._delete(found)

    def _change(self, old: N, wanted: N) -> None:
        values = self._differences(old, wanted)
        if values or old.provisioning_status is Provisioning.ERROR:
            self._changes.append(Change(KIND_OF[type(old)], old.id, values))

    def _differences(self, old: Any, wanted: Any) -> dict[str, Any]:
        values = {}
        for name in CHANGEABLE[KIND_OF[type(old)]]:
            found, wish = getattr(old, name), getattr(wanted, name)
            if name == "position" or (name == "name" and not wish):
                continue
            if name in _TEXTS:
                found, wish = found or None, wish or None
            same = sorted(found) == sorted(wish) if name in _SETS else found == wish
            if not same:
                values[name] = wish
        return values

    def _delete(self, node: Node) -> None:
        kind = KIND_OF[type(node)]
        self._deletes[kind].append(Delete(kind, node.id))


def _moves(rows: list[str], order: list[str], new: set[str]) -> dict[str, int]:
    """Positions to give to existing policies, one after the other, so that all come into the wanted order.

    New policies stand behind all others and are never moved (they are being made); rows that are not wanted may stand
    anywhere, since they leave. From the last to the first, each stands before its successor and behind the new ones
    that belong before it.
    """
    rows, moves = list(rows), {}
    for index in reversed(range(len(order))):
        id = order[index]
        if id in new:
            continue
        here = rows.index(id)
        after = rows.index(order[index + 1]) if index + 1 < len(order) else len(rows)
        before = max((rows.index(one) for one in order[:index] if one in new), default=-1)
        if before < here < after:
            continue
        rows.remove(id)
        target = rows.index(order[index + 1]) if index + 1 < len(order) else len(rows)
        rows.insert(target, id)
        moves[id] = target + 1
    return moves
