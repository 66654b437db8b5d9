"""What wishes ask of a tree before its rows are touched: what would be, what is bad, what members change. Pure."""

from __future__ import annotations

import ipaddress
import secrets
import uuid
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs

from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import L7Policy, Listener, LoadBalancer, Node, Pool
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.domain.wishes import NewMember
from octavia_core.errors import BadRequest, NotFound
from octavia_core.policy import validity
from octavia_core.policy.apply import Change, Delete, Edit, Insert, Plan, applied

__all__ = [
    "ascending_ids",
    "check",
    "in_error",
    "in_error_with",
    "member_edits",
    "new_id",
    "pool_of",
    "subject_of",
    "without_leaving",
]


def new_id() -> str:
    """A random id, as rows have it."""
    return str(uuid.uuid4())


def ascending_ids() -> Callable[[], str]:
    """Makes random ids for what one wish asks for, each greater than the one before.

    Rows know the second in which they were made, and those of one second are read in the order of their ids.
    """
    return partial(next, _ascending())


_SPREAD = 64
"""The first ids lie this part of all ids apart, so that few begin with the same letters; later ones lie closer."""


def _ascending() -> Iterator[str]:
    most = 1 << 128
    last = secrets.randbelow(most - (most >> 4))
    count = 0
    while True:
        yield str(uuid.UUID(int=last, version=4))
        count += 1
        # more than the bits behind the first 48, among which the version is; a share of what is left never uses it up
        last += (1 << 80) + secrets.randbelow(2 * (most - last) // (_SPREAD + count))


def in_error(tree: LoadBalancer, among: Collection[str] | None = None) -> tuple[Subject, ...]:
    """What is in ERROR below a load balancer, or of that what is among these ids."""
    return tuple(
        Subject(kind, node.id)
        for kind, node in tree.nodes()
        if node.provisioning_status is Provisioning.ERROR and (among is None or node.id in among)
    )


def in_error_with(tree: LoadBalancer, id: str) -> tuple[Subject, ...]:
    """When that object is in ERROR: what it brought along and is in ERROR too, since it was wished for with it."""
    nodes = {node.id: node for _, node in tree.nodes()}
    found: set[str] = set()
    ahead = [id]
    while ahead:
        node = nodes.get(ahead.pop())
        if node is None or node.id in found or node.provisioning_status is not Provisioning.ERROR:
            continue
        found.add(node.id)
        match node:
            case Listener():
                ahead += [policy.id for policy in node.l7policies]
                ahead += [node.default_pool_id] if node.default_pool_id else []
            case L7Policy():
                ahead += [rule.id for rule in node.rules]
                ahead += [node.redirect_pool_id] if node.redirect_pool_id else []
            case Pool():
                ahead += [member.id for member in node.members]
                ahead += [node.health_monitor.id] if node.health_monitor else []
    return in_error(tree, found - {id})


def check(tree: LoadBalancer, subjects: Sequence[Subject], *edits: Edit) -> None:
    """Refuse what makes no sense before the rows are touched: the database's keys would say the same in fewer words."""
    validity.check(without_leaving(applied(tree, Plan(edits))), subjects, before=tree)


def without_leaving(tree: LoadBalancer) -> LoadBalancer:
    """The tree as it will be: what is PENDING_DELETE does not count against what is new."""
    stays = Provisioning.PENDING_DELETE
    pools = tuple(_pool_without(p) for p in tree.pools if p.provisioning_status is not stays)
    listeners = tuple(_listener_without(one, tree) for one in tree.listeners if one.provisioning_status is not stays)
    return attrs.evolve(tree, pools=pools, listeners=listeners)


def _pool_without(pool: Pool) -> Pool:
    leaving = Provisioning.PENDING_DELETE
    monitor = pool.health_monitor
    gone = monitor is not None and monitor.provisioning_status is leaving
    members = tuple(m for m in pool.members if m.provisioning_status is not leaving)
    return attrs.evolve(pool, members=members, health_monitor=None if gone else monitor)


def _listener_without(listener: Listener, tree: LoadBalancer) -> Listener:
    leaving = Provisioning.PENDING_DELETE
    policies = tuple(
        attrs.evolve(p, rules=tuple(r for r in p.rules if r.provisioning_status is not leaving))
        for p in listener.l7policies
        if p.provisioning_status is not leaving
    )
    pool = tree.pool(listener.default_pool_id)
    default = None if pool is not None and pool.provisioning_status is leaving else listener.default_pool_id
    return attrs.evolve(listener, l7policies=policies, default_pool_id=default)


def pool_of(tree: LoadBalancer, pool_id: str) -> Pool:
    """The pool of that id, or NotFound."""
    pool = tree.pool(pool_id)
    if pool is None:
        raise NotFound("pool", pool_id)
    return pool


_MEMBER_VALUES = ("name", "weight", "enabled", "backup", "monitor_address", "monitor_port")


def member_edits(
    pool: Pool, project_id: str | None, wishes: Sequence[NewMember], *, additive_only: bool
) -> tuple[list[Node], list[tuple[str, dict[str, Any]]], list[str]]:
    """New members, changed values of present ones, ids of those to go; matched by address and port."""
    present = {_place(m.address, m.protocol_port): m for m in pool.members}
    new: list[Node] = []
    changed: list[tuple[str, dict[str, Any]]] = []
    wanted: set[Hashable] = set()
    next_id = ascending_ids()
    for wish in wishes:
        place = _place(wish.address, wish.protocol_port)
        if place in wanted:
            raise BadRequest(f"member {wish.address}:{wish.protocol_port} is listed twice")
        wanted.add(place)
        member = present.get(place)
        if member is None:
            new.append(wish.build(next_id, pool.id, project_id, monitored=pool.health_monitor is not None))
            continue
        values = {n: getattr(wish, n) for n in _MEMBER_VALUES if getattr(wish, n) != getattr(member, n)}
        if wish.name is None:
            values.pop("name", None)  # a list of addresses does not take names away
        if values:
            changed.append((member.id, values))
    gone = [] if additive_only else [m.id for place, m in present.items() if place not in wanted]
    return new, changed, gone


def _place(address: str, port: int) -> Hashable:
    """Where a member is, the same for every spelling of an IPv6 address."""
    try:
        return ipaddress.ip_address(address), port
    except ValueError:
        return address, port  # validity will say what is wrong with it


def subject_of(edit: Insert | Change | Delete) -> Subject:
    """What an edit is about."""
    if isinstance(edit, Insert):
        return Subject(edit.kind, edit.node.id)
    return Subject(edit.kind, edit.id)
