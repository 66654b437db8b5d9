"""Health monitors: lines of the backend, and the words that its server lines carry."""

from __future__ import annotations

from collections.abc import Iterator

from octavia_core.domain.tree import HealthMonitor, Member, Pool
from octavia_core.domain.vocabulary import MonitorType
from octavia_haproxy.render import check
from octavia_haproxy.render.model import Facts, alive
from octavia_haproxy.render.tls import alpn
from octavia_haproxy.render.words import line, log_format

__all__ = ["active_monitor", "check_words", "member_words", "monitor_lines"]

PING_COMMAND = "/var/lib/octavia/ping-wrapper.sh"
"""The amphora image brings it (agent API 6.2); it does not follow base_path."""

_HTTP = (MonitorType.HTTP, MonitorType.HTTPS)
_LVS = (MonitorType.UDP_CONNECT, MonitorType.SCTP)


def active_monitor(pool: Pool) -> HealthMonitor | None:
    """The pool's monitor when it is enabled, not being deleted, and of a kind that HAProxy runs."""
    monitor = pool.health_monitor
    if monitor is None or not monitor.enabled or not alive(monitor) or monitor.type in _LVS:
        return None
    return monitor


def monitor_lines(monitor: HealthMonitor, pool: Pool, facts: Facts) -> Iterator[str]:
    """How the backend checks the members of its pool. TCP and TLS-HELLO need no line: a connection is the check."""
    if facts.haproxy_version >= (1, 6):
        yield line("load-server-state-from-file", "global")
    yield line("timeout", "check", f"{monitor.timeout}s")
    if monitor.type in _HTTP:
        yield from _http(monitor, pool, facts)
    elif monitor.type is MonitorType.PING:
        yield line("option", "external-check")
        yield line("external-check", "command", PING_COMMAND)


def _http(monitor: HealthMonitor, pool: Pool, facts: Facts) -> Iterator[str]:
    owner = f"health monitor {monitor.id}"
    method = check.name(owner, "http_method", monitor.http_method or "GET")
    path = check.plain(owner, "url_path", monitor.url_path or "/")
    version = f"{monitor.http_version:.1f}" if monitor.http_version else None
    if version not in (None, "1.0", "1.1"):
        raise check.refuse(owner, "http_version", f"{monitor.http_version} is neither 1.0 nor 1.1")
    yield line("option", "httpchk", method, path, *([f"HTTP/{version}"] if version else []))
    if version == "1.1" and facts.haproxy_version >= (2, 2):
        named = check.plain(owner, "domain_name", monitor.domain_name) if monitor.domain_name else None
        yield line("http-check", "send", "hdr", "Host", log_format(named) if named else _address(pool, facts))
    codes = check.codes(owner, "expected_codes", monitor.expected_codes)
    yield line("http-check", "expect", "rstatus", "|".join(codes))


def _address(pool: Pool, facts: Facts) -> str:
    """Each member's own address and port, as whoever knows no name of it has to say (RFC 9112, section 3.2).

    Where members are of both families, or HAProxy is older than what is tested, the member's id, which is a name, too.
    """
    members = [member for member in pool.members if alive(member)]
    families = {":" in (member.monitor_address or member.address) for member in members}
    if len(families) > 1 or facts.haproxy_version < (2, 6):
        return "%[srv_name]"
    return "[%[bc_dst]]:%[bc_dst_port]" if True in families else "%[bc_dst]:%[bc_dst_port]"


def check_words(monitor: HealthMonitor, pool: Pool, facts: Facts) -> list[str]:
    """What each server line of the pool says about checks."""
    words = ["check"]
    if monitor.type is MonitorType.HTTPS:
        words += ["check-ssl", "verify", "none"]
    if facts.haproxy_version >= (1, 9):
        words += alpn("check-alpn", f"pool {pool.id}", pool.alpn_protocols)
    words += ["inter", f"{monitor.delay}s", "fall", str(monitor.max_retries_down), "rise", str(monitor.max_retries)]
    return words


def member_words(member: Member) -> list[str]:
    """Where this member is checked, when that is not where it serves."""
    owner = f"member {member.id}"
    words = []
    if member.monitor_address:
        address = check.address(owner, "monitor_address", member.monitor_address)
        # Without a port behind it, HAProxy would take the last group of a bare IPv6 address for one.
        words += ["addr", f"[{address}]" if ":" in address else address]
    if member.monitor_port:
        words += ["port", str(member.monitor_port)]
    return words
