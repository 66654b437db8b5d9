"""A program of a user, as far as type checkers see it: mypy reads this file with all others of this folder."""

from __future__ import annotations

from octavia_core import NewHealthMonitor, NewL7Policy, NewL7Rule, NewListener, NewLoadBalancer, NewMember, NewPool

__all__ = ["wish"]


def wish() -> NewLoadBalancer:
    """Words as text, lists as lists."""
    rule = NewL7Rule(type="PATH", compare_type="STARTS_WITH", value="/admin")
    pool = NewPool(
        protocol="HTTP",
        lb_algorithm="LEAST_CONNECTIONS",
        members=[NewMember("127.0.0.1", 8001)],
        health_monitor=NewHealthMonitor(type="HTTP", delay=2, timeout=1),
    )
    listener = NewListener(
        protocol="HTTP",
        protocol_port=80,
        client_authentication="NONE",
        default_pool=pool,
        l7policies=[NewL7Policy(action="REJECT", rules=[rule])],
    )
    return NewLoadBalancer(name="web", topology="SINGLE", listeners=[listener])
