"""VIPs on a bridge of this machine, and amphorae that are plugged into it: the network of the namespace form.

A plug is noted before its link is made, so what was begun can always be found. The agent finds the interface by its
hardware address and configures it, as an agent of a virtual machine does.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import Topology
from octavia_core.errors import PermanentError
from octavia_core.ports.network import AddressPlan, PluggedNetwork, VipPlug, VipRequest
from octavia_core.settings import Settings
from octavia_local.form import keepalived
from octavia_local.home import Home, amphora_id_of
from octavia_local.links import addresses_of
from octavia_local.namespaces import Namespaces, ipv6_here, plan_of
from octavia_local.reservations import (
    Ids,
    Reservations,
    additional_plug,
    check_ids,
    made_up,
    made_up_mac,
    place_of,
    plugged_into,
    state_of,
)
from octavia_local.vips import Offer, choose

__all__ = ["NamespaceNetwork"]

_MTU = 1500
_LOWEST_SIX, _PLACES_SIX = 0x100, 0xFE00
"""Host numbers of IPv6 addresses that are given to whom it does not matter."""


class NamespaceNetwork:
    """NetworkPort: VIPs on a bridge.

    Args:
        settings: the state directory, and `[local] namespace_network`, `namespace_network_ipv6`.

    Raises:
        ConfigurationError: no state directory, or no usable network.
    """

    time_limit = 10.0
    plugs_members = False
    one_holder = False

    def __init__(self, settings: Settings) -> None:
        state = state_of(settings)
        self._plan = plan_of(settings)
        self._namespaces = Namespaces(self._plan, state / "network")
        self._kept = Reservations(state / "network", self.time_limit / 2)
        self._homes = state / "amphorae"

    def objection(self, topology: Topology) -> str | None:
        """See `NetworkPort.objection`: a pair needs keepalived."""
        if topology is Topology.SINGLE or keepalived() is not None:
            return None
        return (
            f"topology {topology} needs keepalived in the amphorae, and this machine has none; install it "
            "(Debian: apt-get install keepalived), leave the topology out, or say SINGLE"
        )

    def reserve_vip(self, request: VipRequest) -> AddressPlan:
        version = self._version(request)
        with self._kept.alone(f"reserve a VIP for load balancer {request.load_balancer_id}"):
            offer = Offer(
                ids=self._ids,
                check=self._check_address,
                free=self._choose,
                versions=(4, 6) if ipv6_here() else (4,),
                ranges=f"{self._plan.vips} and {self._plan.vips6}",
                others=self._own_addresses(),
            )
            choice = choose(request, version, self._kept.vips(), offer)
            for address, place in choice.new.items():
                self._kept.reserve(address, request.load_balancer_id, place)
        return choice.plan

    def release_vip(self, load_balancer_id: str, vip: Vip | None) -> None:
        with self._kept.alone(f"release the VIP of load balancer {load_balancer_id}"):
            for amphora_id, plug in list(self._kept.plugs()):
                if plug["load_balancer_id"] == load_balancer_id:
                    self._namespaces.unplug(amphora_id)
            self._kept.release(load_balancer_id)

    def plug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> VipPlug:
        with self._kept.alone(f"plug the VIP into amphora {amphora.id}"):
            address, *more = self._kept.reserved_for(load_balancer)
            for vip in (address, *more):
                if ipaddress.ip_address(vip) not in self._subnet_of(vip):
                    raise PermanentError(
                        f"VIP {vip} of load balancer {load_balancer.id} is not in {self._subnet_of(vip)}: it was made with "
                        "other settings; set [local] amphora and namespace_network as they were, or delete it and ask again"
                    )
            plug = self._kept.plug(amphora.id)
            if plug is None or plug.get("vip") != address:
                taken = {*self._kept.vips(), *self._own_addresses()}
                own = self._choose(amphora.id, ipaddress.ip_address(address).version, taken)
                plug = {"load_balancer_id": load_balancer.id, "vip": address, "vrrp_ip": own}
                if more:
                    plug["additional"] = " ".join(more)
                self._kept.remember_plug(amphora.id, plug)
            mac = made_up_mac(amphora.id, address)
            process = Home(self._homes / amphora.id).process()
            if process is not None and process.alive():
                with suppress(ProcessLookupError):  # a dead amphora gets no link: health replaces it
                    self._namespaces.plug(amphora.id, process.pid, mac)
        subnet = self._subnet_of(address)
        return VipPlug(
            port_id=made_up("port", amphora.id, address),
            mac_address=mac,
            vip=address,
            subnet_cidr=str(subnet),
            gateway=str(subnet[1]),
            vrrp_ip=plug["vrrp_ip"],
            mtu=_MTU,
            additional_vips=tuple(
                additional_plug(one, self._subnet_of(one), str(self._subnet_of(one)[1])) for one in more
            ),
        )

    def unplug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> None:
        with self._kept.alone(f"unplug the VIP from amphora {amphora.id}"):
            self._namespaces.unplug(amphora.id)
            self._kept.forget_plug(amphora.id)

    def plugged(self, amphora: Amphora) -> Sequence[PluggedNetwork]:
        plug = self._kept.plug(amphora.id)
        if plug is None or not self._is_in(amphora, plug):
            return ()
        vip = plug["vip"]
        own = {"ip_address": plug["vrrp_ip"], "subnet_cidr": str(self._subnet_of(vip))}
        return (plugged_into(amphora.id, vip, own, self._ids(ipaddress.ip_address(vip).version), _MTU),)

    def _is_in(self, amphora: Amphora, plug: Mapping[str, str]) -> bool:
        """Whether the amphora has the addresses that it was given, and so the interface; what shares a VIP need not have
        that one now. Of an amphora that does not live what was plugged counts: health replaces it.
        """
        process = Home(self._homes / amphora.id).process()
        if process is None:
            return True
        vips = [plug["vip"], *plug.get("additional", "").split()]
        wanted = [plug["vrrp_ip"], *(vips if amphora.topology is Topology.SINGLE else [])]
        held = addresses_of(process.pid)
        return not process.alive() or all(ipaddress.ip_address(address) in held for address in wanted)

    def plug_member_networks(self, load_balancer: LoadBalancer, amphora: Amphora) -> Sequence[PluggedNetwork]:
        return ()  # members are reached through this machine, which is every amphora's gateway

    def reachable_at(self, address: str, port: int) -> str:
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def list(self) -> Sequence[tuple[str, str]]:
        vips = {("vip", f"octavia-lb-{holder.load_balancer_id}") for holder in self._kept.vips().values()}
        plugs = [("port", f"octavia-lb-vrrp-{amphora_id}") for amphora_id, _ in self._kept.plugs()]
        links = self._namespaces.links()
        inside = [("link", f"{name} ({what})") for name, what in links if "amphora" in what]
        amphorae = any(amphora_id_of(name) == name for name in _names(self._homes))
        empty = not amphorae and not plugs and not inside
        bridges = [("bridge", f"{name} ({what})") for name, what in links if "amphora" not in what] if empty else []
        return sorted([*vips, *plugs, *inside, *bridges])

    # -- addresses -------------------------------------------------------------------------------------------------
    def _ids(self, version: int) -> Ids:
        subnet = made_up("subnet", str(self._plan.vips if version == 4 else self._plan.vips6))
        return Ids(network=made_up("network", str(self._plan.vips)), subnet=subnet)

    def _subnet_of(self, address: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return self._plan.vips if ipaddress.ip_address(address).version == 4 else self._plan.vips6

    def _version(self, request: VipRequest) -> int:
        """4 or 6: what the subnet or address says, or 4.

        Raises:
            PermanentError: a network, subnet or port of somewhere else is named.
        """
        plan = self._plan
        if request.ip_address is not None:
            version = 6 if ":" in request.ip_address else 4
        else:
            version = 6 if request.subnet_id == self._ids(6).subnet else 4
        check_ids(request, self._ids(version), f"{plan.vips} and {plan.vips6}")
        return version

    def _check_address(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise PermanentError(f"VIP address {text!r} is no IP address") from None
        subnet = self._plan.vips if address.version == 4 else self._plan.vips6
        if address.version == 6 and not ipv6_here():
            raise PermanentError(
                f"VIP address {text} is IPv6, which is switched off on this machine (sysctl net.ipv6.conf.default.disable_ipv6)"
            )
        last = subnet[-1] if address.version == 4 else None
        if address not in subnet or address in (subnet[0], subnet[1], last):
            raise PermanentError(
                f"VIP address {text} is not one that amphorae of this machine can have; use one of {subnet} (not {subnet[1]}, "
                "which is this machine), or none to get one"
            )
        return str(address)

    def _own_addresses(self) -> Collection[str]:
        """What amphorae have beside the VIP."""
        return {plug["vrrp_ip"] for _, plug in self._kept.plugs() if "vrrp_ip" in plug}

    def _choose(self, name: str, version: int, taken: Collection[str]) -> str:
        """A free address, beginning where the name decides, so that an address is seldom used again soon."""
        subnet = self._plan.vips if version == 4 else self._plan.vips6
        lowest, count = (2, subnet.num_addresses - 3) if version == 4 else (_LOWEST_SIX, _PLACES_SIX)
        first = place_of(name, count)
        for index in range(count):
            address = str(subnet[lowest + (first + index) % count])
            if address not in taken:
                return address
        raise PermanentError(
            f"all {count} addresses of {subnet} are taken; delete a load balancer, or use another state directory"
        )


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(os.listdir(folder))
    return []
