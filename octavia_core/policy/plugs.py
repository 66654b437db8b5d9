"""What an amphora is plugged into, compared with what its load balancer needs: facts in, a decision out.

Rule 1: the VIP's port is made when the amphora is built and lost with it, so one that is missing is not mended here.
Rule 2: a subnet of members is there when a port of the amphora has an address on it. Rule 3: a port that no member needs
any more stays until the configuration that does without it serves. Rule 4: members without a subnet are reached through
the VIP's network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import PoolProtocol

__all__ = ["Plug", "Plugs", "compare", "keeping", "member_subnets", "not_plugged"]


@attrs.frozen(kw_only=True)
class Plug:
    """A port of an amphora's server: its addresses, and the subnets they are on."""

    port_id: str
    addresses: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Plugs:
    """How what is there differs from what is needed.

    Attributes:
        refusal: why nothing may be pushed, in one sentence; None when it may.
        missing: subnets of members that no port has an address on.
        surplus: subnets that a port is on and that no member needs.
        members: ids of the ports that members are reached through, the VIP's left out.
    """

    refusal: str | None = None
    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    members: tuple[str, ...] = ()


def member_subnets(tree: LoadBalancer) -> Mapping[str, str]:
    """Subnet id -> which member is on it (the first), for all subnets that are not the VIP's own."""
    own = {tree.vip.subnet_id, *(vip.subnet_id for vip in tree.additional_vips)}
    found: dict[str, str] = {}
    for pool in tree.pools:
        for member in pool.members:
            if member.subnet_id and member.subnet_id not in own:
                found.setdefault(member.subnet_id, f"{member.address} (member {member.id})")
    return found


def compare(tree: LoadBalancer, amphora: Amphora, plugged: Sequence[Plug]) -> Plugs:
    """Judge the plugs of an amphora.

    Args:
        tree: what it is to serve.
        amphora: with the port and address it was given for the VIP; where it has neither, they are not looked for.
        plugged: what the network says it has.
    """
    vip = next((plug for plug in plugged if _is_vip(plug, amphora)), None)
    known = bool(amphora.vrrp_port_id or amphora.vrrp_ip)
    if vip is None and known:
        port = f"port {amphora.vrrp_port_id}" if amphora.vrrp_port_id else f"a port with {amphora.vrrp_ip}"
        return Plugs(
            refusal=f"amphora {amphora.id} is not on the network of VIP {tree.vip.ip_address} any more: {port} is not "
            f"plugged into its server; replace it: octavia-admin amphora failover {amphora.id}"
        )
    needed = member_subnets(tree)
    there = {subnet: plug for plug in plugged for subnet in plug.subnets}
    ports = dict.fromkeys(there[subnet].port_id for subnet in needed if subnet in there)
    mine = set(vip.subnets) if vip is not None else set()
    return Plugs(
        missing=tuple(sorted(subnet for subnet in needed if subnet not in there)),
        surplus=tuple(sorted(subnet for subnet in there if subnet not in needed and subnet not in mine))
        if known
        else (),
        members=tuple(port for port in ports if vip is None or port != vip.port_id),
    )


def keeping(tree: LoadBalancer, subnets: Collection[str]) -> LoadBalancer:
    """The tree, with a member more on each of those subnets: for a network driver that is to leave them plugged."""
    if not subnets:
        return tree
    members = tuple(Member(id=f"kept-{s}", address="0.0.0.0", protocol_port=1, subnet_id=s) for s in sorted(subnets))  # noqa: S104 - nobody listens
    return attrs.evolve(tree, pools=(*tree.pools, Pool(id="kept", protocol=PoolProtocol.TCP, members=members)))


def not_plugged(tree: LoadBalancer, amphora: Amphora, missing: Collection[str]) -> str:
    """The sentence for subnets that the network was asked for and did not plug."""
    reached = member_subnets(tree)
    which = ", ".join(f"subnet {subnet} of {reached.get(subnet, 'a member')}" for subnet in sorted(missing))
    return (
        f"amphora {amphora.id} is not plugged into {which}, and the network did not plug it; check that the subnet "
        "exists, or leave the member's subnet out when it is reached through the VIP's network"
    )


def _is_vip(plug: Plug, amphora: Amphora) -> bool:
    if amphora.vrrp_port_id is not None:
        return plug.port_id == amphora.vrrp_port_id
    return any(_same(address, amphora.vrrp_ip) for address in plug.addresses)


def _same(one: str, other: str | None) -> bool:
    try:
        return other is not None and ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False
