"""VRRP among simulated amphorae: who holds a VIP, and whether ever two did.

Two that share a VIP and list each other elect one holder. When one that runs does not list another one that runs, neither
hears the other, both take the VIP, and clients reach now this one, now that one: a split brain, which is written down for
good, since a pair that comes to its senses a moment later had it all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from octavia_core.ports.amphora import VrrpDelivery
from octavia_core.testing.outside import Things

__all__ = ["holder", "judge", "share_of"]

Runs = Callable[[Mapping[str, Any]], bool]


def share_of(delivery: VrrpDelivery) -> dict[str, Any]:
    """What an agent remembers of a delivery. Of the secret only that it is there."""
    amphora = delivery.amphora
    vips = [delivery.load_balancer.vip.ip_address, *(vip.ip_address for vip in delivery.load_balancer.additional_vips)]
    return {
        "load_balancer_id": delivery.load_balancer.id,
        "vips": vips,
        "own": amphora.vrrp_ip,
        "peers": sorted(str(peer.vrrp_ip) for peer in delivery.peers),
        "priority": amphora.vrrp_priority,
        "interface": amphora.vrrp_interface,
        "group": delivery.group.name,
        "subnet": delivery.subnet.subnet_cidr,
        "secret": bool(delivery.group.auth_pass),
    }


def holder(things: Things, address: str, runs: Runs) -> str | None:
    """The amphora that holds a VIP: who held it, as long as it shares it; else the one of the highest priority."""
    sharing = {id: share for id, share in _sharing(things, runs) if address in share["vips"]}
    if not sharing:
        return None
    held = (things.get("vip-holder", address) or {}).get("amphora_id")
    if held in sharing:
        return str(held)
    return max(sharing, key=lambda one: (sharing[one]["priority"] or 0, one))


def judge(things: Things, load_balancer_id: str, runs: Runs) -> None:
    """Look at the amphorae of a load balancer after one was started: remember the holder, and a split brain."""
    mine = {id: share for id, share in _sharing(things, runs) if share["load_balancer_id"] == load_balancer_id}
    for share in mine.values():
        for vip in filter(None, share["vips"]):
            things.put("vip-holder", vip, {"amphora_id": holder(things, vip, runs)})
        deaf = [other for other in mine.values() if other is not share and other["own"] not in share["peers"]]
        if deaf:
            things.put("split-brain", load_balancer_id, {"own": share["own"], "deaf": [other["own"] for other in deaf]})


def _sharing(things: Things, runs: Runs) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, server in things.every("server"):
        share = server.get("agent", {}).get("vrrp")
        if share and runs(server):
            yield str(server["amphora_id"]), share
