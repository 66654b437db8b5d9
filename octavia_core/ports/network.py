"""Addresses, ports and wires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Vip
from octavia_core.domain.vocabulary import Topology

__all__ = ["AddressPlan", "HostRoute", "NetworkPort", "PluggedNetwork", "VipPlug", "VipRequest"]


@attrs.frozen(kw_only=True)
class VipRequest:
    """Which address is wanted. Everything None means: any address of the default network.

    Attributes:
        additional_vips: further addresses of the same load balancer, each on a subnet of its own; one without a subnet
            is on any that the network chooses, one without an address has any of its subnet.
    """

    load_balancer_id: str
    project_id: str | None = None
    ip_address: str | None = None
    port_id: str | None = None
    subnet_id: str | None = None
    network_id: str | None = None
    additional_vips: tuple[AdditionalVip, ...] = ()


@attrs.frozen(kw_only=True)
class AddressPlan:
    """What `reserve_vip` found or made. `additional_vips` are in the order of the request, with subnet and address."""

    vip: Vip
    additional_vips: tuple[AdditionalVip, ...] = ()


@attrs.frozen(kw_only=True)
class HostRoute:
    """A static route of a subnet: CIDR and next hop."""

    destination: str
    nexthop: str


@attrs.frozen(kw_only=True)
class VipPlug:
    """All an agent must know to serve the VIP (its `plug/vip` call). `mac_address` is lower case.

    Attributes:
        additional_vips: each with `ip_address`, `subnet_cidr`, `gateway` (None: there is none) and `host_routes`.
    """

    port_id: str
    mac_address: str
    vip: str
    subnet_cidr: str
    gateway: str | None = None
    vrrp_ip: str | None = None
    mtu: int | None = None
    host_routes: tuple[HostRoute, ...] = ()
    additional_vips: tuple[Mapping[str, Any], ...] = ()
    is_sriov: bool = False


@attrs.frozen(kw_only=True)
class PluggedNetwork:
    """A network that a server has a port on, management networks left out.

    Attributes:
        fixed_ips: each with `ip_address` and `subnet_id`; for the agent also `subnet_cidr`, `gateway`, `host_routes`.
    """

    network_id: str
    port_id: str
    mac_address: str
    fixed_ips: tuple[Mapping[str, Any], ...] = ()
    mtu: int | None = None


class NetworkPort(Protocol):
    """VIPs and plugs."""

    time_limit: float
    """Seconds within which each call returns or raises."""

    plugs_members: bool
    """False: amphorae reach every member without a port on its subnet; only the VIP's is looked for, and nothing plugged."""

    one_holder: bool
    """True: an amphora can serve a VIP only when the one before it has let go (a port of loopback is bound once). False: both
    may have it for a moment, and neighbours believe the younger one.
    """

    def objection(self, topology: Topology) -> str | None:
        """Why this network cannot carry a load balancer of that topology: a sentence that names what is needed; None when
        it can. No request is made.
        """

    def reserve_vip(self, request: VipRequest) -> AddressPlan:
        """Reserve the VIP of a load balancer, and its additional VIPs: all or none. The same load balancer twice returns
        the same addresses.

        Raises:
            PermanentError: an address is not on the network, or somebody else has it; a subnet is not known, or the
                load balancer has another VIP on it.
            TransientError: the network service is busy.
        """

    def release_vip(self, load_balancer_id: str, vip: Vip | None) -> None:
        """Give the VIP and the additional VIPs back, with what belongs to them. Absent is success; a port the user brought
        is kept.
        """

    def plug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> VipPlug:
        """Give the amphora's server a port on the VIP's network, for the additional VIPs too, whose addresses the load
        balancer has. Repeated, it returns the port that exists.
        """

    def unplug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> None:
        """Remove that port. Absent is success."""

    def plugged(self, amphora: Amphora) -> Sequence[PluggedNetwork]:
        """The networks the amphora's server really has ports on now, the VIP's included."""

    def plug_member_networks(self, load_balancer: LoadBalancer, amphora: Amphora) -> Sequence[PluggedNetwork]:
        """Give the server exactly the member networks it needs; return those that changed, for the agent to configure.

        Raises:
            PermanentError: a subnet does not exist, or cannot be plugged.
        """

    def reachable_at(self, address: str, port: int) -> str:
        """Where clients reach a listener, `host:port`; differs from what was asked where ports need privileges."""

    def list(self) -> Sequence[tuple[str, str]]:
        """Everything this driver reserved, as (kind, name), wanted or not: what `orphans` compares with the rows."""
