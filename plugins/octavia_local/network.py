"""Addresses without a network: VIPs are addresses of 127.0.0.0/8, which every process of the machine may bind.

What is reserved stands in files (`octavia_local.reservations`). There is nothing to plug on loopback: a plug is a file
that says which amphora serves which VIP, with made-up but stable ids, as an agent expects them.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import Topology
from octavia_core.errors import PermanentError
from octavia_core.ports.network import AddressPlan, PluggedNetwork, VipPlug, VipRequest
from octavia_core.settings import Settings
from octavia_local.handover import share
from octavia_local.home import Home, as_port_error
from octavia_local.ranges import LOOPBACK, Ranges
from octavia_local.reach import reachable_port
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

__all__ = ["LocalNetwork"]

_LOOPBACK_MTU = 65536


class LocalNetwork:
    """NetworkPort: VIPs on loopback.

    Args:
        settings: the state directory and `[local] network`, `privileged_port_offset`.

    Raises:
        ConfigurationError: no state directory, or no usable network.
    """

    time_limit = 5.0
    plugs_members = False
    one_holder = False

    def __init__(self, settings: Settings) -> None:
        self._kept = Reservations(state_of(settings) / "network", self.time_limit)
        self._homes = state_of(settings) / "amphorae"
        self._ranges = Ranges.of(settings)
        self._offset = settings.local.privileged_port_offset
        vips = str(self._ranges.vips)
        self._ids = Ids(network=made_up("network", vips), subnet=made_up("subnet", vips))

    def objection(self, topology: Topology) -> str | None:
        """See `NetworkPort.objection`: no VRRP is spoken on loopback."""
        if topology is Topology.SINGLE:
            return None
        return (
            "topology ACTIVE_STANDBY needs amphorae with network namespaces of their own, where keepalived can move the "
            "VIP; local amphorae on loopback cannot share one: leave the topology out, say SINGLE, or set [local] amphora to "
            "namespace"
        )

    def reserve_vip(self, request: VipRequest) -> AddressPlan:
        check_ids(request, self._ids, str(self._ranges.vips))
        offer = Offer(
            ids=lambda _: self._ids,
            check=self._check_address,
            free=self._choose,
            versions=(4,),
            ranges=str(self._ranges.vips),
        )
        with self._kept.alone(f"reserve a VIP for load balancer {request.load_balancer_id}"):
            choice = choose(request, 4, self._kept.vips(), offer)
            for address in choice.new:
                _probe(address)
            for address, place in choice.new.items():
                self._kept.reserve(address, request.load_balancer_id, place)
        return choice.plan

    def release_vip(self, load_balancer_id: str, vip: Vip | None) -> None:
        with self._kept.alone(f"release the VIP of load balancer {load_balancer_id}"):
            self._kept.release(load_balancer_id)

    def plug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> VipPlug:
        with self._kept.alone(f"plug the VIP into amphora {amphora.id}"):
            address, *more = self._kept.reserved_for(load_balancer)
            plug = {"load_balancer_id": load_balancer.id, "vip": address}
            self._kept.remember_plug(amphora.id, plug)
        for other, known in self._kept.plugs():
            if other != amphora.id and known["load_balancer_id"] == load_balancer.id:
                self._share(other, amphora.id)
        return VipPlug(
            port_id=made_up("port", amphora.id, address),
            mac_address=made_up_mac(amphora.id, address),
            vip=address,
            subnet_cidr=str(self._subnet_of(address)),
            vrrp_ip=amphora.lb_network_ip,
            mtu=_LOOPBACK_MTU,
            additional_vips=tuple(additional_plug(one, self._subnet_of(one), None) for one in more),
        )

    def _share(self, old: str, new: str) -> None:
        try:
            share(Home(self._homes / old), Home(self._homes / new))
        except OSError as error:
            raise as_port_error(error, f"share the VIP of amphora {old} with amphora {new}") from error

    def unplug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> None:
        with self._kept.alone(f"unplug the VIP from amphora {amphora.id}"):
            self._kept.forget_plug(amphora.id)

    def plugged(self, amphora: Amphora) -> Sequence[PluggedNetwork]:
        plug = self._kept.plug(amphora.id)
        if plug is None:
            return ()
        vip = plug["vip"]
        own = {"ip_address": vip, "subnet_cidr": str(self._subnet_of(vip))}
        return (plugged_into(amphora.id, vip, own, self._ids, _LOOPBACK_MTU),)

    def plug_member_networks(self, load_balancer: LoadBalancer, amphora: Amphora) -> Sequence[PluggedNetwork]:
        return ()  # members are reached as every process of this machine reaches them

    def reachable_at(self, address: str, port: int) -> str:
        return f"{address}:{reachable_port(port, offset=self._offset)}"

    def list(self) -> Sequence[tuple[str, str]]:
        vips = {("vip", f"octavia-lb-{holder.load_balancer_id}") for holder in self._kept.vips().values()}
        plugs = [("port", f"octavia-lb-vrrp-{amphora_id}") for amphora_id, _ in self._kept.plugs()]
        return sorted([*vips, *plugs])

    def _subnet_of(self, address: str) -> ipaddress.IPv4Network:
        if ipaddress.IPv4Address(address) in self._ranges.vips:
            return self._ranges.vips
        return ipaddress.IPv4Network(f"{address}/24", strict=False)

    def _check_address(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise PermanentError(f"VIP address {text!r} is no IP address") from None
        if isinstance(address, ipaddress.IPv6Address):
            raise PermanentError(
                f"VIP address {text} is IPv6, and loopback has no range of it; use one of {self._ranges.vips}"
            )
        if address not in LOOPBACK or address in (LOOPBACK[0], LOOPBACK[-1]):
            raise PermanentError(
                f"VIP address {text} is not on this machine's loopback network; use one of {self._ranges.vips}"
                f" or of {LOOPBACK}, or none to get one"
            )
        if address in self._ranges.agents:
            raise PermanentError(
                f"VIP address {text} is in {self._ranges.agents}, which is for amphorae; use one of {self._ranges.vips}"
            )
        return str(address)

    def _choose(self, name: str, _: int, taken: Collection[str]) -> str:
        """A free address, beginning where the name decides, so that an address is seldom used again soon."""
        hosts = list(self._ranges.vips.hosts())
        first = place_of(name, len(hosts))
        foreign = _listening_addresses()
        for host in hosts[first:] + hosts[:first]:
            if str(host) not in taken and host not in foreign:
                return str(host)
        raise PermanentError(
            f"all {len(hosts)} VIP addresses of {self._ranges.vips} are taken; delete a load balancer, or use another state directory"
        )


def _probe(address: str) -> None:
    """Can a process of this user listen there?

    Raises:
        PermanentError: this machine has no such loopback address (macOS has 127.0.0.1 alone).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            raise PermanentError(
                f"this machine cannot listen on {address}: it has no loopback range (macOS has 127.0.0.1 alone); run on Linux"
            ) from error


def _listening_addresses() -> set[ipaddress.IPv4Address]:
    """Addresses that some process listens on (proc(5), net/tcp: local address in hexadecimal, state 0A is LISTEN)."""
    found: set[ipaddress.IPv4Address] = set()
    with suppress(OSError):
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                packed = (
                    socket.ntohl(int(fields[1].partition(":")[0], 16)) if _LITTLE_ENDIAN else int(fields[1][:8], 16)
                )
                found.add(ipaddress.IPv4Address(packed))
    return found


_LITTLE_ENDIAN = socket.ntohl(1) != 1
