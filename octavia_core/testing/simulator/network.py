"""Addresses and ports of the simulated cloud."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Vip
from octavia_core.domain.vocabulary import Topology
from octavia_core.errors import PermanentError
from octavia_core.ports.network import AddressPlan, PluggedNetwork, VipPlug, VipRequest
from octavia_core.testing.outside import SimulatedCloud, Things
from octavia_core.testing.simulator.places import FURTHER, NETWORK_ID, SUBNET_ID, VIPS, further_subnet

__all__ = ["SimulatedNetwork"]


class SimulatedNetwork:
    """NetworkPort. Names of ports are those that upstream gives in Neutron."""

    time_limit = 2.0
    plugs_members = True
    one_holder = False

    def __init__(self, cloud: SimulatedCloud) -> None:
        self._cloud = cloud

    def objection(self, topology: Topology) -> str | None:
        return None

    def reserve_vip(self, request: VipRequest) -> AddressPlan:
        name = f"octavia-lb-{request.load_balancer_id}"

        def do(things: Things) -> AddressPlan:
            # a port that exists, made by upstream's API or brought by the user, has its addresses from elsewhere
            made = request.port_id is not None and request.ip_address is not None
            known = things.get("vip", name)
            if known is None:
                address = str(request.ip_address) if made else self._address(things, request.ip_address)
                known = {"address": address, "port_id": request.port_id or str(uuid.uuid4())}
                things.put("vip", name, known, id=address)
            vip = Vip(
                ip_address=known["address"],
                port_id=known["port_id"],
                subnet_id=request.subnet_id or SUBNET_ID,
                network_id=request.network_id or NETWORK_ID,
                octavia_owned=request.port_id is None,
            )
            return AddressPlan(vip=vip, additional_vips=tuple(_additional(things, name, vip, request, made=made)))

        return self._cloud.call("network.reserve_vip", name, do)

    def release_vip(self, load_balancer_id: str, vip: Vip | None) -> None:
        name = f"octavia-lb-{load_balancer_id}"

        def do(things: Things) -> None:
            things.remove("vip", name)
            for further, _ in things.every(_FURTHER, f"{name}/"):
                things.remove(_FURTHER, further)
            for port, known in things.every("port"):
                if known["load_balancer_id"] == load_balancer_id:
                    things.remove("port", port)

        self._cloud.call("network.release_vip", name, do)

    def plug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> VipPlug:
        name = f"octavia-lb-vrrp-{amphora.id}"

        def do(things: Things) -> VipPlug:
            vip = things.get("vip", f"octavia-lb-{load_balancer.id}")
            if vip is None:
                raise PermanentError(f"load balancer {load_balancer.id} has no VIP to plug; reserve it first")
            known = things.get("port", name)
            if known is None:
                known = self._port(amphora, load_balancer.id, NETWORK_ID)
                things.put("port", name, known, id=known["port_id"])
            return VipPlug(
                port_id=known["port_id"],
                mac_address=known["mac"],
                vip=vip["address"],
                subnet_cidr=str(VIPS),
                gateway=str(VIPS[1]),
                vrrp_ip=known["address"],
                mtu=1450,
                additional_vips=tuple(_told(things, load_balancer)),
            )

        return self._cloud.call("network.plug_vip", name, do)

    def unplug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> None:
        name = f"octavia-lb-vrrp-{amphora.id}"
        self._cloud.call("network.unplug_vip", name, lambda things: things.remove("port", name))

    def plugged(self, amphora: Amphora) -> Sequence[PluggedNetwork]:
        def see(things: Things) -> list[PluggedNetwork]:
            vip = things.get("port", f"octavia-lb-vrrp-{amphora.id}")
            members = [known for _, known in things.every("port", f"octavia-lb-member-{amphora.id}-")]
            return [_network(known) for known in [vip, *members] if known is not None]

        return self._cloud.call("network.plugged", amphora.id, see)

    def plug_member_networks(self, load_balancer: LoadBalancer, amphora: Amphora) -> Sequence[PluggedNetwork]:
        prefix = f"octavia-lb-member-{amphora.id}-"
        wanted = {m.subnet_id for pool in load_balancer.pools for m in pool.members if m.subnet_id}
        wanted -= {SUBNET_ID, load_balancer.vip.subnet_id, *(vip.subnet_id for vip in load_balancer.additional_vips)}

        def do(things: Things) -> list[PluggedNetwork]:
            changed: list[PluggedNetwork] = []
            present = {name.removeprefix(prefix) for name, _ in things.every("port", prefix)}
            for subnet in sorted(present - wanted):
                things.remove("port", prefix + subnet)
            for subnet in sorted(wanted - present):
                known = self._port(amphora, load_balancer.id, subnet)
                things.put("port", prefix + subnet, known, id=known["port_id"])
                changed.append(_network(known))
            return changed

        return self._cloud.call("network.plug_member_networks", amphora.id, do)

    def lose(self, amphora: Amphora, subnet_id: str | None = None) -> None:
        """Take a plug away behind everybody's back: of that subnet of members, or (None) the VIP's."""
        name = f"octavia-lb-member-{amphora.id}-{subnet_id}" if subnet_id else f"octavia-lb-vrrp-{amphora.id}"
        self._cloud.look(lambda things: things.remove("port", name))

    def reachable_at(self, address: str, port: int) -> str:
        return f"{address}:{port}"

    def list(self) -> Sequence[tuple[str, str]]:
        def see(things: Things) -> list[tuple[str, str]]:
            return [(kind, name) for kind in ("port", "vip") for name, _ in things.every(kind)]

        return self._cloud.call("network.list", "", see)

    @staticmethod
    def _address(things: Things, wanted: str | None) -> str:
        if wanted is None:
            return _free(things, VIPS)
        _refuse(things, wanted)
        return wanted

    @staticmethod
    def _port(amphora: Amphora, load_balancer_id: str, network: str) -> dict[str, str]:
        id = uuid.uuid4()
        return {
            "port_id": str(id),
            "mac": "fa:16:3e:" + id.bytes[:3].hex(":"),
            "address": str(VIPS[int.from_bytes(id.bytes[:2], "big") % 65000 + 256]),
            "network_id": network,
            "amphora_id": amphora.id,
            "load_balancer_id": load_balancer_id,
        }


_FURTHER = "further-vip"
"""Kind of additional VIPs: named by their load balancer's VIP and their subnet, found by their address."""


