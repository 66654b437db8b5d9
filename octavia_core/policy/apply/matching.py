"""Which wanted object is which existing one. The rules stand at the top of the package."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import L7Action
from octavia_core.errors import BadRequest
from octavia_core.policy.changes.names import CHANGEABLE
from octavia_core.policy.validity.words import KIND_OF

__all__ = ["Pairs", "listeners", "members", "place", "policies", "pools", "rules"]

T = TypeVar("T", Listener, Pool, Member, L7Policy, L7Rule)


class Pairs:
    """Existing ids by wanted ids; an existing object is taken once."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._taken: set[str] = set()

    def pair(self, wanted: str, existing: str) -> None:
        """These two are the same."""
        self._found[wanted] = existing
        self._taken.add(existing)

    def of(self, wanted: str) -> str | None:
        """The existing id, None for what is new."""
        return self._found.get(wanted)

    def taken(self, existing: str) -> bool:
        """Is it paired already?"""
        return existing in self._taken

    def in_order(self, wanted: Iterable[T], existing: Iterable[T], key: Callable[[T], Hashable]) -> None:
        """Pair what is left over and has the same key, the first with the first; a key of None pairs with nothing."""
        wanted = [one for one in wanted if self.of(one.id) is None]
        if not wanted:
            return
        free: dict[Hashable, list[str]] = {}
        for one in existing:
            if not self.taken(one.id):
                free.setdefault(key(one), []).append(one.id)
        for one in wanted:
            mine = key(one)
            candidates = free.get(mine) if mine is not None else None
            if candidates:
                self.pair(one.id, candidates.pop(0))


def place(member: Member) -> Hashable:
    """Address and port, the same for every spelling of an IPv6 address."""
    try:
        return ipaddress.ip_address(member.address), member.protocol_port
    except ValueError:
        return member.address, member.protocol_port


def members(wanted: Pool, existing: Pool, pairs: Pairs) -> None:
    """Pair members of two pools.

    Raises:
        BadRequest: one is wanted twice.
    """
    seen: set[Hashable] = set()
    for member in wanted.members:
        key = place(member)
        if key in seen:
            raise BadRequest(f"member {member.address}:{member.protocol_port} is wanted twice in one pool")
        seen.add(key)
    pairs.in_order(wanted.members, existing.members, place)


def listeners(wanted: LoadBalancer, existing: LoadBalancer, pairs: Pairs) -> None:
    """Pair listeners, then the policies of each pair.

    Raises:
        BadRequest: one is wanted twice.
    """
    seen = set()
    for listener in wanted.listeners:
        key = (listener.protocol, listener.protocol_port)
        if key in seen:
            raise BadRequest(f"a listener for {key[0]} on port {key[1]} is wanted twice")
        seen.add(key)
    pairs.in_order(wanted.listeners, existing.listeners, lambda one: (one.protocol, one.protocol_port))


def policies(wanted: Listener, existing: Listener, pairs: Pairs) -> None:
    """Pair the policies of two listeners."""
    pairs.in_order(wanted.l7policies, existing.l7policies, lambda one: one.name or None)
    nameless = [one for one in wanted.l7policies if not one.name]
    unnamed = [one for one in existing.l7policies if not one.name]
    pairs.in_order(nameless, unnamed, _deed)
    pairs.in_order(nameless, unnamed, lambda one: True)


def _deed(policy: L7Policy) -> Hashable:
    code = policy.redirect_http_code if policy.action in (L7Action.REDIRECT_TO_URL, L7Action.REDIRECT_PREFIX) else None
    target = (policy.action, policy.redirect_url, policy.redirect_prefix, code)
    return target, tuple(sorted(map(repr, map(_words, policy.rules))))


def _words(rule: L7Rule) -> Hashable:
    return str(rule.type), str(rule.compare_type), rule.value, rule.key, rule.invert, rule.enabled


def rules(wanted: L7Policy, existing: L7Policy, pairs: Pairs) -> None:
    """Pair the rules of two policies."""
    pairs.in_order(wanted.rules, existing.rules, _words)


def pools(wanted: LoadBalancer, existing: LoadBalancer, pairs: Pairs) -> None:
    """Pair pools; listeners and policies are paired already. Pools that are referred to by their own id are taken."""
    roles = _roles(wanted, existing, pairs)
    for pool in wanted.pools:  # the same name in the same place goes before the same name anywhere
        for old in roles.get(pool.id, ()):
            if pool.name and old.name == pool.name:
                _join(pool, old, pairs)
    # Pools have no order of their own among rows, so of several that may be meant, the one that says the same is.
    pairs.in_order(wanted.pools, existing.pools, lambda one: (one.name, _said(one)) if one.name else None)
    pairs.in_order(wanted.pools, existing.pools, lambda one: (one.name, one.protocol) if one.name else None)
    for pool in wanted.pools:
        for old in roles.get(pool.id, ()):
            _join(pool, old, pairs)
    nameless = [one for one in wanted.pools if not one.name]
    unnamed = [one for one in existing.pools if not one.name]
    pairs.in_order(nameless, unnamed, _said)
    pairs.in_order(nameless, unnamed, lambda one: one.protocol)


def _said(pool: Pool) -> Hashable:
    """Everything that a pool says but names, which a document may leave out."""
    members = sorted(repr((place(member), _values(member))) for member in pool.members)
    monitor = pool.health_monitor
    return pool.protocol, _values(pool), tuple(members), monitor and (monitor.type, _values(monitor))


def _values(node: Pool | Member | HealthMonitor) -> Hashable:
    values = ((name, getattr(node, name)) for name in CHANGEABLE[KIND_OF[type(node)]] if name != "name")
    return tuple((name, value or None if name == "description" else value) for name, value in values)


def _join(pool: Pool, old: Pool, pairs: Pairs) -> None:
    if pairs.of(pool.id) is None and not pairs.taken(old.id) and old.protocol == pool.protocol:
        pairs.pair(pool.id, old.id)


def _roles(wanted: LoadBalancer, existing: LoadBalancer, pairs: Pairs) -> dict[str, list[Pool]]:
    """For each wanted pool, the existing ones that are used where it is wanted. Default pools come first."""
    defaults: dict[str, list[Pool]] = {}
    targets: dict[str, list[Pool]] = {}
    by_policy = {policy.id: policy for listener in existing.listeners for policy in listener.l7policies}
    for listener in wanted.listeners:
        old = existing.listener(pairs.of(listener.id) or "")
        _note(defaults, listener.default_pool_id, existing.pool(old.default_pool_id) if old else None)
        for policy in listener.l7policies:
            before = by_policy.get(pairs.of(policy.id) or "")
            _note(targets, policy.redirect_pool_id, existing.pool(before.redirect_pool_id) if before else None)
    return {id: defaults.get(id, []) + targets.get(id, []) for id in {*defaults, *targets}}


def _note(roles: dict[str, list[Pool]], wanted: str | None, pool: Pool | None) -> None:
    if wanted is not None and pool is not None:
        roles.setdefault(wanted, []).append(pool)
