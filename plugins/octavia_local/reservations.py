"""What is reserved on a state directory's networks: files, so that any number of processes may compete.

`network/vips/ADDRESS` says which load balancer has a VIP, and as which of its VIPs; `network/plugs/AMPHORA` what an amphora
was plugged into. The files of one state directory are changed under one lock, which ends with its holder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, NamedTuple

from octavia_core.domain.tree import LoadBalancer
from octavia_core.errors import ConfigurationError, PermanentError, TransientError
from octavia_core.ports.network import PluggedNetwork, VipRequest
from octavia_core.settings import Settings
from octavia_local.home import as_port_error, private_directory, write_private

__all__ = [
    "Held",
    "Ids",
    "Reservations",
    "additional_plug",
    "check_ids",
    "made_elsewhere",
    "made_up",
    "made_up_mac",
    "place_of",
    "plugged_into",
    "state_of",
]

_NAMESPACE = uuid.UUID("5b0c3a54-6f6c-4f6e-9b1c-6c6f63616c21")
"""Ours alone; made-up ids are uuid5 of it."""


class Held(NamedTuple):
    """Who has an address: a load balancer, as its VIP (place 0) or as which of its additional ones (from 1)."""

    load_balancer_id: str
    place: int = 0


class Reservations:
    """The files. Reading them needs no lock.

    Args:
        folder: `network` in the state directory; made when something is written.
        time_limit: seconds that the lock is waited for.
    """

    def __init__(self, folder: Path, time_limit: float) -> None:
        self._folder, self._time_limit = folder, time_limit
        self._vips = folder / "vips"
        self._plugs = folder / "plugs"

    def vips(self) -> dict[str, Held]:
        """Address -> who has it, of all that is reserved."""
        found = {name: _read(self._vips / name) for name in _names(self._vips)}
        return {
            address: Held(content["load_balancer_id"], int(content.get("place", "0")))
            for address, content in found.items()
            if content is not None
        }

    def plugs(self) -> Iterator[tuple[str, dict[str, str]]]:
        """(amphora, what is known of its plug)."""
        for name in _names(self._plugs):
            content = _read(self._plugs / name)
            if content is not None:
                yield name, content

    def plug(self, amphora_id: str) -> dict[str, str] | None:
        """What is known of an amphora's plug; None when it has none."""
        return _read(self._plugs / _file_name(amphora_id))

    def reserved_for(self, load_balancer: LoadBalancer) -> tuple[str, ...]:
        """The VIP and the additional VIPs of a load balancer, which are about to be plugged.

        Raises:
            PermanentError: it has none, or one is somebody else's.
        """
        found = []
        for address in (load_balancer.vip.ip_address, *(vip.ip_address for vip in load_balancer.additional_vips)):
            if address is None:
                raise PermanentError(f"load balancer {load_balancer.id} has no VIP address yet; reserve it first")
            content = _read(self._vips / _file_name(address))
            holder = content["load_balancer_id"] if content is not None else None
            if holder != load_balancer.id:
                whose = f"belongs to load balancer {holder}" if holder else "is not reserved"
                raise PermanentError(f"VIP {address} of load balancer {load_balancer.id} {whose}; it cannot be plugged")
            found.append(address)
        return tuple(found)

    # -- with the lock held ----------------------------------------------------------------------------------------
    def reserve(self, address: str, load_balancer_id: str, place: int = 0) -> None:
        """Note whose that VIP is now, and which of its VIPs (see `Held`)."""
        content = {"load_balancer_id": load_balancer_id, **({"place": str(place)} if place else {})}
        write_private(self._vips / address, json.dumps(content).encode())

    def release(self, load_balancer_id: str) -> list[str]:
        """Forget the VIPs and plugs of a load balancer; returns the amphorae that were plugged."""
        for address, holder in self.vips().items():
            if holder.load_balancer_id == load_balancer_id:
                (self._vips / address).unlink(missing_ok=True)
        plugged = [amphora for amphora, plug in self.plugs() if plug["load_balancer_id"] == load_balancer_id]
        for amphora_id in plugged:
            self.forget_plug(amphora_id)
        return plugged

    def remember_plug(self, amphora_id: str, plug: Mapping[str, str]) -> None:
        """Note what an amphora is plugged into."""
        write_private(self._plugs / _file_name(amphora_id), json.dumps(plug).encode())

    def forget_plug(self, amphora_id: str) -> None:
        """Absent is fine."""
        (self._plugs / _file_name(amphora_id)).unlink(missing_ok=True)

    @contextmanager
    def alone(self, doing: str) -> Iterator[None]:
        """Hold the lock of this state directory's network; translates what the operating system refuses."""
        try:
            private_directory(self._vips)
            private_directory(self._plugs)
            fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                _wait_for(fd, self._time_limit, doing)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise as_port_error(error, doing) from error


class Ids(NamedTuple):
    """What network and subnet of an address are called."""

    network: str
    subnet: str


def state_of(settings: Settings) -> Path:
    """The state directory.

    Raises:
        ConfigurationError: there is none.
    """
    if not settings.state_directory:
        raise ConfigurationError("the local network needs a state directory; give one with --state or state_directory=")
    return Path(settings.state_directory).resolve()


def check_ids(request: VipRequest, ours: Ids, ranges: str) -> None:
    """What is asked for may name our network and subnet, and no other.

    Args:
        request: what is asked for.
        ours: what there is.
        ranges: where VIPs come from, for people.

    Raises:
        PermanentError: a network, subnet or port of somewhere else is named.
    """
    if made_elsewhere(request):
        return
    for what, given, known in (
        ("subnet", request.subnet_id, ours.subnet),
        ("network", request.network_id, ours.network),
    ):
        if given not in (None, "", known):
            raise PermanentError(f"this machine has no {what} {given}; leave it out, VIPs come from {ranges}")
    if request.port_id is not None and request.ip_address is None:
        raise PermanentError(f"this machine has no port {request.port_id}; leave it out, VIPs come from {ranges}")


def plugged_into(amphora_id: str, vip: str, own: Mapping[str, str], ours: Ids, mtu: int) -> PluggedNetwork:
    """The one network that an amphora is plugged into; `own` is its address there."""
    return PluggedNetwork(
        network_id=ours.network,
        port_id=made_up("port", amphora_id, vip),
        mac_address=made_up_mac(amphora_id, vip),
        fixed_ips=(dict(own),),
        mtu=mtu,
    )


def additional_plug(address: str, subnet: IPv4Network | IPv6Network, gateway: str | None) -> Mapping[str, Any]:
    """What an agent is told of an additional VIP: `VipPlug.additional_vips`."""
    return {"ip_address": address, "subnet_cidr": str(subnet), "gateway": gateway, "host_routes": []}


def made_elsewhere(request: VipRequest) -> bool:
    """Whether somebody else has made the port already, as upstream's API does: its ids are kept as they are."""
    return request.port_id is not None and request.ip_address is not None


def made_up(*parts: str) -> str:
    """A stable id for something that nobody else gives one."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(parts)))


def made_up_mac(amphora_id: str, address: str) -> str:
    """fa:16:3e is Neutron's default prefix (a locally administered one)."""
    return "fa:16:3e:" + hashlib.sha256(f"{amphora_id}/{address}".encode()).digest()[:3].hex(":")


def place_of(name: str, places: int) -> int:
    """Where to begin looking for a free one of so many places: the name decides, so that one is seldom used again soon."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % places


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
