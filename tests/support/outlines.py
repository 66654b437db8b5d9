"""Load balancers in outline, from trees."""

from __future__ import annotations

from octavia_core.domain.outline import ListenerOutline, MemberOutline, Outline, PoolOutline
from octavia_core.domain.tree import LoadBalancer

__all__ = ["outline"]


def outline(tree: LoadBalancer) -> Outline:
    """The same from a tree, children by their ids."""
    return Outline(
        tree.id,
        tree.name,
        tree.enabled,
        tree.topology,
        tree.provisioning_status,
        tree.operating_status,
        tuple(
            ListenerOutline(
                each.id,
                each.name,
                each.enabled,
                each.protocol,
                each.default_pool_id,
                each.provisioning_status,
                each.operating_status,
            )
            for each in sorted(tree.listeners, key=lambda one: one.id)
        ),
        tuple(
            PoolOutline(
                each.id,
                each.name,
                each.operating_status,
                tuple(
                    MemberOutline(one.id, one.name, one.enabled, one.operating_status)
                    for one in sorted(each.members, key=lambda one: one.id)
                ),
            )
            for each in sorted(tree.pools, key=lambda one: one.id)
        ),
    )
