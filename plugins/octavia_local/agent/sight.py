"""How heartbeats see what runs on this amphora: HAProxies and what serves datagrams."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from octavia_local.agent.balancer import Balancer, Observation
from octavia_local.agent.beats import Eyes, Ledger
from octavia_local.agent.udp import UdpCalls

__all__ = ["eyes"]


def eyes(
    balancers: Callable[[], Iterable[Balancer]], udp: Callable[[], UdpCalls], ledger: Ledger, also: Callable[[], None]
) -> Eyes:
    """The eyes of an agent.

    Args:
        balancers: all load balancers that there are now.
        udp: its other listeners.
        ledger: is told what they have counted; HAProxies tell it themselves.
        also: see `Eyes`.
    """

    def look(members: bool) -> list[Observation] | None:
        found: list[Observation] = []
        for balancer in [each for each in balancers() if each.running]:
            seen = balancer.observe(members=members)
            if seen is None:
                return None
            found.append(seen)
        others = udp().observe()
        for each in others:
            ledger.absorb(each)
        return [*found, *others]

    def known() -> list[Observation]:
        found = [balancer.known() for balancer in balancers()]
        return [*(each for each in found if each is not None), *udp().known()]

    return Eyes(look, known, also)
