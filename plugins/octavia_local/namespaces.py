"""Network namespaces of amphorae, and the two networks of a state directory that join them to this machine.

```text
            this machine (or the user namespace that the controller runs in)
   ocTTTTTTm  bridge, management: agents and heartbeats      ocTTTTTTv  bridge, VIPs: clients and members
      |  ocTTTTTTmAAAAAA                                        |  ocTTTTTTvAAAAAA
      |                                                         |
   mgmt  ---------------------- namespace of amphora A -------  eth1
```

TTTTTT is made from the state directory's id and path, AAAAAA from the amphora's id; every interface says in its alias whose
it is, and one that does not is never touched. A namespace has no name: it lives as long as the processes in it, and takes
its links with it, so a killed amphora leaves nothing. Bridges are there while an amphora is.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import attrs

from octavia_core.errors import ConfigurationError, PermanentError, TransientError
from octavia_core.settings import Settings
from octavia_local.home import as_port_error, private_directory, write_private
from octavia_local.links import Link, Links, in_namespace, namespace_of, new_namespace

__all__ = ["LOCK", "Namespaces", "Plan", "ipv6_here", "plan_of"]

T = TypeVar("T")

_ALL_NETWORKS = ipaddress.IPv4Network("198.18.0.0/15")
"""For tests inside a network (RFC 2544, RFC 6815): nobody routes it, and hardly anybody's own network is in it."""

