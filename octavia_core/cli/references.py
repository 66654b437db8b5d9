"""How things are named on a command line: by id, by name, or by the place where they are.

A listener is also LOAD_BALANCER:PORT, a pool also the name of a load balancer that has only one, a member also
ADDRESS:PORT. What fits several things is refused with their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from octavia_core.controller.facade import Controller
    from octavia_core.domain.tree import LoadBalancer, Node

__all__ = ["locate", "node_of", "place"]

_LONGEST_PORT = 5
"""Digits of 65535: what is longer names no port, and Python refuses to read thousands of digits."""


def locate(controller: Controller, kind: Kind, text: str) -> str:
    """The id of the thing that `text` names.

    Raises:
        NotFound: there is none.
        BadRequest: there are several.
    """
    if kind is Kind.AMPHORA:
        return controller.amphora(text).id
    try:
        return controller.resolve(kind, text)
    except NotFound:
        found = _by_place(controller, kind, text)
    if not found:
        raise NotFound(kind.words, text)
    if len(found) > 1:
        raise BadRequest(f"{len(found)} {kind.words}s fit {text!r}; say which: {', '.join(found)}")
    return found[0]


def node_of(tree: LoadBalancer, kind: Kind, id: str) -> Node | None:
    """The object of that kind and id below a load balancer, or None."""
    return next((node for k, node in tree.nodes() if k is kind and node.id == id), None)


def place(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, an IPv6 address in brackets, or ("", 0) for what is no such thing."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > _LONGEST_PORT:
        return "", 0
    bracketed = host.startswith("[") and host.endswith("]")
    return host[1:-1] if bracketed else host, int(port)


def _by_place(controller: Controller, kind: Kind, text: str) -> Sequence[str]:
    if kind is Kind.MEMBER:
        wanted = place(text)
        if not wanted[0]:
            return ()
        every = (pool for tree in _trees(controller) for pool in tree.pools)
        return [m.id for pool in every for m in pool.members if (m.address, m.protocol_port) == wanted]
    if kind is Kind.LISTENER:
        owner, port = place(text)
        try:
            tree = controller.load_balancer(owner or text)
        except NotFound:
            return ()
        return [one.id for one in tree.listeners if not owner or one.protocol_port == port]
    if kind in (Kind.POOL, Kind.HEALTH_MONITOR):
        try:
            tree = controller.load_balancer(text)
        except NotFound:
            if kind is Kind.POOL:
                return ()
            try:
                pool = controller.resolve(Kind.POOL, text)
            except NotFound:  # then it is the monitor that there is none of
                return ()
            pools = [p for t in _trees(controller) for p in t.pools if p.id == pool]
        else:
            pools = list(tree.pools)
        if kind is Kind.POOL:
            return [pool.id for pool in pools]
        return [pool.health_monitor.id for pool in pools if pool.health_monitor]
    return ()


def _trees(controller: Controller) -> Iterable[LoadBalancer]:
    for summary in controller.load_balancers():
        tree = controller.storage.read(lambda tx, one=summary.id: tx.tree(one))  # type: ignore[misc]
        if tree is not None and tree.provisioning_status is not Provisioning.DELETED:
            yield tree
