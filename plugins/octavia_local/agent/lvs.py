"""keepalived's configuration of a UDP or SCTP listener, understood: pure, text in, values out.

The controller sends what an upstream amphora's keepalived would run (haproxy-config reference, part C), and gets exactly
those bytes back. Here it is read, and served by other means: nginx on loopback, nftables in a network namespace.

keepalived has no word for the networks whose clients are let in (a security group does it there), so controllers that know
this agent name them in comments: `# Allowed network 10.0.0.0/8`, one a line.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from octavia_local.agent.sockets import Bind
from octavia_local.agent.wire import Refusal

__all__ = ["Check", "Group", "Real", "Service", "read_service"]

_CONFIGURED = re.compile(r"\s*# Configuration for (\w+) (\S+)\s*$")
_DISABLED = re.compile(r"\s*# (\w+) (\S+) is disabled\s*$")
_ALLOWED = re.compile(r"\s*# Allowed network (\S+)\s*$")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")
_SCRIPT = re.compile(r'"?\S*/udp_check\.sh (\S+) (\d+)"?\Z')
_SCTP = re.compile(r'"?amphora-health-checker sctp -t (\d+) (\S+) (\d+)"?\Z')
_DEEPEST = 6


class Check(NamedTuple):
    """How a member is checked.

    Attributes:
        kind: UDP-CONNECT, TCP, HTTP or SCTP.
        address, port: what is asked, which need not be where the member serves.
        timeout: seconds.
        delay: seconds between two checks.
        fall: how many in a row have to fail.
        path, codes: of HTTP: what is got, and which answers are good.
    """

    kind: str
    address: str
    port: int
    timeout: float
    delay: float
    fall: int
    path: str = "/"
    codes: frozenset[int] = frozenset({200})


class Real(NamedTuple):
    """A member. `limit` is the most connections it takes, 0 for any number."""

    id: str
    address: str
    port: int
    weight: int
    limit: int = 0
    check: Check | None = None


class Group(NamedTuple):
    """What is served of one address family.

    Attributes:
        binds: VIPs with their port.
        algorithm: wrr, lc or sh.
        persistence: seconds that a client stays with its member after its last datagram; 0: it need not.
        prefix: how many bits of its address make a client.
        reals: enabled members, in their order.
    """

    binds: tuple[Bind, ...]
    algorithm: str
    persistence: int
    prefix: int
    reals: tuple[Real, ...]


class Service(NamedTuple):
    """A listener.

    Attributes:
        listener: its id.
        enabled: False: nothing is served, and nothing reported.
        protocol: UDP or SCTP.
        pool: id of the default pool; empty without one, or while that is disabled.
        groups: by address family; none without a default pool.
        disabled: ids of disabled members.
        allowed: networks of clients that are served; none named: all are.
    """

    listener: str
    enabled: bool
    protocol: str
    pool: str
    groups: tuple[Group, ...]
    disabled: tuple[str, ...]
    allowed: tuple[IPv4Network | IPv6Network, ...] = ()

    @property
    def binds(self) -> tuple[Bind, ...]:
        """Where it wants to be reached."""
        return tuple(bind for group in self.groups for bind in group.binds)

    @property
    def reals(self) -> tuple[Real, ...]:
        """All enabled members."""
        return tuple(real for group in self.groups for real in group.reals)


class _Line(NamedTuple):
    """One line; a block has lines of its own."""

    number: int
    words: tuple[str, ...]
    rest: str
    inside: tuple[_Line, ...] | None = None

    def of(self, name: str) -> str:
        """The value of a keyword in this block; empty when it is not there."""
        return next((line.rest for line in self.inside or () if line.words[0] == name), "")

    def blocks(self, name: str) -> Iterator[_Line]:
        return (line for line in self.inside or () if line.words[0] == name and line.inside is not None)

    def whole(self, name: str, default: int, *, low: int = 0, high: int = 2**31 - 1) -> int:
        text = self.of(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise _wrong(self.number, f"{name} {text!r} is no number from {low} to {high}")
        return int(text)


def read_service(text: str, listener: str) -> Service:
    """Understand a file.

    Args:
        text: as it was uploaded.
        listener: the id it was uploaded for.

    Raises:
        Refusal: 400, it cannot be read; the details name the line.
    """
    comments: list[tuple[str, str, bool]] = []
    allowed: list[IPv4Network | IPv6Network] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        if network := _ALLOWED.match(raw):
            allowed.append(_network(number, network[1]))
        for pattern, enabled in ((_CONFIGURED, True), (_DISABLED, False)):
            found = pattern.match(raw)
            if found and not _ID.match(found[2]):
                raise Refusal(400, "Invalid request", f"{found[2][:80]!r} is not the id of a {found[1].lower()}")
            if found:
                comments.append((found[1], found[2], enabled))
    lines = _block(_lines(text), 0)
    members = [(id, enabled) for kind, id, enabled in comments if kind == "Member"]
    groups = tuple(_groups(lines, iter([id for id, enabled in members if enabled])))
    protocols = {group_protocol for _, group_protocol in groups}
    if len(protocols) > 1:
        raise Refusal(400, "Invalid request", "one listener speaks one protocol")
    return Service(
        listener=listener,
        enabled=all(enabled for kind, _, enabled in comments if kind == "Listener"),
        protocol=next(iter(protocols), "UDP"),
        pool=next((id for kind, id, enabled in comments if kind == "Pool" and enabled), ""),
        groups=tuple(group for group, _ in groups),
        disabled=tuple(dict.fromkeys(id for id, enabled in members if not enabled)),
        allowed=tuple(allowed),
    )


def _wrong(number: int, why: str) -> Refusal:
    return Refusal(400, "Invalid request", f"line {number}: {why}")


def _lines(text: str) -> Iterator[_Line]:
    for number, raw in enumerate(text.splitlines(), start=1):
        stripped = raw.strip()
        if stripped and stripped[0] not in "#!":
            words = tuple(stripped.split())
            yield _Line(number, words, stripped[len(words[0]) :].strip())


def _block(lines: Iterator[_Line], depth: int) -> tuple[_Line, ...]:
    """The lines up to the end of this block, or of the file."""
    if depth > _DEEPEST:
        raise Refusal(400, "Invalid request", "blocks are nested too deeply")
    found: list[_Line] = []
    for line in lines:
        if line.words == ("}",):
            if not depth:
                raise _wrong(line.number, "a block ends that did not begin")
            return tuple(found)
        if line.words[-1] == "{":
            inside = _block(lines, depth + 1)
            line = _Line(line.number, line.words[:-1] or ("",), line.rest[:-1].strip(), inside)  # noqa: PLW2901 - its better self
        found.append(line)
    if depth:
        raise Refusal(400, "Invalid request", "a block does not end")
    return tuple(found)


def _groups(lines: tuple[_Line, ...], ids: Iterator[str]) -> Iterator[tuple[Group, str]]:
    binds = {}
    for line in lines:
        if line.words[0] == "virtual_server_group" and line.inside is not None and len(line.words) > 1:
            binds[line.words[1]] = tuple(_bind(place) for place in line.inside)
    for line in lines:
        if line.words[0] != "virtual_server":
            continue
        if line.words[1:2] != ("group",) or line.words[2:3] == () or line.words[2] not in binds:
            raise _wrong(line.number, "a virtual server needs a group of addresses that is there")
        found = binds[line.words[2]]
        if not found:
            raise _wrong(line.number, "a group of addresses is empty")
        protocol, algorithm = line.of("protocol"), line.of("lb_algo")
        if protocol not in ("UDP", "SCTP"):
            raise _wrong(line.number, f"protocol {protocol!r} is neither UDP nor SCTP")
        delay, fall = line.whole("delay_loop", 60, low=1), line.whole("retry", 1, low=1, high=100)
        reals = tuple(_real(block, ids, delay, fall) for block in line.blocks("real_server"))
        wide = ipaddress.ip_address(found[0].host).max_prefixlen
        group = Group(
            binds=found,
            algorithm=algorithm if algorithm in ("lc", "sh") else "wrr",
            persistence=line.whole("persistence_timeout", 0),
            prefix=_prefix(line, wide),
            reals=reals,
        )
        yield group, protocol


def _prefix(line: _Line, wide: int) -> int:
    text = line.of("persistence_granularity")
    if not text:
        return wide
    try:
        return int(text) if wide > 32 else ipaddress.IPv4Network(f"0.0.0.0/{text}").prefixlen
    except ValueError:
        raise _wrong(line.number, f"persistence_granularity {text!r} is neither a mask nor a length") from None


def _bind(line: _Line) -> Bind:
    return Bind(_address(line.number, line.words[0]), _port(line.number, line.rest))


def _real(block: _Line, ids: Iterator[str], delay: int, fall: int) -> Real:
    """The comments of members stand in the order of the real servers; so upstream's agent tells who is who."""
    if len(block.words) != 3:
        raise _wrong(block.number, "a real server has an address and a port")
    id = next(ids, "")
    if not id:
        raise _wrong(block.number, "no comment says which member this is")
    return Real(
        id=id,
        address=_address(block.number, block.words[1]),
        port=_port(block.number, block.words[2]),
        weight=block.whole("weight", 1, high=65535),
        limit=block.whole("uthreshold", 0),
        check=next(_checks(block, delay, fall), None),
    )


