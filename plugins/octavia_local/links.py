"""Links, addresses and routes of one network namespace, by netlink (pyroute2, an optional extra that is imported late).

A thread belongs to a network namespace, and a netlink socket to that of the thread that made it. So what has to happen in
another namespace runs on a thread of its own, which ends with it (`new_namespace`, `in_namespace`): the rest of the
process never leaves the namespace it was started in.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs

from octavia_core.errors import DriverUnavailable

__all__ = ["Link", "Links", "addresses_of", "in_namespace", "namespace_of", "new_namespace"]

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_IFA_F_NODAD = 0x02  # linux/if_addr.h: no duplicate address detection, which would make an address wait for a second
_RTNH_F_ONLINK = 4  # linux/rtnetlink.h
_RT_TABLE_MAIN = 254

ADVICE = "install it with: pip install 'octavia-core[namespaces]' (or: pip install pyroute2)"


@attrs.frozen
class Link:
    """An interface, as the kernel describes it. `alias` is free text for people, and says who made it."""

    index: int
    name: str
    kind: str
    alias: str
    mac: str
    master: int
    up: bool


class Links:
    """The interfaces of the calling thread's network namespace. For one thread, from its beginning to `close`.

    Every method raises OSError when the kernel refuses.

    Raises:
        DriverUnavailable: pyroute2 is not installed.
    """

    def __init__(self) -> None:
        try:
            from pyroute2 import IPRoute
        except ImportError as error:
            raise DriverUnavailable(f"network namespaces need pyroute2; {ADVICE}") from error
        with _foreign():
            self._ip: Any = IPRoute()

    def close(self) -> None:
        """Give the socket back."""
        self._ip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- looking ---------------------------------------------------------------------------------------------------
    def all(self) -> Sequence[Link]:
        """Every interface."""
        with _foreign():
            return [_link(message) for message in self._ip.get_links()]

    def find(self, name: str) -> Link | None:
        """The interface of that name."""
        return next((link for link in self.all() if link.name == name), None)

    def with_mac(self, mac: str) -> Link | None:
        """The interface of that hardware address, lower case."""
        return next((link for link in self.all() if link.mac == mac), None)

    def addresses(self, index: int | None = None) -> Sequence[tuple[int, Interface]]:
        """(index of the interface, address with its prefix length), of one interface or of all."""
        found: list[tuple[int, Interface]] = []
        with _foreign():
            for message in self._ip.get_addr():
                text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
                if text is not None and index in (None, message["index"]):
                    found.append((message["index"], ipaddress.ip_interface(f"{text}/{message['prefixlen']}")))
        return found

    def routes(self) -> Sequence[tuple[int, Network]]:
        """(index of the interface, destination) of every route of the main table that is no default route."""
        found: list[tuple[int, Network]] = []
        with _foreign():
            for message in self._ip.get_routes(table=_RT_TABLE_MAIN):
                destination, index = message.get("RTA_DST"), message.get("RTA_OIF")
                if destination is not None and index is not None:
                    found.append((index, ipaddress.ip_network(f"{destination}/{message['dst_len']}", strict=False)))
        return found

    # -- making ----------------------------------------------------------------------------------------------------
    def add_bridge(self, name: str, mac: str) -> int:
        """A bridge that forwards at once. A bridge without an address of its own would change it with every port."""
        with _foreign():
            self._ip.link(
                "add", ifname=name, kind="bridge", address=mac, br_forward_delay=0, br_stp_state=0, br_mcast_snooping=0
            )
        return self._index(name)

    def add_veth(self, name: str, master: int, peer: str, mac: str, namespace: int) -> int:
        """A pair of interfaces: `name` on the bridge `master`, and `peer` with that hardware address in a namespace."""
        with _foreign():
            self._ip.link(
                "add",
                ifname=name,
                kind="veth",
                master=master,
                peer={"ifname": peer, "address": mac, "net_ns_fd": namespace},
            )
        return self._index(name)

    def change(self, index: int, **values: Any) -> None:
        """Set `ifname`, `ifalias`, `mtu`, `state` (up, down) of an interface."""
        with _foreign():
            self._ip.link("set", index=index, **values)

    def delete(self, index: int) -> None:
        """Remove an interface, and the other end of a pair. Gone is success."""
        try:
            with _foreign():
                self._ip.link("del", index=index)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def add_address(self, index: int, address: Interface) -> None:
        """Give an interface an address. Repeated, it is success."""
        flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        with _there_already(), _foreign():
            self._ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)

    def remove_address(self, index: int, address: Interface) -> None:
        """Take an address away. Absent is success."""
        try:
            with _foreign():
                self._ip.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise

    def add_route(self, index: int, destination: str, gateway: str, *, metric: int = 0) -> None:
        """A route through a gateway that need not be in a network of the interface. Repeated, it is success.

        Args:
            index: the interface.
            destination: a network, or `default`.
            gateway: its address.
            metric: of two routes the smaller one counts; 0 is the kernel's own.
        """
        family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
        more = {"priority": metric} if metric else {}
        with _there_already(), _foreign():
            self._ip.route(
                "add", family=family, dst=destination, gateway=gateway, oif=index, flags=_RTNH_F_ONLINK, **more
            )

    def _index(self, name: str) -> int:
        found = self._ip.link_lookup(ifname=name)
        if not found:
            raise OSError(errno.ENODEV, f"interface {name} vanished while it was being made")
        return int(found[0])


def new_namespace() -> int:
    """A descriptor of a new, empty network namespace. It ends with the last descriptor and the last process in it.

    Raises:
        OSError: this process may not make one.
    """

    def make() -> int:
        _call("unshare", _CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _on_a_thread(make)


def namespace_of(pid: int) -> int:
    """A descriptor of the network namespace of a process.

    Raises:
        OSError: it has ended.
    """
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def addresses_of(pid: int) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses that the network namespace of a process has on interfaces that are up; empty when it has ended.

    Read from /proc (net/fib_trie, whose leaves "host LOCAL" follow their address, net/route, and net/if_inet6; proc(5)), which
    costs less than going there. IPv4 addresses stay when their interface is set down, and the network goes that they are in.
    """
    found: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/net/fib_trie", encoding="ascii") as file:
            leaf = ""
            for line in file:
                words = line.split()
                if words[0] == "|--":
                    leaf = words[1]
                elif words[0] == "/32" and words[1:] == ["host", "LOCAL"]:
                    found.add(ipaddress.IPv4Address(leaf))
        networks = _connected(pid)
        found = {address for address in found if any(address in network for network in networks)}
        with open(f"/proc/{pid}/net/if_inet6", encoding="ascii") as file:
            found |= {ipaddress.IPv6Address(int(line.split()[0], 16)) for line in file}
    return found


