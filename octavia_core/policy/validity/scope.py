"""What a check is about, and how its objects hang together."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator

from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import L7Policy, Listener, LoadBalancer, Node, Pool
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.policy.validity.words import KIND_OF, label

__all__ = ["Scope"]


class Scope:
    """The tree, and which of its objects are concerned."""

    def __init__(
        self, tree: LoadBalancer, subjects: Collection[Subject] | None, before: LoadBalancer | None = None
    ) -> None:
        self.tree = tree
        self._subjects = None if subjects is None else frozenset(subjects)
        self._pools = {pool.id: pool for pool in tree.pools}
        self._before: dict[str, Node] = {} if before is None else {node.id: node for node in _ignoring(before)}

    def root(self) -> bool:
        """Is the load balancer itself concerned?"""
        return (
            self._subjects is None
            or self.tree.provisioning_status == Provisioning.PENDING_CREATE
            or Subject(Kind.LOAD_BALANCER, self.tree.id) in self._subjects
        )

    def concerned(self, node: Node) -> bool:
        """Is this object concerned?"""
        if self._subjects is None:
            return True
        created = node.provisioning_status == Provisioning.PENDING_CREATE
        return created or Subject(KIND_OF[type(node)], node.id) in self._subjects

    def new(self, node: Node) -> bool:
        """Is it made by the wish, so that nobody has seen its id?"""
        return node.provisioning_status is Provisioning.PENDING_CREATE

    def sets(self, node: Node, field: str) -> bool:
        """Is the value of this field the wish's own, and not one that stood there before?"""
        if not self.concerned(node):
            return False
        old = self._before.get(node.id)
        return type(old) is not type(node) or getattr(old, field) != getattr(node, field)

    def pool(self, id: object) -> Pool | None:
        """The pool of that id, or None."""
        return self._pools.get(id) if isinstance(id, str) else None

    def called(self, pool: Pool) -> str:
        """As `label`; one that is new and has no name by what is to use it, too."""
        words = label(pool)
        if pool.name or not self.new(pool):
            return words
        listener, policy = self._users.get(pool.id, (None, None))
        if listener is None:
            return words
        return f"{words} of {label(listener) if policy is None else f'{label(policy)} of {label(listener)}'}"

    @functools.cached_property
    def _users(self) -> dict[str, tuple[Listener, L7Policy | None]]:
        users: dict[str, tuple[Listener, L7Policy | None]] = {}
        for listener, pool, policy in self.uses():
            users.setdefault(pool.id, (listener, policy))
        return users

    def uses(self) -> Iterator[tuple[Listener, Pool, L7Policy | None]]:
        """Every use of a pool: as the default of a listener (no policy), or as the target of a policy of it."""
        for listener in self.tree.listeners:
            default = self.pool(listener.default_pool_id)
            if default is not None:
                yield listener, default, None
            for policy in listener.l7policies:
                target = self.pool(policy.redirect_pool_id)
                if target is not None:
                    yield listener, target, policy


def _ignoring(tree: LoadBalancer) -> Iterator[Node]:
    """Everything in which values may stand that are ignored."""
    yield from tree.listeners
    for pool in tree.pools:
        yield pool
        yield from pool.members