def _checks(block: _Line, delay: int, fall: int) -> Iterator[Check]:
    for kind, keyword in (("TCP", "TCP_CHECK"), ("HTTP", "HTTP_GET"), ("", "MISC_CHECK")):
        for check in block.blocks(keyword):
            if kind:
                urls = list(check.blocks("url"))
                codes = {url.whole("status_code", 200, low=100, high=999) for url in urls}
                path = next((url.of("path") for url in urls if url.of("path")), "/")
                yield Check(
                    kind,
                    _address(check.number, check.of("connect_ip") or block.words[1]),
                    _port(check.number, check.of("connect_port") or block.words[2]),
                    check.whole("connect_timeout", 5, low=1),
                    delay,
                    fall,
                    path,
                    frozenset(codes or {200}),
                )
            else:
                yield _script(check, delay, fall)


def _script(check: _Line, delay: int, fall: int) -> Check:
    """Scripts are never run here: the two that upstream's image brings are done by the agent itself."""
    path, timeout = check.of("misc_path"), check.whole("misc_timeout", 5, low=1)
    if script := _SCRIPT.match(path):
        kind, place = "UDP-CONNECT", script.groups()
    elif script := _SCTP.match(path):
        kind, timeout, place = "SCTP", int(script[1]), script.groups()[1:]
    else:
        raise _wrong(check.number, "only the checks of UDP and SCTP that an amphora brings are known here")
    address, port = _address(check.number, place[0]), _port(check.number, place[1])
    return Check(kind, address, port, timeout, delay, fall)


def _address(number: int, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise _wrong(number, f"{text[:60]!r} is not an IP address") from None


def _network(number: int, text: str) -> IPv4Network | IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise _wrong(number, f"{text[:60]!r} is not a network") from None


def _port(number: int, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 65536:
        raise _wrong(number, f"{text[:20]!r} is not a port")
    return int(text)