def _connected(pid: int) -> list[ipaddress.IPv4Network]:
    """The networks that are reached without a gateway. Numbers are in the machine's order of bytes, which is the network's backwards."""
    found = []
    with open(f"/proc/{pid}/net/route", encoding="ascii") as file:
        for line in file.readlines()[1:]:
            _, destination, gateway, _, _, _, _, mask, *_ = line.split()
            if int(gateway, 16) == 0:
                start, length = (int.from_bytes(bytes.fromhex(each), sys.byteorder) for each in (destination, mask))
                found.append(ipaddress.IPv4Network((start, length.bit_count())))
    return found


def in_namespace(namespace: int, do: Callable[[], T]) -> T:
    """Run something there, on a thread of its own; processes that it starts stay there."""

    def enter() -> T:
        _call("setns", namespace, _CLONE_NEWNET)
        return do()

    return _on_a_thread(enter)


def _on_a_thread(do: Callable[[], T]) -> T:
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(do())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
            failure.append(error)

    thread = threading.Thread(target=run, name="octavia-local-namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _call(name: str, *arguments: int) -> None:
    """A call of the C library that Python has from 3.12 on only."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@contextlib.contextmanager
def _foreign() -> Iterator[None]:
    """Errors of netlink are errors of the operating system."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


@contextlib.contextmanager
def _there_already() -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        return


def _link(message: Any) -> Link:
    return Link(
        index=message["index"],
        name=message.get("IFLA_IFNAME") or "",
        kind=message.get(("linkinfo", "kind")) or "",
        alias=message.get("IFLA_IFALIAS") or "",
        mac=message.get("IFLA_ADDRESS") or "",
        master=message.get("IFLA_MASTER") or 0,
        up=bool(message["flags"] & 1),  # IFF_UP
    )
