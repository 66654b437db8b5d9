"""Plugged interfaces of an amphora in a network namespace: found by their hardware address, named, and really configured.

The agent runs inside the namespace, so everything here is about its own interfaces; those of the machine are out of reach.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from octavia_local.agent.announce import announce
from octavia_local.agent.plugs import Plugs, family
from octavia_local.agent.root import AgentConf, Root, log
from octavia_local.agent.wire import Refusal

if TYPE_CHECKING:
    from octavia_local.links import Interface, Link, Links

__all__ = ["Interfaces"]

_NOT_THERE = "No suitable network interface found"  # controllers know these words: the interface may still come


class Interfaces(Plugs):
    """The plug and interface calls, on real interfaces.

    Args:
        root: as for `Plugs`.
        conf: amphora-agent.conf; its topology says whether the agent or keepalived gives the VIP to the interface.
    """

    def __init__(self, root: Root, conf: AgentConf) -> None:
        super().__init__(root, conf.base_path)
        self._topology = conf.topology

    def configure(self, conf: AgentConf) -> None:
        self._topology = conf.topology

    def prepare(self) -> None:
        """Load the netlink library beside what happens next: it takes a quarter of a second, and is wanted soon."""
        threading.Thread(target=_load, name="load", daemon=True).start()

    def interface(self, address: str) -> str:
        if not family(address):
            raise Refusal(400, "Invalid IP address")
        wanted = ipaddress.ip_address(address)
        with _links() as links:
            holder = next((index for index, held in links.addresses() if held.ip == wanted), None)
            name = next((link.name for link in links.all() if link.index == holder), None)
        if name is None or name == "lo":
            raise Refusal(404, "Error interface not found for IP address")
        return name

    def networks(self) -> dict[str, Any]:
        """Traffic of each plugged interface in bytes: /proc/net/dev (proc(5)), fields 1 (received) and 9 (sent)."""
        found = {}
        with open("/proc/self/net/dev", encoding="ascii") as file:
            for line in file.readlines()[2:]:
                name, _, rest = line.partition(":")
                if name.strip().startswith("eth"):
                    fields = rest.split()
                    found[name.strip()] = {"network_tx": int(fields[8]), "network_rx": int(fields[0])}
        return found

    def announce(self) -> None:
        """Tell the neighbours of every VIP that this amphora holds by itself."""
        if self._topology == "SINGLE":
            for name, record in self._records():
                self._announce(name, record.get("vips", ()))

    def withdraw(self) -> None:
        """Take the VIPs from the interfaces: keepalived ended without doing so."""
        with _links() as links:
            for name, record in self._records():
                link = links.find(name)
                if link is None:
                    continue
                for vip in record.get("vips", ()):
                    links.remove_address(link.index, ipaddress.ip_interface(vip))

    # -- inside ----------------------------------------------------------------------------------------------------
    def _check_address(self, address: str, message: str) -> None:
        if not family(address):
            raise Refusal(400, message, f"{address!r} is not an IP address")

    def _apply(self, mac: str, name: str, record: Mapping[str, Any]) -> None:
        with _links() as links:
            link = links.with_mac(mac)
            if link is None:
                raise Refusal(404, "Not Found", _NOT_THERE)
            try:
                self._configure(links, link, name, record)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise Refusal(500, "Error plugging network", f"{type(error).__name__}: {error}") from error
        self._announce(name, [*record.get("fixed_ips", ()), *filter(None, [record.get("vrrp_ip")])])
        if self._topology == "SINGLE":
            self._announce(name, record.get("vips", ()))

    def _configure(self, links: Links, link: Link, name: str, record: Mapping[str, Any]) -> None:
        """Everything is set whatever was there before; addresses that are not wanted any more are taken away."""
        asked = record["asked"]
        if link.name != name:
            links.change(link.index, state="down")
            links.change(link.index, ifname=name)
        mtu = {"mtu": int(asked["mtu"])} if asked.get("mtu") else {}
        links.change(link.index, state="up", **mtu)
        vips = {ipaddress.ip_interface(vip) for vip in record.get("vips", ())}
        wanted = set(_own_addresses(record)) | (vips if self._topology == "SINGLE" else set())
        for _, held in links.addresses(link.index):
            if held not in wanted and not held.is_link_local and not (held in vips and self._topology != "SINGLE"):
                links.remove_address(link.index, held)
        for address in wanted:
            links.add_address(link.index, address)
        for destination, gateway in _routes(record):
            links.add_route(link.index, destination, gateway)

    def _announce(self, name: str, addresses: Iterable[str]) -> None:
        try:
            with _links() as links:
                link = links.find(name)
            if link is not None:
                announce(name, link.mac, addresses)
        except OSError as error:
            log(f"interface {name}: its addresses could not be announced: {error}")


def _own_addresses(record: Mapping[str, Any]) -> Iterable[Interface]:
    """What the amphora has beside VIPs, with the prefix lengths of their subnets."""
    asked = record["asked"]
    info = asked.get("vip_net_info") or asked
    own = record.get("vrrp_ip")
    if own:
        subnets = [info["subnet_cidr"], *(more["subnet_cidr"] for more in info.get("additional_vips") or [])]
        yield _within(own, subnets)
    for fixed in asked.get("fixed_ips") or []:
        yield _within(fixed["ip_address"], [fixed["subnet_cidr"]])


def _within(address: str, subnets: Iterable[str]) -> Interface:
    own = ipaddress.ip_address(address)
    for subnet in subnets:
        network = ipaddress.ip_network(subnet, strict=False)
        if own in network:
            return ipaddress.ip_interface((own, network.prefixlen))
    return ipaddress.ip_interface((own, own.max_prefixlen))


def _routes(record: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(destination, gateway); an interface for members has no default route."""
    asked = record["asked"]
    info = asked.get("vip_net_info") or (asked if record["if_type"] == "vip" else {})
    for vip in (info, *(info.get("additional_vips") or ())):
        if vip.get("gateway"):
            yield "default", str(vip["gateway"])
    for place in (info, *(info.get("additional_vips") or ()), *(asked.get("fixed_ips") or ())):
        for route in place.get("host_routes") or ():
            yield str(route["destination"]), str(route["nexthop"])


def _links() -> Links:
    """The namespace's interfaces; late, because an agent is ready long before it needs them."""
    from octavia_local.links import Links

    return Links()


def _load() -> None:
    with _links():
        return
