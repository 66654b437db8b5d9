"""keepalived's configuration of one UDP or SCTP listener: virtual servers of the kernel (LVS), in the amphora's namespace.

The agent reads these files with regular expressions (agent API 6): the comment lines that name objects, the line
`net_namespace`, virtual server groups at the beginning of a line, and the comments of members in the order of their real
servers. Words are checked one by one, as in `render.keepalived`; a user's text can never be in them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import attrs

from octavia_core.domain.tree import HealthMonitor, Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Algorithm, ListenerProtocol, MonitorType, PersistenceType
from octavia_core.settings import Settings
from octavia_haproxy.render import check
from octavia_haproxy.render.model import alive

__all__ = ["NAMESPACE", "configure_lvs", "lvs_listeners", "out_of_reach"]

NAMESPACE = "amphora-haproxy"
"""The amphora's network namespace; upstream's constant."""

_ALGORITHMS = {Algorithm.LEAST_CONNECTIONS: "lc", Algorithm.SOURCE_IP: "sh"}
_PROTOCOLS = (ListenerProtocol.UDP, ListenerProtocol.SCTP)
_LONGEST_PERSISTENCE = 360
"""Seconds that a client stays with its member where nothing else is said, as upstream."""
_INDENT = "    "
_FAMILIES = (4, 6)


@attrs.frozen
class _Family:
    """What is served of one address family: its VIPs, and the members it can reach."""

    version: int
    vips: tuple[str, ...]

    @property
    def group(self) -> str:
        return f"ipv{self.version}-group"


def lvs_listeners(load_balancer: LoadBalancer) -> tuple[Listener, ...]:
    """Listeners that are served by LVS, enabled or not, being deleted left out."""
    return tuple(each for each in load_balancer.listeners if each.protocol in _PROTOCOLS and alive(each))


def out_of_reach(load_balancer: LoadBalancer, listener: Listener) -> tuple[Member, ...]:
    """Members that cannot be served, since no VIP is of their address family: datagrams do not change theirs on the way."""
    pool = load_balancer.pool(listener.default_pool_id)
    if pool is None or not (alive(pool) and pool.enabled and listener.enabled and load_balancer.enabled):
        return ()
    known = {family.version for family in _families(load_balancer)}
    usable = (member for member in pool.members if alive(member) and member.enabled)
    return tuple(member for member in usable if ipaddress.ip_address(_address(member)).version not in known)


def configure_lvs(load_balancer: LoadBalancer, listener: Listener, settings: Settings, *, filters: bool = False) -> str:
    """The whole file of one listener. The same arguments give the same bytes.

    Args:
        load_balancer: its VIPs and pools.
        listener: what is served.
        settings: the amphora's base path.
        filters: whether the amphora itself lets in only the listener's networks of clients; then they are named in
            comments, since keepalived has no word for them. Elsewhere a security group does it.

    Raises:
        PermanentError: something is missing or cannot be written; the message names the object and field.
    """
    lb, id = check.identifier("load balancer", load_balancer.id), check.identifier("listener", listener.id)
    lines = [f"# Configuration for Loadbalancer {lb}"]
    served = listener.enabled and load_balancer.enabled  # what is below a disabled load balancer is not reported either
    lines.append(f"# Configuration for Listener {id}" if served else f"# Listener {id} is disabled")
    if filters and served:
        owner = f"listener {id}"
        networks = sorted({check.network(owner, "allowed_cidrs", cidr) for cidr in listener.allowed_cidrs})
        lines += [f"# Allowed network {network}" for network in networks]
    lines += ["", f"net_namespace {NAMESPACE}"]
    pool = load_balancer.pool(listener.default_pool_id)
    if pool is not None and alive(pool) and served:
        for family in _families(load_balancer):
            lines += ["", *_group(family, listener), "", *_server(family, listener, pool, settings)]
    return "\n".join(lines) + "\n"


def _families(load_balancer: LoadBalancer) -> Iterator[_Family]:
    """IPv4 and then IPv6, each if it has a VIP: the first VIP, then the others by their text."""
    more = sorted(vip.ip_address for vip in load_balancer.additional_vips if vip.ip_address)
    owner = f"load balancer {load_balancer.id}"
    vips = [check.address(owner, "VIP", vip) for vip in (load_balancer.vip.ip_address, *more)]
    for version in _FAMILIES:
        found = tuple(vip for vip in vips if ipaddress.ip_address(vip).version == version)
        if found:
            yield _Family(version, found)


def _group(family: _Family, listener: Listener) -> Iterator[str]:
    port = check.number(f"listener {listener.id}", "protocol_port", listener.protocol_port, low=1, high=65535)
    yield f"virtual_server_group {family.group} {{"
    yield from (f"{_INDENT}{vip} {port}" for vip in family.vips)
    yield "}"


def _server(family: _Family, listener: Listener, pool: Pool, settings: Settings) -> Iterator[str]:
    yield f"virtual_server group {family.group} {{"
    yield from (_INDENT + line if line else "" for line in _inside(family, listener, pool, settings))
    yield "}"


def _inside(family: _Family, listener: Listener, pool: Pool, settings: Settings) -> Iterator[str]:
    yield f"lb_algo {_ALGORITHMS.get(pool.lb_algorithm, 'wrr')}"
    yield "lb_kind NAT"
    yield f"protocol {listener.protocol}"
    yield from _persistence(family, pool)
    monitor = pool.health_monitor
    if monitor is not None and not (monitor.enabled and alive(monitor)):
        monitor = None
    if monitor is not None:
        owner = f"health monitor {monitor.id}"
        delay = check.number(owner, "delay", monitor.delay, low=1, high=2**31 - 1)
        yield f"delay_loop {delay}"
        yield f"delay_before_retry {delay}"
        yield f"retry {check.number(owner, 'max_retries_down', monitor.max_retries_down, low=1, high=10)}"
    yield ""
    id = check.identifier("pool", pool.id)
    if not pool.enabled:
        yield f"# Pool {id} is disabled"
        return
    yield f"# Configuration for Pool {id}"
    if monitor is not None:
        yield f"# Configuration for HealthMonitor {check.identifier('health monitor', monitor.id)}"
    for member in pool.members:
        if alive(member) and ipaddress.ip_address(_address(member)).version == family.version:
            yield from _member(member, listener, monitor, settings)


def _persistence(family: _Family, pool: Pool) -> Iterator[str]:
    session = pool.session_persistence
    if session is None or session.type is not PersistenceType.SOURCE_IP:
        return
    owner, most = f"pool {pool.id}", 365 * 86_400
    timeout = session.persistence_timeout or _LONGEST_PERSISTENCE
    yield f"persistence_timeout {check.number(owner, 'persistence_timeout', timeout, low=1, high=most)}"
    yield f"persistence_granularity {_granularity(owner, family, session.persistence_granularity)}"


def _granularity(owner: str, family: _Family, said: str | None) -> str:
    """A mask for IPv4, the length of a prefix for IPv6; what is said for the other family does not count here."""
    whole = "255.255.255.255" if family.version == 4 else "128"
    if not said:
        return whole
    if said.isascii() and said.isdigit():
        length = check.number(owner, "persistence_granularity", said, low=1, high=128)
        return length if family.version == 6 else whole
    mask = check.address(owner, "persistence_granularity", said)
    if ":" in mask:
        raise check.refuse(owner, "persistence_granularity", f"{said!r} is neither a mask nor the length of a prefix")
    return mask if family.version == 4 else whole


def _address(member: Member) -> str:
    return check.address(f"member {member.id}", "address", member.address)


def _member(member: Member, listener: Listener, monitor: HealthMonitor | None, settings: Settings) -> Iterator[str]:
    id = check.identifier("member", member.id)
    if not member.enabled:
        yield f"# Member {id} is disabled"
        return
    owner = f"member {id}"
    port = check.number(owner, "protocol_port", member.protocol_port, low=1, high=65535)
    yield f"# Configuration for Member {id}"
    yield f"real_server {_address(member)} {port} {{"
    yield f"{_INDENT}weight {check.number(owner, 'weight', member.weight, low=0, high=256)}"
    if listener.connection_limit > 0:
        limit = check.number(
            f"listener {listener.id}", "connection_limit", listener.connection_limit, low=1, high=2**31 - 1
        )
        yield f"{_INDENT}uthreshold {limit}"
    if monitor is not None:
        yield from (_INDENT + line for line in _checker(monitor, member, settings))
    yield "}"


def _checker(monitor: HealthMonitor, member: Member, settings: Settings) -> Iterator[str]:
    owner = f"member {member.id}"
    ip = check.address(owner, "monitor_address", member.monitor_address or member.address)
    port = check.number(owner, "monitor_port", member.monitor_port or member.protocol_port, low=1, high=65535)
    timeout = int(check.number(f"health monitor {monitor.id}", "timeout", monitor.timeout, low=1, high=86_400))
    where = (f"connect_ip {ip}", f"connect_port {port}", f"connect_timeout {timeout}")
    match monitor.type:
        case MonitorType.UDP_CONNECT:
            script = f"{settings.haproxy_amphora.base_path}/lvs/check/udp_check.sh"
            path = check.plain("[haproxy_amphora]", "base_path", script)
            yield from _block("MISC_CHECK", f'misc_path "{path} {ip} {port}"', f"misc_timeout {timeout}")
        case MonitorType.SCTP:
            command = f"amphora-health-checker sctp -t {timeout} {ip} {port}"
            yield from _block("MISC_CHECK", f'misc_path "{command}"', f"misc_timeout {timeout + 1}")
        case MonitorType.HTTP:
            yield from _block("HTTP_GET", *_block("url", *_url(monitor)), *where)
        case MonitorType.TCP:
            yield from _block("TCP_CHECK", *where)
        case _:
            return  # no checker of keepalived's: the member is always in


def _url(monitor: HealthMonitor) -> Iterator[str]:
    owner = f"health monitor {monitor.id}"
    path = check.plain(owner, "url_path", monitor.url_path or "/")
    if any(letter in path for letter in _SPECIAL) or not path.isascii():
        raise check.refuse(owner, "url_path", f"{path!r} holds what keepalived would not read back")
    yield f"path {path}"
    yield from (f"status_code {code}" for code in check.codes(owner, "expected_codes", monitor.expected_codes))


_SPECIAL = "\"'#!{}\\$~@<>`"
"""What means something else to keepalived than itself: quotes, comments, blocks, definitions, conditions, sequences."""


def _block(head: str, *lines: str) -> Iterator[str]:
    yield f"{head} {{"
    yield from (_INDENT + line for line in lines)
    yield "}"
