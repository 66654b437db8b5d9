"""A load balancer in outline: what a heartbeat is held against, and nothing more.

A health manager that begins holds a hundred thousand of them against what it hears, so these are tuples: making one takes a
tenth of what a value of `domain.tree` takes. Attributes are called alike, so whoever reads only these reads both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from octavia_core.domain.vocabulary import Kind, ListenerProtocol, Operating, Provisioning, Topology

__all__ = ["ListenerOutline", "MemberOutline", "Outline", "PoolOutline"]


class MemberOutline(NamedTuple):
    """A server behind a pool."""

    id: str
    name: str | None
    enabled: bool
    operating_status: Operating


class PoolOutline(NamedTuple):
    """A pool and its members."""

    id: str
    name: str | None
    operating_status: Operating
    members: tuple[MemberOutline, ...]


class ListenerOutline(NamedTuple):
    """A port of the VIP."""

    id: str
    name: str | None
    enabled: bool
    protocol: ListenerProtocol
    default_pool_id: str | None
    provisioning_status: Provisioning
    operating_status: Operating


class Outline(NamedTuple):
    """The load balancer."""

    id: str
    name: str | None
    enabled: bool
    topology: Topology
    provisioning_status: Provisioning
    operating_status: Operating
    listeners: tuple[ListenerOutline, ...]
    pools: tuple[PoolOutline, ...]

    def pool(self, pool_id: str | None) -> PoolOutline | None:
        """The pool of that id, or None."""
        return next((pool for pool in self.pools if pool.id == pool_id), None)

    def nodes(self) -> Iterator[tuple[Kind, ListenerOutline | PoolOutline | MemberOutline]]:
        """Everything below the load balancer, children before their parents."""
        for pool in self.pools:
            yield from ((Kind.MEMBER, member) for member in pool.members)
        yield from ((Kind.LISTENER, listener) for listener in self.listeners)
        yield from ((Kind.POOL, pool) for pool in self.pools)