_MANAGEMENT, _VIPS = "m", "v"
_ALIAS = "octavia-core"
_WORSE = 2000
"""Metric of default routes through the management network: those through the VIP's network are better."""
_LOCK_WITHIN = 5.0
LOCK = "links.lock"
"""File in the state directory's `network`: held while links change, and there once namespaces were used."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPv4Networks = tuple[ipaddress.IPv4Network, ipaddress.IPv4Network]
IPv6Networks = tuple[ipaddress.IPv6Network, ipaddress.IPv6Network]


@attrs.frozen(kw_only=True)
class Plan:
    """Names and addresses of one state directory's networks. The first host of each network is this machine.

    Attributes:
        tag: six hexadecimal digits that all interface names have.
        owner: what all aliases begin with.
        vips, vips6: where VIPs, and the addresses that amphorae have beside them, come from.
        agents, agents6: management addresses.
    """

    tag: str
    owner: str
    vips: ipaddress.IPv4Network
    agents: ipaddress.IPv4Network
    vips6: ipaddress.IPv6Network
    agents6: ipaddress.IPv6Network

    @property
    def controller(self) -> str:
        """Where amphorae reach this machine."""
        return str(self.agents[1])

    def bridge(self, kind: str) -> str:
        return f"oc{self.tag}{kind}"

    def link(self, kind: str, amphora_id: str) -> str:
        return f"oc{self.tag}{kind}{_short(amphora_id)}"

    def networks(self, kind: str) -> tuple[ipaddress.IPv4Network, ipaddress.IPv6Network]:
        return (self.agents, self.agents6) if kind == _MANAGEMENT else (self.vips, self.vips6)

    def management6(self, address: str) -> ipaddress.IPv6Interface:
        """The IPv6 address that belongs to a management address."""
        offset = int(ipaddress.IPv4Address(address)) - int(self.agents.network_address)
        return ipaddress.IPv6Interface((self.agents6[offset], self.agents6.prefixlen))


def plan_of(settings: Settings) -> Plan:
    """The plan of a state directory; its ranges are chosen once, and kept in it.

    Raises:
        ConfigurationError: a range is no network, or too small.
        PermanentError, TransientError: the choice cannot be read or written.
    """
    state = Path(settings.state_directory).resolve()
    identity = hashlib.sha256(f"{_id_of(state)}\n{state}".encode()).hexdigest()
    chosen = settings.local.namespace_network
    if not chosen:
        chosen = _chosen(state, identity)
    vips, agents = _halves(settings, chosen)
    vips6, agents6 = _subnets(settings, settings.local.namespace_network_ipv6 or _unique_local(identity))
    return Plan(
        tag=identity[:6], owner=f"{_ALIAS} {identity[:32]}", vips=vips, agents=agents, vips6=vips6, agents6=agents6
    )


class Namespaces:
    """What is made and removed of one state directory's namespaces, links and bridges.

    Any number of processes may do it at the same time. Everything may be repeated and continues what was begun.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self._folder = folder

    def boot(self, amphora_id: str, address: str, launch: Callable[[], T]) -> T:
        """Make a namespace with a link to the management network, and start what shall live in it.

        Args:
            amphora_id: whose; what an earlier namespace of it left is removed.
            address: its management address.
            launch: starts the process; the namespace goes when that ends.
        """
        plan = self.plan
        namespace = new_namespace()
        try:
            with self.alone(), Links() as here:
                _raise_loopback(here)
                for kind in (_MANAGEMENT, _VIPS):
                    self._remove(here, plan.link(kind, amphora_id), self._alias(kind, amphora_id))
                self._join(here, _MANAGEMENT, amphora_id, "mgmt", _mac(amphora_id, "management"), namespace)
            return in_namespace(namespace, lambda: self._furnish(address, launch))
        finally:
            os.close(namespace)

    def plug(self, amphora_id: str, pid: int, mac: str) -> None:
        """Give the namespace of that process an interface on the VIPs' network; the agent in it does the rest.

        Raises:
            ProcessLookupError: the process has ended.
        """
        try:
            namespace = namespace_of(pid)
        except FileNotFoundError as error:
            raise ProcessLookupError(error.errno, "its agent has ended") from error
        try:
            with self.alone(), Links() as here:
                self._join(here, _VIPS, amphora_id, f"port{_short(amphora_id)}", mac, namespace)
        finally:
            os.close(namespace)

    def unplug(self, amphora_id: str) -> None:
        """Remove that interface, and the bridge when it was the last. Absent is success."""
        self._clear(amphora_id, (_VIPS,))

    def remove(self, amphora_id: str) -> None:
        """Remove every link of an amphora, and the bridges when they were the last. Absent is success."""
        self._clear(amphora_id, (_VIPS, _MANAGEMENT))

    def links(self) -> Sequence[tuple[str, str]]:
        """(name, whose in words) of every interface on this machine that belongs to this state directory."""
        with Links() as here:
            return [(link.name, link.alias.removeprefix(self.plan.owner).strip()) for link in self._ours(here)]

    def _clear(self, amphora_id: str, kinds: tuple[str, ...]) -> None:
        with self.alone(), Links() as here:
            for kind in kinds:
                self._remove(here, self.plan.link(kind, amphora_id), self._alias(kind, amphora_id))
            masters = {link.master for link in here.all()}
            for kind in kinds:
                bridge = here.find(self.plan.bridge(kind))
                if bridge is not None and bridge.index not in masters:
                    self._remove(here, bridge.name, self._alias(kind))

    # -- inside ----------------------------------------------------------------------------------------------------
    def _join(self, here: Links, kind: str, amphora_id: str, peer: str, mac: str, namespace: int) -> None:
        """A link between a namespace and the bridge of a network. A link that is there stays."""
        master = self._bridge(here, kind)
        name, alias = self.plan.link(kind, amphora_id), self._alias(kind, amphora_id)
        link = self._own(here, name, alias)
        index = link.index if link is not None else here.add_veth(name, master, peer, mac, namespace)
        here.change(index, ifalias=alias, state="up")

    def _bridge(self, here: Links, kind: str) -> int:
        name, alias = self.plan.bridge(kind), self._alias(kind)
        bridge = self._own(here, name, alias)
        if bridge is not None and bridge.up and bridge.alias:
            return bridge.index
        networks = _spoken(self.plan.networks(kind))
        if bridge is None:
            self._check_free(here, networks)
        index = bridge.index if bridge is not None else here.add_bridge(name, _mac(name, self.plan.owner))
        for network in networks:
            here.add_address(index, ipaddress.ip_interface((network[1], network.prefixlen)))
        here.change(index, ifalias=alias, state="up")
        return index

    def _check_free(self, here: Links, wanted: Sequence[Network]) -> None:
        ours = {link.index for link in self._ours(here)}
        for index, used in _used(here):
            for network in wanted:
                if index not in ours and used.version == network.version and used.overlaps(network):
                    option = "namespace_network" if network.version == 4 else "namespace_network_ipv6"
                    raise PermanentError(
                        f"this machine uses {used} already, and local amphorae shall have {network}; "
                        f"give them another network with [local] {option}"
                    )

    def _furnish(self, address: str, launch: Callable[[], T]) -> T:
        """In the new namespace: loopback, the management interface, and a bad way to everywhere; then what runs there."""
        plan = self.plan
        with Links() as inside:
            links = {link.name: link.index for link in inside.all()}
            inside.change(links["lo"], state="up")
            index = links["mgmt"]
            inside.add_address(index, ipaddress.IPv4Interface((address, plan.agents.prefixlen)))
            if ipv6_here():
                inside.add_address(index, plan.management6(address))
            inside.change(index, state="up")
            for network in _spoken(plan.networks(_MANAGEMENT)):
                inside.add_route(index, "default", str(network[1]), metric=_WORSE)
        return launch()

    def _own(self, here: Links, name: str, alias: str) -> Link | None:
        """The interface of that name, if we made it. Without an alias it is ours too: whoever made it was cut short.

        Raises:
            PermanentError: somebody else made it.
        """
        link = here.find(name)
        if link is not None and link.alias not in ("", alias):
            raise PermanentError(f"interface {name} was not made for this ({link.alias!r}); remove or rename it")
        return link

    def _remove(self, here: Links, name: str, alias: str) -> None:
        link = self._own(here, name, alias)
        if link is not None:
            here.delete(link.index)

    def _ours(self, here: Links) -> list[Link]:
        prefix = f"oc{self.plan.tag}"
        return [
            link
            for link in here.all()
            if link.name.startswith(prefix) and (not link.alias or link.alias.startswith(self.plan.owner))
        ]

    def _alias(self, kind: str, amphora_id: str = "") -> str:
        what = "management" if kind == _MANAGEMENT else "VIPs"
        return f"{self.plan.owner} {what}{f' of amphora {amphora_id}' if amphora_id else ''}"

    def alone(self) -> AbstractContextManager[None]:
        """Hold the lock of the links; not to be held twice."""
        return _locked(self._folder, LOCK)


