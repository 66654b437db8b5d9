"""UDP and SCTP in a network namespace: rules of nftables that send a client's datagrams on to a member (DNAT).

One table for each listener, one chain for each member; all rules of a listener change in one transaction. A connection is a
client's address and port, kept by the kernel (conntrack) until it was idle for 30 seconds, or 120 once it was answered. Those
of a member that went down or away are forgotten, so their clients get another; those of a member with weight 0 go on.

Members see the amphora's address as the sender, as with upstream's amphora, and answer through it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from math import gcd
from typing import Any, NamedTuple

from octavia_local.agent.checks import has_sctp
from octavia_local.agent.lvs import Group, Real, Service
from octavia_local.agent.own import OWN, is_own
from octavia_local.agent.root import Root, log
from octavia_local.agent.sockets import Bind
from octavia_local.agent.supervisor import Spawn, Supervisor
from octavia_local.agent.wire import Refusal

__all__ = ["Marks", "Nft", "removal", "rules"]

_WITHIN = 10.0
_COUNTED_WITHIN = 0.5
"""Heartbeats wait for it: one that takes longer is asked again later, and what it said before stands."""
_MEMBERS = 0xFFFF
"""The lower half of a connection's mark is the member's, the upper the listener's."""
_GONE = "No such file or directory"
"""What nft says of a table that is not there."""
_GUARD = """\
add table inet octavia_guard
flush table inet octavia_guard
table inet octavia_guard {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct status dnat accept
    }
}
"""
"""An amphora forwards for its listeners, and is no router for anybody else."""
_SWITCHES = {4: ("ipv4/ip_forward", "1"), 6: ("ipv6/conf/all/forwarding", "1")}
_NO_REDIRECTS = ("ipv4/conf/all/send_redirects", "ipv4/conf/default/send_redirects", "ipv4/conf/eth1/send_redirects")


class Marks:
    """Numbers of listeners and members, the same for as long as the agent lives."""

    def __init__(self) -> None:
        self._listeners: dict[str, int] = {}
        self._members: dict[tuple[str, str], int] = {}

    def listener(self, id: str) -> int:
        """The upper half of the marks of its connections."""
        return self._listeners.setdefault(id, len(self._listeners) % _MEMBERS + 1)

    def member(self, listener: str, id: str) -> int:
        """The mark of a member's connections."""
        mine = sum(1 for known, _ in self._members if known == listener)
        return self._members.setdefault((listener, id), (self.listener(listener) << 16) + mine % _MEMBERS + 1)


def table(listener: str) -> str:
    """The name of a listener's table."""
    return "octavia_" + "".join(letter if letter.isalnum() else "_" for letter in listener)


def removal(listener: str) -> str:
    """Rules away, whether they are there or not."""
    return f"add table inet {table(listener)}\ndelete table inet {table(listener)}\n"


def rules(service: Service, usable: Collection[str], marks: Marks, gone: Collection[str] = ()) -> str:
    """The text for `nft -f`; repeated, it changes nothing.

    Args:
        service: what is served.
        usable: members that get traffic: up, or not looked at yet.
        marks: numbers.
        gone: members whose chains an earlier text made.
    """
    name = table(service.listener)
    protocol = service.protocol.lower()
    lines = [f"add table inet {name}", f"flush table inet {name}"]
    for id in gone:
        mark = marks.member(service.listener, id)
        lines += [f"delete chain inet {name} member_{mark}", f"delete set inet {name} clients_{mark}"]
    lines += [f"table inet {name} {{"]
    lines += [f"    counter {counter} {{ }}" for counter in ("connections", "received", "sent")]
    for group in service.groups:
        lines += [f"    {line}" for real in group.reals for line in _member(service, group, real, marks)]
    for number, group in enumerate(service.groups):
        lines += [f"    {line}" for line in _choice(number, service, group, usable, marks)]
    lines += ["    chain arriving {", "        type nat hook prerouting priority dstnat; policy accept;"]
    for number, group in enumerate(service.groups):
        lines += [
            f"        {_ip(bind)} daddr {bind.host} {protocol} dport {bind.port} goto choice_{number}"
            for bind in group.binds
        ]
    lines += ["    }", "    chain refusing {", "        type filter hook prerouting priority raw; policy accept;"]
    lines += [f"        {line}" for group in service.groups for line in _refused(service, group)]
    lines += ["    }", "    chain counting {", "        type filter hook forward priority filter + 10; policy accept;"]
    ours = f"ct mark and 0xffff0000 == {hex(marks.listener(service.listener) << 16)}"
    lines += [
        f"        {ours} ct direction original counter name received",
        f"        {ours} ct direction reply counter name sent",
    ]
    lines += ["    }", "    chain leaving {", "        type nat hook postrouting priority srcnat; policy accept;"]
    lines += [f"        {ours} masquerade", "    }", "}", ""]
    return "\n".join(lines)


