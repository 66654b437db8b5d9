"""Addresses without a network: VIPs are addresses of 127.0.0.0/8, which every process of the machine may bind.

A reservation is a file named after the address, made in one step, so any number of processes may compete; the files of
one state directory are changed under one lock, which ends with its holder. There is nothing to plug on loopback: a plug
is a file that says which amphora serves which VIP, with made-up but stable ids, as an agent expects them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import ipaddress
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import Topology
from octavia_core.errors import ConfigurationError, PermanentError, TransientError
from octavia_core.ports.network import AddressPlan, PluggedNetwork, VipPlug, VipRequest
from octavia_core.settings import Settings
from octavia_local.home import as_port_error, private_directory, write_private
from octavia_local.ranges import LOOPBACK, Ranges
from octavia_local.reach import reachable_port

__all__ = ["LocalNetwork"]

_NAMESPACE = uuid.UUID("5b0c3a54-6f6c-4f6e-9b1c-6c6f63616c21")
"""Ours alone; made-up ids are uuid5 of it."""

_LOOPBACK_MTU = 65536


class LocalNetwork:
    """NetworkPort: VIPs on loopback.

    Args:
        settings: the state directory and `[local] network`, `privileged_port_offset`.

    Raises:
        ConfigurationError: no state directory, or no usable network.
    """

    time_limit = 5.0

    def __init__(self, settings: Settings) -> None:
        if not settings.state_directory:
            raise ConfigurationError(
                "the local network needs a state directory; give one with --state or state_directory="
            )
        self._ranges = Ranges.of(settings)
        self._offset = settings.local.privileged_port_offset
        self._folder = Path(settings.state_directory).resolve() / "network"
        self._vips = self._folder / "vips"
        self._plugs = self._folder / "plugs"

    def objection(self, topology: Topology) -> str | None:
        """See `NetworkPort.objection`: no VRRP is spoken on loopback."""
        if topology is Topology.SINGLE:
            return None
        return (
            "topology ACTIVE_STANDBY needs amphorae with network namespaces of their own, where keepalived can move the "
            "VIP; local amphorae on loopback cannot share one: leave the topology out, or say SINGLE"
        )

    def reserve_vip(self, request: VipRequest) -> AddressPlan:
        self._check_ids(request)
        wanted = None if request.ip_address is None else self._check_address(request.ip_address)
        with self._alone(f"reserve a VIP for load balancer {request.load_balancer_id}"):
            held = self._reservations()
            address = next((a for a, holder in held.items() if holder == request.load_balancer_id), None)
            if address is None:
                address = self._choose(request.load_balancer_id, held) if wanted is None else wanted
                if address in held:
                    raise PermanentError(
                        f"VIP address {address} belongs to load balancer {held[address]}; choose another, or none to get one"
                    )
                _probe(address)
                content = {"load_balancer_id": request.load_balancer_id}
                write_private(self._vips / address, json.dumps(content).encode())
        given = _made_elsewhere(request)
        return AddressPlan(
            vip=Vip(
                ip_address=address,
                port_id=request.port_id if given else _made_up("port", request.load_balancer_id, address),
                subnet_id=request.subnet_id if given else self._subnet_id,
                network_id=request.network_id if given else self._network_id,
            )
        )

    def release_vip(self, load_balancer_id: str, vip: Vip | None) -> None:
        with self._alone(f"release the VIP of load balancer {load_balancer_id}"):
            for address, holder in self._reservations().items():
                if holder == load_balancer_id:
                    (self._vips / address).unlink(missing_ok=True)
            for amphora_id, plug in self._every_plug():
                if plug["load_balancer_id"] == load_balancer_id:
                    (self._plugs / amphora_id).unlink(missing_ok=True)

    def plug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> VipPlug:
        address = load_balancer.vip.ip_address
        if address is None:
            raise PermanentError(f"load balancer {load_balancer.id} has no VIP address yet; reserve it first")
        with self._alone(f"plug VIP {address} into amphora {amphora.id}"):
            holder = self._reservations().get(address)
            if holder != load_balancer.id:
                whose = f"belongs to load balancer {holder}" if holder else "is not reserved"
                raise PermanentError(f"VIP {address} of load balancer {load_balancer.id} {whose}; it cannot be plugged")
            plug = {"load_balancer_id": load_balancer.id, "vip": address}
            write_private(self._plugs / _file_name(amphora.id), json.dumps(plug).encode())
        return VipPlug(
            port_id=_made_up("port", amphora.id, address),
            mac_address=_mac(amphora.id, address),
            vip=address,
            subnet_cidr=str(self._subnet_of(address)),
            vrrp_ip=amphora.lb_network_ip,
            mtu=_LOOPBACK_MTU,
        )

    def unplug_vip(self, load_balancer: LoadBalancer, amphora: Amphora) -> None:
        with self._alone(f"unplug the VIP from amphora {amphora.id}"):
            (self._plugs / _file_name(amphora.id)).unlink(missing_ok=True)

    def plugged(self, amphora: Amphora) -> Sequence[PluggedNetwork]:
        plug = _read(self._plugs / _file_name(amphora.id))
        if plug is None:
            return ()
        address = plug["vip"]
        return (
            PluggedNetwork(
                network_id=self._network_id,
                port_id=_made_up("port", amphora.id, address),
                mac_address=_mac(amphora.id, address),
                fixed_ips=({"ip_address": address, "subnet_cidr": str(self._subnet_of(address))},),
                mtu=_LOOPBACK_MTU,
            ),
        )

    def plug_member_networks(self, load_balancer: LoadBalancer, amphora: Amphora) -> Sequence[PluggedNetwork]:
        return ()  # members are reached as every process of this machine reaches them

    def reachable_at(self, address: str, port: int) -> str:
        return f"{address}:{reachable_port(port, offset=self._offset)}"

    def list(self) -> Sequence[tuple[str, str]]:
        vips = [("vip", f"octavia-lb-{holder}") for holder in self._reservations().values()]
        plugs = [("port", f"octavia-lb-vrrp-{amphora_id}") for amphora_id, _ in self._every_plug()]
        return sorted(vips + plugs)

    @property
    def _network_id(self) -> str:
        return _made_up("network", str(self._ranges.vips))

    @property
    def _subnet_id(self) -> str:
        return _made_up("subnet", str(self._ranges.vips))

    def _subnet_of(self, address: str) -> ipaddress.IPv4Network:
        if ipaddress.IPv4Address(address) in self._ranges.vips:
            return self._ranges.vips
        return ipaddress.IPv4Network(f"{address}/24", strict=False)

    def _check_ids(self, request: VipRequest) -> None:
        if _made_elsewhere(request):
            return
        for what, given, ours in (
            ("subnet", request.subnet_id, self._subnet_id),
            ("network", request.network_id, self._network_id),
        ):
            if given not in (None, "", ours):
                raise PermanentError(
                    f"this machine has no {what} {given}; leave it out, VIPs come from {self._ranges.vips}"
                )
        if request.port_id is not None and request.ip_address is None:
            raise PermanentError(
                f"this machine has no port {request.port_id}; leave it out, VIPs come from {self._ranges.vips}"
            )

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

    def _choose(self, load_balancer_id: str, held: Mapping[str, str]) -> str:
        """A free address, beginning where the id decides, so that an address is seldom used again soon."""
        hosts = list(self._ranges.vips.hosts())
        first = int.from_bytes(hashlib.sha256(load_balancer_id.encode()).digest()[:4], "big") % len(hosts)
        foreign = _listening_addresses()
        for host in hosts[first:] + hosts[:first]:
            if str(host) not in held and host not in foreign:
                return str(host)
        raise PermanentError(
            f"all {len(hosts)} VIP addresses of {self._ranges.vips} are taken; delete a load balancer, or use another state directory"
        )

    def _reservations(self) -> dict[str, str]:
        """Address -> load balancer, of all that is reserved here."""
        found = {name: _read(self._vips / name) for name in _names(self._vips)}
        return {address: content["load_balancer_id"] for address, content in found.items() if content is not None}

    def _every_plug(self) -> Iterator[tuple[str, dict[str, str]]]:
        for name in _names(self._plugs):
            content = _read(self._plugs / name)
            if content is not None:
                yield name, content

    @contextmanager
    def _alone(self, doing: str) -> Iterator[None]:
        """Hold the lock of this state directory's network; translates what the operating system refuses."""
        try:
            private_directory(self._vips)
            private_directory(self._plugs)
            fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                _wait_for(fd, self.time_limit, doing)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise as_port_error(error, doing) from error


def _made_elsewhere(request: VipRequest) -> bool:
    """Whether somebody else has made the port already, as upstream's API does: its ids are kept as they are."""
    return request.port_id is not None and request.ip_address is not None


def _wait_for(fd: int, within: float, doing: str) -> None:
    deadline = time.monotonic() + within
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"cannot {doing}: another process holds the lock of the network; try again"
                ) from None
            time.sleep(0.002)
        else:
            return


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


def _made_up(*parts: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "/".join(parts)))


def _mac(amphora_id: str, address: str) -> str:
    """fa:16:3e is Neutron's default prefix (a locally administered one)."""
    return "fa:16:3e:" + hashlib.sha256(f"{amphora_id}/{address}".encode()).digest()[:3].hex(":")


def _file_name(id: str) -> str:
    if not id or "/" in id or id.startswith("."):
        raise PermanentError(f"{id!r} is no amphora id")
    return id


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return []


def _read(path: Path) -> dict[str, str] | None:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