def _raise_loopback(here: Links) -> None:
    """A user namespace that was just entered has its loopback interface down, and nothing works there."""
    loopback = here.find("lo")
    if loopback is not None and not loopback.up:
        here.change(loopback.index, state="up")


def ipv6_here() -> bool:
    """Whether new interfaces of the calling thread's namespace speak IPv6 (sysctl net.ipv6.conf.default.disable_ipv6)."""
    try:
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", encoding="ascii") as file:
            return file.read().strip() == "0"
    except OSError:
        return False


def _spoken(networks: Sequence[Network]) -> Sequence[Network]:
    return [network for network in networks if network.version == 4 or ipv6_here()]


def _used(here: Links) -> list[tuple[int, Network]]:
    """(index of the interface, network) of all that this machine has addresses in, or routes to."""
    return [*((index, address.network) for index, address in here.addresses()), *here.routes()]


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock of the state directory's network folder; it ends with its holder.

    Raises:
        TransientError: another process holds it.
    """
    private_directory(folder)
    fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_WITHIN
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TransientError(f"{folder / name} is held by another process; try again") from None
                time.sleep(0.002)
        yield
    finally:
        os.close(fd)


def _id_of(state: Path) -> str:
    """The random id that a state directory got when it was made; empty for a folder that a program uses as one."""
    try:
        return str(json.loads((state / "state.json").read_bytes())["id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _chosen(state: Path, identity: str) -> str:
    """The /23 that was chosen for this state directory: by its identity, passing over those that are used here."""
    folder = state / "network"
    path = folder / "namespaces.json"
    try:
        with _locked(folder, LOCK):
            try:
                known = json.loads(path.read_bytes())
            except (FileNotFoundError, ValueError):
                known = None
            if isinstance(known, dict) and isinstance(known.get("network"), str):
                return str(known["network"])
            found = _free_network(identity)
            write_private(path, json.dumps({"network": found}).encode())
            return found
    except OSError as error:
        raise as_port_error(error, f"choose a network in {path}") from error


def _free_network(identity: str) -> str:
    with Links() as here:
        used = [network for _, network in _used(here)]
    count = _ALL_NETWORKS.num_addresses // 512
    first = int(identity[:8], 16)
    for attempt in range(count):
        start = _ALL_NETWORKS.network_address + (first + attempt) % count * 512
        network = ipaddress.IPv4Network((start, 23))
        if not any(one.version == 4 and one.overlaps(network) for one in used):
            return str(network)
    raise PermanentError(
        f"all of {_ALL_NETWORKS} is used on this machine; give local amphorae a /23 with [local] namespace_network"
    )


def _unique_local(identity: str) -> str:
    """A unique local /48 (RFC 4193), whose 40 random bits come from the state directory's identity."""
    return str(ipaddress.IPv6Network((int("fd" + identity[8:18] + "0" * 20, 16), 48)))


def _halves(settings: Settings, text: str) -> IPv4Networks:
    where = settings.origin("local.namespace_network")
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ConfigurationError(f"{where}: [local] namespace_network {text!r} is no IPv4 network: {error}") from error
    if network.prefixlen > 27 or network.is_loopback or network.is_multicast or network.is_link_local:
        raise ConfigurationError(
            f"{where}: [local] namespace_network {text} must be a network of 32 addresses or more that nobody here uses,"
            " for example 198.18.4.0/23"
        )
    vips, agents = network.subnets()
    return vips, agents


def _subnets(settings: Settings, text: str) -> IPv6Networks:
    where = settings.origin("local.namespace_network_ipv6")
    try:
        network = ipaddress.IPv6Network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{where}: [local] namespace_network_ipv6 {text!r} is no IPv6 network: {error}"
        ) from error
    if network.prefixlen > 63 or network.is_multicast or network.is_link_local:
        raise ConfigurationError(
            f"{where}: [local] namespace_network_ipv6 {text} must be a /63 or larger that nobody here uses, for example"
            " fd12:3456:789a::/48"
        )
    subnets = network.subnets(new_prefix=64)
    return next(subnets), next(subnets)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _mac(*parts: str) -> str:
    """A locally administered hardware address that the parts decide on (fa:16:3e is Neutron's prefix)."""
    return "fa:16:3e:" + hashlib.sha256("/".join(parts).encode()).digest()[:3].hex(":")