def _ip(bind: Bind | Real) -> str:
    return "ip6" if ":" in (bind.host if isinstance(bind, Bind) else bind.address) else "ip"


def _refused(service: Service, group: Group) -> Iterator[str]:
    """Drop every packet of clients that are not let in, those of known connections as well."""
    if not service.allowed:
        return
    for bind in group.binds:
        networks = _apart(service, v6=_ip(bind) == "ip6")
        if any(network.endswith("/0") for network in networks):
            continue
        others = f"{_ip(bind)} saddr != {{ {', '.join(networks)} }} " if networks else ""
        place = f"{_ip(bind)} daddr {bind.host} {service.protocol.lower()} dport {bind.port}"
        yield f"{place} {others}drop"


def _apart(service: Service, *, v6: bool) -> list[str]:
    """The networks of one family that are let in; nft takes none in a set that overlap."""
    from ipaddress import IPv4Network, IPv6Network, collapse_addresses

    if v6:
        return [str(one) for one in collapse_addresses(n for n in service.allowed if isinstance(n, IPv6Network))]
    return [str(one) for one in collapse_addresses(n for n in service.allowed if isinstance(n, IPv4Network))]


def _client(group: Group) -> str:
    """What makes a client: its address, or the beginning of it."""
    v6 = ":" in group.binds[0].host
    wide = 128 if v6 else 32
    whole = "ip6 saddr" if v6 else "ip saddr"
    if group.prefix >= wide:
        return whole
    import ipaddress

    zero = "::" if v6 else "0.0.0.0"  # noqa: S104 - a mask, not a place to listen
    return f"{whole} and {ipaddress.ip_network(f'{zero}/{group.prefix}').netmask}"


def _member(service: Service, group: Group, real: Real, marks: Marks) -> Iterator[str]:
    """The set of clients that stay with it, and the chain that sends a new connection to it."""
    mark, kind = marks.member(service.listener, real.id), "ipv6_addr" if _ip(real) == "ip6" else "ipv4_addr"
    yield f"set clients_{mark} {{ type {kind}; size 65536; flags dynamic,timeout; timeout {group.persistence or 1}s; }}"
    yield f"chain member_{mark} {{"
    yield "    counter name connections"
    if group.persistence:
        yield f"    update @clients_{mark} {{ {_client(group)} timeout {group.persistence}s }}"
    yield f"    ct mark set {hex(mark)}"
    place = f"[{real.address}]:{real.port}" if ":" in real.address else f"{real.address}:{real.port}"
    yield f"    meta l4proto {service.protocol.lower()} dnat {_ip(real)} to {place}"
    yield "}"


