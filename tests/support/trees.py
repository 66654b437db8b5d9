"""Small load balancers, written in one line each."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool, Vip
from octavia_core.domain.vocabulary import ListenerProtocol, PoolProtocol
from tests.support.running import Echo

__all__ = ["PORT", "behind", "listener", "load_balancer", "new_id", "pool"]

PORT = 8080


def new_id() -> str:
    """A random UUID, as ids are."""
    return str(uuid.uuid4())


def behind(*servers: Echo, **options: Any) -> tuple[Member, ...]:
    """Members for these servers, named like them."""
    return tuple(Member(id=s.name, address=s.address, protocol_port=s.port, **options) for s in servers)


def pool(members: Sequence[Member] = (), protocol: PoolProtocol = PoolProtocol.HTTP, **options: Any) -> Pool:
    """A pool."""
    return Pool(id=options.pop("id", None) or new_id(), protocol=protocol, members=tuple(members), **options)


def listener(
    default: Pool | None = None, protocol: ListenerProtocol = ListenerProtocol.HTTP, **options: Any
) -> Listener:
    """A listener on PORT."""
    options = {"id": new_id(), "protocol_port": PORT, **options}
    return Listener(protocol=protocol, default_pool_id=default.id if default else None, **options)


def load_balancer(listeners: Listener | Sequence[Listener], *pools: Pool, **options: Any) -> LoadBalancer:
    """A load balancer of these."""
    found = (listeners,) if isinstance(listeners, Listener) else tuple(listeners)
    options = {"id": new_id(), "project_id": "project", "vip": Vip(ip_address="127.0.0.1"), **options}
    return LoadBalancer(listeners=found, pools=pools, **options)
