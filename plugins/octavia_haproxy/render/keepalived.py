"""keepalived's configuration for one amphora of a pair: who has the VIP, and what it needs to serve on it.

The file is made of words that were checked one by one - addresses, ids, numbers, names of interfaces - and nothing a
user writes freely is ever in it. A word that could mean something else to keepalived is refused, never quoted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.ports.amphora import VrrpDelivery
from octavia_core.settings import Settings
from octavia_haproxy.render import check

__all__ = ["CHECK_SCRIPT", "configure_vrrp"]

CHECK_SCRIPT = "vrrp/check_script.sh"
"""What says whether this amphora can serve, below the agent's data directory; the agent writes it (agent API 6.4)."""

_TABLE = "1"
"""Routing table of what comes from a VIP, in the amphora: the agent's own one for a single amphora, too."""
_RULE_PRIORITY = "100"

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.\-]{1,15}")
"""Linux allows more characters and as many of them (IFNAMSIZ is 16, with the NUL); no agent uses others."""
_PATH = re.compile(r"/[A-Za-z0-9_./\-]*")
_BLOCK = "    "

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@attrs.frozen
class _Vip:
    """One VIP with its subnet."""

    address: Address
    subnet: str
    gateway: Address | None
    routes: tuple[tuple[str, Address], ...]


def configure_vrrp(delivery: VrrpDelivery, settings: Settings) -> str:
    """The whole file. The same arguments give the same bytes.

    Args:
        delivery: pair, group and subnet.
        settings: `keepalived_vrrp`, and where the agent keeps its data.

    Raises:
        PermanentError: something is missing or cannot be written; the message names the object and field.
    """
    return "\n".join(_lines(delivery, settings)) + "\n"


def _lines(delivery: VrrpDelivery, settings: Settings) -> Iterator[str]:
    timing, base = settings.keepalived_vrrp, settings.haproxy_amphora.base_path
    amphora, group = delivery.amphora, delivery.group
    owner = f"amphora {amphora.id}"
    script = f"{base}/{CHECK_SCRIPT}"
    if not _PATH.fullmatch(script):
        raise check.refuse("[haproxy_amphora] base_path", repr(base), "is no path that keepalived can be given")
    own = _own(amphora)
    vips = list(_vips(delivery))
    interface = _matching(_INTERFACE, owner, "vrrp_interface", amphora.vrrp_interface)
    yield from _block(
        "vrrp_script check_script",
        f"script {script}",
        f"interval {_number(timing.vrrp_check_interval, 'vrrp_check_interval')}",
        f"fall {_number(timing.vrrp_fail_count, 'vrrp_fail_count')}",
        f"rise {_number(timing.vrrp_success_count, 'vrrp_success_count')}",
    )
    yield ""
    name = _matching(_WORD, f"vrrp group of load balancer {group.load_balancer_id}", "name", group.name)
    yield f"vrrp_instance {name} {{"
    inside = (
        f"interface {interface}",
        f"virtual_router_id {check.number(owner, 'vrrp_id', amphora.vrrp_id, low=1, high=255)}",
        f"priority {check.number(owner, 'vrrp_priority', amphora.vrrp_priority, low=1, high=254)}",
        "nopreempt",
        "accept",
        f"garp_master_refresh {_number(timing.vrrp_garp_refresh_interval, 'vrrp_garp_refresh_interval')}",
        f"garp_master_refresh_repeat {_number(timing.vrrp_garp_refresh_count, 'vrrp_garp_refresh_count')}",
        f"advert_int {check.number(owner, 'advert_int', group.advert_int, low=1, high=255)}",
        *_block("authentication", *_authentication(delivery)),
        f"unicast_src_ip {own}",
        *_block("unicast_peer", *_peers(delivery)),
        *_block("virtual_ipaddress", *(str(v.address) for v in vips if v.address.version == own.version)),
        *_block("virtual_ipaddress_excluded", *(str(v.address) for v in vips if v.address.version != own.version)),
        *_block("virtual_routes", *_all_routes(vips, interface)),
        *_block("virtual_rules", *(_rule(vip) for vip in vips)),
        *_block("track_script", "check_script"),
    )
    yield from (_BLOCK + line for line in inside)
    yield "}"


def _block(head: str, *lines: str) -> Iterator[str]:
    """A block, or nothing when it would be empty."""
    if lines:
        yield f"{head} {{"
        yield from (_BLOCK + line for line in lines)
        yield "}"