def _choice(number: int, service: Service, group: Group, usable: Collection[str], marks: Marks) -> Iterator[str]:
    """Which member a new connection gets."""
    able = [real for real in group.reals if real.id in usable and real.weight > 0]
    chain = {real.id: f"member_{marks.member(service.listener, real.id)}" for real in able}
    yield f"chain choice_{number} {{"
    if group.persistence:
        for real in able:
            yield f"    {_client(group)} @clients_{marks.member(service.listener, real.id)} goto {chain[real.id]}"
    if able:
        shares = _shares(able)
        total = sum(shares)
        how = (
            f"jhash {_client(group)} mod {total} seed 0x0c7a" if group.algorithm == "sh" else f"numgen inc mod {total}"
        )
        entries, low = [], 0
        for real, share in zip(able, shares, strict=True):
            entries.append(
                f"{low} : goto {chain[real.id]}" if share == 1 else f"{low}-{low + share - 1} : goto {chain[real.id]}"
            )
            low += share
        yield f"    {how} vmap {{ {', '.join(entries)} }}"
    yield "    drop"
    yield "}"


def _shares(reals: Sequence[Real]) -> list[int]:
    divisor = reduce(gcd, (real.weight for real in reals))
    return [real.weight // divisor for real in reals]


class _Seen(NamedTuple):
    """What the kernel counted, and when it was asked."""

    when: float
    counters: dict[str, int]


class Nft:
    """Serves one listener. Its methods may be called from any thread but the main one, one at a time.

    Args:
        program: absolute path of nft.
        supervisor: starts it.
        root: the amphora's file system.
        home: a folder of the image for this listener alone.
        marks: numbers, one for all listeners of the agent.
        every: seconds for which an answer about counters is used again.
    """

    processes = 0

    def __init__(self, program: str, supervisor: Supervisor, root: Root, home: str, marks: Marks, every: float) -> None:
        self._program, self._supervisor, self._folder = program, supervisor, root.inside(home)
        self._marks, self._every = marks, every
        self._listener, self._text = "", ""
        self._there: dict[str, Real] = {}
        self._able: frozenset[str] = frozenset()
        self._service: Service | None = None
        self._seen = _Seen(-1e9, {})

    def hold(self, service: Service) -> list[Bind]:
        """See whether it can be served; nothing has to be held, since nobody else is in this namespace.

        Raises:
            Refusal: 400, it cannot.
        """
        if service.protocol == "SCTP" and not has_sctp():
            raise Refusal(400, "Invalid request", "SCTP cannot be served here: this kernel has none (CONFIG_IP_SCTP)")
        for real in service.reals:
            if is_own(real.address):
                raise Refusal(400, "Invalid request", OWN.format(f"{real.address}:{real.port}"))
            if real.check is not None and is_own(real.check.address):
                raise Refusal(400, "Invalid request", OWN.format(f"{real.check.address}:{real.check.port}"))
        return []

    def release(self, binds: Collection[Bind]) -> None:
        """See `hold`."""

    def apply(self, service: Service, usable: Collection[str]) -> None:
        """Serve it like this.

        Raises:
            Refusal: nft does not take it; what was served, is.
        """
        self.hold(service)
        reals = {real.id: real for real in service.reals}
        moved = [id for id, real in self._there.items() if id in reals and _place(reals[id]) != _place(real)]
        text = rules(service, usable, self._marks, [id for id in self._there if id not in reals])
        if text != self._text:
            self._change(service, usable, text)
            self._listener, self._text = service.listener, text
        able = frozenset(id for id in reals if id in usable)
        for id in [*moved, *(self._able - able)]:
            self._forget(self._marks.member(service.listener, id))
        self._there, self._able, self._service = reals, able, service

    def stop(self) -> None:
        """Serve it no more; not served is fine."""
        if self._listener:
            self._run(removal(self._listener))
            for id in self._there:
                self._forget(self._marks.member(self._listener, id))
        self._listener, self._text, self._there, self._able = "", "", {}, frozenset()

    def delete(self) -> None:
        """Forget everything."""
        from octavia_local.agent.generation import remove_tree

        self.stop()
        remove_tree(self._folder)

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return bool(self._listener)

    def counters(self) -> dict[str, int]:
        """Connections and bytes since it was started, and the connections of now."""
        if time.monotonic() - self._seen.when >= self._every:
            self._seen = _Seen(time.monotonic(), self._count())
        return self._seen.counters

    # -- inside ----------------------------------------------------------------------------------------------------
    def _change(self, service: Service, usable: Collection[str], text: str) -> None:
        try:
            self._run(self._switch_on(service) + text)
        except Refusal:
            if not self._text:
                raise
            # a set of clients cannot change its timeout: everything anew
            self._run(removal(service.listener) + rules(service, usable, self._marks))

    def _count(self) -> dict[str, int]:
        found: dict[str, Any] = {}
        try:
            said = self._nft("-j", "list", "counters", "table", "inet", table(self._listener), within=_COUNTED_WITHIN)
            for entry in json.loads(said).get("nftables", ()):
                counter = entry.get("counter")
                if isinstance(counter, dict):
                    found[str(counter.get("name"))] = counter
        except (Refusal, ValueError) as error:
            if isinstance(error, Refusal) and _GONE in str(error.details):
                self._put_back()
            else:
                log(f"listener {self._listener}: its counters cannot be read: {error}")
            return self._seen.counters or dict.fromkeys(("scur", "stot", "bin", "bout", "ereq"), 0)
        return {
            "scur": self._connections(),
            "stot": int(found.get("connections", {}).get("packets", 0)),
            "bin": int(found.get("received", {}).get("bytes", 0)),
            "bout": int(found.get("sent", {}).get("bytes", 0)),
            "ereq": 0,
        }

    def _put_back(self) -> None:
        """Somebody has taken the rules away: make them anew. Counters begin at zero."""
        service, able = self._service, self._able
        if service is None:
            return
        log(f"listener {self._listener}: its rules were taken away, and are put back")
        self._text, self._there, self._able = "", {}, frozenset()
        try:
            self.apply(service, able)
        except Refusal as refusal:
            log(f"listener {self._listener}: its rules cannot be put back: {refusal.details}")

    def _connections(self) -> int:
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

        mark = self._marks.listener(self._listener) << 16
        try:
            with NFCTSocket() as conntrack:
                return sum(1 for _ in conntrack.dump(mark=mark, mark_mask=0xFFFF0000))
        except (NetlinkError, OSError):
            return 0

    def _forget(self, mark: int) -> None:
        """Let the clients of a member's connections be sent to another one."""
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

        try:
            with NFCTSocket() as conntrack:
                conntrack.flush(mark=mark, mark_mask=0xFFFFFFFF)
        except (NetlinkError, OSError) as error:
            log(f"listener {self._listener}: connections of a member that is out cannot be forgotten: {error}")

    def _switch_on(self, service: Service) -> str:
        """What has to be there before the first rules: forwarding, for these alone."""
        if self._text:
            return ""
        versions = {6 if ":" in bind.host else 4 for bind in service.binds}
        for path, value in [_SWITCHES[version] for version in sorted(versions)] + [
            (path, "0") for path in _NO_REDIRECTS
        ]:
            try:
                with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
                    file.write(value)
            except FileNotFoundError:
                continue  # an interface that has not come yet
            except OSError as error:
                raise Refusal(500, "Error starting nftables", f"net/{path} cannot be set: {error.strerror}") from error
        return _GUARD + removal(service.listener)

    def _run(self, text: str) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        from octavia_local.agent.root import write_atomically

        write_atomically(f"{self._folder}/rules.nft", text.encode())
        self._nft("-f", "rules.nft")

    def _nft(self, *words: str, within: float = _WITHIN) -> str:
        name = f"{self._folder}/output-{threading.get_ident()}"
        output = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            child = self._supervisor.spawn(Spawn([self._program, *words], self._folder, output))
            status = child.wait(within)
            if status is None:
                child.signal(signal.SIGKILL)
            said = os.pread(output, 1024 * 1024, 0).decode("utf-8", "replace")
        finally:
            os.close(output)
            os.unlink(name)
        if status != 0:
            raise Refusal(500, "Error starting nftables", said[-2000:].strip() or f"nft ended with status {status}")
        return said


def _place(real: Real) -> tuple[str, int]:
    return real.address, real.port
