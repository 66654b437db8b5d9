"""Where an amphora is started: on loopback like any process, or in a network namespace of its own."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from octavia_core.errors import DriverUnavailable, PermanentError
from octavia_core.settings import Settings
from octavia_local.form import keepalived
from octavia_local.forwarders import find_nft, find_nginx
from octavia_local.home import Home, amphora_id_of
from octavia_local.namespaces import LOCK, Namespaces, plan_of
from octavia_local.processes import Process
from octavia_local.ranges import Ranges
from octavia_local.reservations import place_of

__all__ = ["Inside", "Loopback", "Place", "rotated"]


class Place(Protocol):
    """What compute leaves to the form."""

    def start(self, home: Home, facts: Mapping[str, Any], launch: Callable[[], Process]) -> Process:
        """Write local.json, `facts` and what depends on the place, then launch the agent there."""

    def clear(self, amphora_id: str) -> None:
        """Remove what was made for an amphora whose processes have ended. Absent is success."""

    sockets_move: bool
    """Whether the VIP's sockets of one amphora serve another one as well: both are in one network."""


class Loopback:
    """Every address of the upper half of `[local] network` is tried by the agent, which binds exclusively."""

    sockets_move = True

    def __init__(self, settings: Settings, homes: Path) -> None:
        self._settings = settings
        self._agents = Ranges.of(settings).agents
        self._networks = homes.parent / "network"

    def start(self, home: Home, facts: Mapping[str, Any], launch: Callable[[], Process]) -> Process:
        more = {"addresses": rotated(self._agents, home.amphora_id), "nginx": find_nginx() or ""}
        home.write("local.json", {**more, **facts})
        return launch()

    def clear(self, amphora_id: str) -> None:
        """Its sockets went with its processes; links are there only when it was booted while namespaces were asked for."""
        if not (self._networks / LOCK).exists():
            return
        with contextlib.suppress(DriverUnavailable):  # then nobody here can remove them
            Namespaces(plan_of(self._settings), self._networks).remove(amphora_id)


class Inside:
    """A namespace for each, with one address of the management network."""

    sockets_move = False

    def __init__(self, settings: Settings, homes: Path) -> None:
        self._plan = plan_of(settings)
        self._namespaces = Namespaces(self._plan, homes.parent / "network")
        self._homes = homes

    def start(self, home: Home, facts: Mapping[str, Any], launch: Callable[[], Process]) -> Process:
        with self._namespaces.alone():  # of two amphorae that start, only one may find an address free
            address = self._free(home.amphora_id)
            more = {
                "addresses": [address],
                "namespace": True,
                "keepalived": keepalived() or "",
                "nft": find_nft() or "",
            }
            home.write("local.json", {**facts, **more})
        return self._namespaces.boot(home.amphora_id, address, launch)

    def clear(self, amphora_id: str) -> None:
        self._namespaces.remove(amphora_id)

    def _free(self, amphora_id: str) -> str:
        taken: set[str] = set()
        for path in self._homes.iterdir():
            if path.name != amphora_id and amphora_id_of(path.name) == path.name:
                taken.update((Home(path).read("local.json") or {}).get("addresses", ()))
        for address in rotated(self._plan.agents, amphora_id):
            if address not in taken and address != self._plan.controller:
                return address
        raise PermanentError(
            f"all addresses of {self._plan.agents} are taken by amphorae; delete a load balancer, or give local amphorae a"
            " larger [local] namespace_network"
        )


def rotated(network: ipaddress.IPv4Network, name: str) -> Sequence[str]:
    """Every host of the network, from one that the name decides on: agents seldom meet, and old ones not at all."""
    hosts = [str(host) for host in network.hosts()]
    first = place_of(name, len(hosts))
    return hosts[first:] + hosts[:first]
