"""Plugged interfaces. A loopback amphora has none: what would be configured is recorded, so that questions are answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from octavia_local.agent.root import AgentConf, Root
from octavia_local.agent.wire import Refusal, Request, Response, answer, framework_error

__all__ = ["Plugs", "family"]

_VIP_INTERFACE = "eth1"  # upstream's agent calls the VIP's interface so, always
_FOLDER = "/etc/octavia/interfaces"


class Plugs:
    """The plug and interface calls.

    Args:
        root: where the records are kept (/etc/octavia/interfaces/ethN.json, and upstream's list of MAC addresses).
        base_path: upstream's /var/lib/octavia.
    """

    def __init__(self, root: Root, base_path: str) -> None:
        self._root, self._list = root, f"{base_path}/plugged_interfaces"

    def vip(self, request: Request, vip: str) -> Response:
        """POST /plug/vip/{vip}."""
        body = _object(request.body)
        if body is None or not {"subnet_cidr", "gateway", "mac_address"} <= body.keys():
            return framework_error(400, "Invalid subnet information")
        additional = body.get("additional_vips") or []
        if not isinstance(additional, list) or not all(
            isinstance(one, dict) and {"ip_address", "subnet_cidr", "gateway", "host_routes"} <= one.keys()
            for one in additional
        ):
            return framework_error(400, "Invalid subnet information")
        addresses = [vip, *(str(one["ip_address"]) for one in additional)]
        for address in addresses:
            self._check_address(address, f"Invalid VIP: {address}")
        own = body.get("vrrp_ip")
        if own is not None:
            self._check_address(str(own), f"Invalid VRRP Address: {own}")
        mac = str(body["mac_address"]).lower()
        if mac in self._plugged():
            return answer(409, {"message": "Interface already exists"})
        record = {"if_type": "vip", "vrrp_ip": own, "vips": addresses, "asked": body}
        self._apply(mac, _VIP_INTERFACE, record)
        self._record(mac, _VIP_INTERFACE, record)
        return answer(202, {
            "message": "OK",
            "details": f"VIPs plugged on interface {_VIP_INTERFACE}: {', '.join(addresses)}",
        })  # fmt: skip

    def network(self, request: Request) -> Response:
        """POST /plug/network."""
        body = _object(request.body)
        if body is None or "mac_address" not in body:
            return framework_error(400, "Invalid port information")
        fixed = body.get("fixed_ips") or []
        if not isinstance(fixed, list) or not all(
            isinstance(one, dict) and family(str(one.get("ip_address"))) for one in fixed
        ):
            raise Refusal(400, "Invalid network port")
        mac, plugged = str(body["mac_address"]).lower(), self._plugged()
        name = plugged.get(mac)
        record: dict[str, Any] = {"if_type": "backend", "fixed_ips": [str(one["ip_address"]) for one in fixed]}
        info = body.get("vip_net_info")
        if isinstance(info, dict):
            more = info.get("additional_vips") or []
            record |= {"if_type": "vip", "vrrp_ip": info.get("vrrp_ip")}
            record["vips"] = [
                str(info.get("vip")),
                *(str(one.get("ip_address")) for one in more if isinstance(one, dict)),
            ]
        free = next(number for number in range(2, 10_000) if f"eth{number}" not in plugged.values())
        record["asked"] = body
        self._apply(mac, name or f"eth{free}", record)
        self._record(mac, name or f"eth{free}", record)
        what = f"Updated existing interface {name}" if name else f"Plugged on interface eth{free}"
        return answer(202, {"message": "OK", "details": what})

    def interface(self, address: str) -> str:
        """The name of the interface that holds an address.

        Raises:
            Refusal: 400, it is no address; 404, no interface has it.
        """
        if not family(address):
            raise Refusal(400, "Invalid IP address")
        for name, record in self._records():
            if address in (record.get("vrrp_ip"), *record.get("vips", ()), *record.get("fixed_ips", ())):
                return name
        raise Refusal(404, "Error interface not found for IP address")

    def networks(self) -> dict[str, Any]:
        """Traffic of each plugged interface, for `/details`; loopback's is not the amphora's alone."""
        return {}

    def configure(self, conf: AgentConf) -> None:
        """From now on with these settings of the agent."""

    def prepare(self) -> None:
        """The agent is ready; get ready for being plugged."""

    def announce(self) -> None:
        """Tell the neighbours of the VIPs; on loopback there are none."""

    def _check_address(self, address: str, message: str) -> None:
        """Refuse what cannot be a VIP here."""
        _require_ipv4(address, message)

    def _apply(self, mac: str, name: str, record: Mapping[str, Any]) -> None:
        """Configure the interface with that hardware address under that name; on loopback it is only recorded."""

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, what was recorded) of each plugged interface."""
        for name in sorted(set(self._plugged().values())):
            yield name, json.loads(self._root.read(f"{_FOLDER}/{name}.json"))

    def _plugged(self) -> dict[str, str]:
        """MAC address to interface name."""
        try:
            lines = self._root.read(self._list).decode().splitlines()
        except FileNotFoundError:
            return {}
        return {mac: name for mac, _, name in (line.partition(" ") for line in lines) if name}

    def _record(self, mac: str, name: str, record: Mapping[str, Any]) -> None:
        self._root.write(f"{_FOLDER}/{name}.json", json.dumps({"name": name, **record}).encode())
        plugged = {**self._plugged(), mac: name}
        self._root.write(self._list, "".join(f"{one} {its}\n" for one, its in plugged.items()).encode())


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def family(address: str) -> int:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        return family
    return 0


def _require_ipv4(address: str, message: str) -> None:
    kind = family(address)
    if kind == socket.AF_INET6:
        raise Refusal(400, message, f"{address} is an IPv6 address; a local amphora has IPv4 VIPs only")
    if kind != socket.AF_INET:
        raise Refusal(400, message, f"{address!r} is not an IP address")
