"""Does a wish make sense? Pure: a tree in, nothing or one sentence out. No name is resolved, no store is asked.

What upstream's API refuses is refused here too, so that rows made through this library and rows made through that API
obey the same rules. Beyond that, what HAProxy or keepalived could only ignore (a TLS setting of a plain listener, a
cookie in a TCP pool) is refused rather than dropped in silence.
"""

from __future__ import annotations

from collections.abc import Collection

from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import LoadBalancer
from octavia_core.policy.validity import l7, listeners, load_balancers, pools
from octavia_core.policy.validity.scope import Scope
from octavia_core.policy.validity.shape import require_shape

__all__ = ["check"]


def check(
    tree: LoadBalancer, subjects: Collection[Subject] | None = None, *, before: LoadBalancer | None = None
) -> None:
    """Refuse what cannot be.

    Args:
        tree: the load balancer as it would be after the wish.
        subjects: what the wish is about. Only these are held against the rules, with everything that is
            PENDING_CREATE (made by the same wish): an object that is broken already refuses no other wish. A rule
            between two objects counts when either is concerned. None: everything.
        before: the load balancer as it is. What is only ignored where it stands (upstream's API accepts it, and writes
            its own defaults there) is refused of what the wish sets, not of rows that have it. None: there is nothing yet.

    Raises:
        BadRequest: one sentence that names the object, the field, its value and what is allowed. Any value of any
            attribute, of whatever Python type, ends in this or in acceptance.
    """
    require_shape(tree)
    scope = Scope(tree, subjects, before)
    load_balancers.check(scope)
    listeners.check(scope)
    pools.check(scope)
    l7.check(scope)