def _peers(delivery: VrrpDelivery) -> tuple[str, ...]:
    """The others, or itself when there are none: without a peer keepalived turns to multicast, and would hear, and be
    heard by, whoever else on the subnet has the same id, which all pairs have.
    """
    others = tuple(str(_own(peer)) for peer in sorted(delivery.peers, key=lambda found: found.id))
    return others or (str(_own(delivery.amphora)),)


def _authentication(delivery: VrrpDelivery) -> tuple[str, str]:
    group = delivery.group
    owner = f"vrrp group of load balancer {group.load_balancer_id}"
    if group.auth_type not in ("PASS", "AH"):
        raise check.refuse(owner, "auth_type", f"{group.auth_type!r} is neither PASS nor AH")
    secret = group.auth_pass.reveal().decode(errors="replace")
    if not _WORD.fullmatch(secret):
        raise check.refuse(owner, "auth_pass", "is empty or holds characters that keepalived would not read back")
    return f"auth_type {group.auth_type}", f"auth_pass {secret}"


def _all_routes(vips: Sequence[_Vip], interface: str) -> Iterator[str]:
    """Each destination once: a table has one route to it, and VIPs may be on one network."""
    known = set()
    for vip in vips:
        for route in _routes(vip, interface):
            destination = vip.address.version, route.partition(" ")[0]
            if destination not in known:
                known.add(destination)
                yield route


def _routes(vip: _Vip, interface: str) -> Iterator[str]:
    yield f"{vip.subnet} dev {interface} src {vip.address} scope link table {_TABLE}"
    if vip.gateway is not None:
        yield f"default via {vip.gateway} dev {interface} onlink table {_TABLE}"
    for destination, nexthop in vip.routes:
        # `via`: keepalived 2.2 does not know the word "gateway" here, and leaves such a route out with a warning
        yield f"{destination} dev {interface} via {nexthop} onlink table {_TABLE}"


def _rule(vip: _Vip) -> str:
    return f"from {vip.address}/{vip.address.max_prefixlen} table {_TABLE} priority {_RULE_PRIORITY}"


def _vips(delivery: VrrpDelivery) -> Iterator[_Vip]:
    """The first VIP, then the others by their text, as upstream orders them."""
    load_balancer, subnet = delivery.load_balancer, delivery.subnet
    owner = f"load balancer {load_balancer.id}"
    routes = tuple((route.destination, route.nexthop) for route in subnet.host_routes)
    yield _vip(owner, load_balancer.vip.ip_address, subnet.subnet_cidr, subnet.gateway, routes)
    by_address = {str(more.get("ip_address")): more for more in subnet.additional_vips}
    for address in sorted(_additional(load_balancer)):
        more = by_address.get(address)
        if more is None:
            raise check.refuse(owner, "additional VIP", f"{address} is not known to the network")
        yield _vip(owner, address, more.get("subnet_cidr"), more.get("gateway"), tuple(_host_routes(more)))


def _additional(load_balancer: LoadBalancer) -> list[str]:
    return [vip.ip_address for vip in load_balancer.additional_vips if vip.ip_address]


def _host_routes(vip: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for route in vip.get("host_routes") or ():
        yield str(route.get("destination")), str(route.get("nexthop"))


def _vip(owner: str, address: str | None, subnet: object, gateway: object, routes: tuple[tuple[str, str], ...]) -> _Vip:
    return _Vip(
        address=_address(owner, "VIP", address),
        subnet=_network(owner, "subnet of the VIP", subnet),
        gateway=_address(owner, "gateway of the VIP", gateway) if gateway else None,
        routes=tuple(
            (_network(owner, "route of the VIP", destination), _address(owner, "next hop of a route", nexthop))
            for destination, nexthop in routes
        ),
    )


def _own(amphora: Amphora) -> Address:
    return _address(f"amphora {amphora.id}", "vrrp_ip", amphora.vrrp_ip)


def _address(owner: str, field: str, value: object) -> Address:
    text = check.address(owner, field, None if value is None else str(value))
    return ipaddress.ip_address(text)


def _network(owner: str, field: str, value: object) -> str:
    return check.network(owner, field, str(value))


def _number(value: int, name: str) -> str:
    return check.number("[keepalived_vrrp]", name, value, low=1, high=86_400)


def _matching(pattern: re.Pattern[str], owner: str, field: str, value: str | None) -> str:
    if value is None or not pattern.fullmatch(value):
        raise check.refuse(owner, field, f"{value!r} cannot be written")
    return value