def _additional(things: Things, name: str, vip: Vip, request: VipRequest, *, made: bool) -> Iterator[AdditionalVip]:
    """Reserve the additional VIPs; any subnet will do, but one for each."""
    subnets = {vip.subnet_id}
    for place, one in enumerate(request.additional_vips, 1):
        subnet = one.subnet_id or further_subnet(place)
        if subnet in subnets:
            raise PermanentError(f"{name} has another VIP on subnet {subnet} already")
        subnets.add(subnet)
        known = things.get(_FURTHER, f"{name}/{subnet}")
        if known is None:
            if one.ip_address is not None and not made:
                _refuse(things, one.ip_address)
            known = {"address": one.ip_address or _free(things, FURTHER)}
            things.put(_FURTHER, f"{name}/{subnet}", known, id=known["address"])
        yield AdditionalVip(
            subnet_id=subnet,
            ip_address=known["address"],
            port_id=one.port_id or vip.port_id,
            network_id=one.network_id or vip.network_id,
        )


def _told(things: Things, load_balancer: LoadBalancer) -> Iterator[Mapping[str, Any]]:
    """What the agent is told of the additional VIPs."""
    for vip in load_balancer.additional_vips:
        known = things.get(_FURTHER, f"octavia-lb-{load_balancer.id}/{vip.subnet_id}")
        if known is None:
            raise PermanentError(f"load balancer {load_balancer.id} has no VIP on subnet {vip.subnet_id} to plug")
        subnet = ipaddress.ip_network(f"{known['address']}/{64 if ':' in known['address'] else 16}", strict=False)
        yield {
            "ip_address": known["address"],
            "subnet_cidr": str(subnet),
            "gateway": str(subnet[1]),
            "host_routes": [],
        }


def _refuse(things: Things, wanted: str) -> None:
    """Refuse an address that is not there to be had."""
    try:
        inside = any(ipaddress.ip_address(wanted) in network for network in (VIPS, FURTHER))
    except ValueError:
        inside = False
    if not inside:
        raise PermanentError(f"VIP address {wanted} is not on the simulated network {VIPS}")
    holder = things.by_id("vip", wanted) or things.by_id(_FURTHER, wanted)
    if holder is not None:
        raise PermanentError(f"VIP address {wanted} is taken by {holder[0]}")


def _free(things: Things, network: ipaddress.IPv4Network) -> str:
    taken = {known["address"] for kind in ("vip", _FURTHER) for _, known in things.every(kind)}
    hosts = (str(network[number]) for number in range(10, network.num_addresses - 1))
    return next(host for host in hosts if host not in taken)


def _network(known: Mapping[str, str]) -> PluggedNetwork:
    """Networks of members have one subnet, with the same id."""
    subnet = SUBNET_ID if known["network_id"] == NETWORK_ID else known["network_id"]
    return PluggedNetwork(
        network_id=known["network_id"],
        port_id=known["port_id"],
        mac_address=known["mac"],
        fixed_ips=({"ip_address": known["address"], "subnet_id": subnet},),
        mtu=1450,
    )
