"""Pools, their members, monitors and session persistence."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

from octavia_core.domain.tree import HealthMonitor, Member, Pool, SessionPersistence
from octavia_core.domain.vocabulary import Algorithm, MonitorType, PersistenceType, PoolProtocol
from octavia_core.policy.validity.listeners import ALPN, CIPHERS, TLS_VERSIONS
from octavia_core.policy.validity.scope import Scope
from octavia_core.policy.validity.values import (
    INT,
    PORT,
    Rule,
    address,
    expected_codes,
    fields,
    flag,
    granularity,
    host_name,
    http_version,
    identifier,
    line,
    one_of,
    optional,
    prose,
    reference,
    token,
    url_path,
    whole,
)
from octavia_core.policy.validity.words import alternatives, label, refusal

__all__ = ["MONITORS", "check"]

_P, _M = PoolProtocol, MonitorType

_DATAGRAMS = (_P.UDP, _P.SCTP)  # served by keepalived, not by HAProxy
_COOKIE_POOLS = (_P.HTTP, _P.PROXY, _P.PROXYV2)
_HAPROXY_MONITORS = (_M.HTTP, _M.HTTPS, _M.TCP, _M.PING, _M.TLS_HELLO)

MONITORS: Final[Mapping[PoolProtocol, tuple[MonitorType, ...]]] = {
    **{protocol: _HAPROXY_MONITORS for protocol in _P if protocol not in _DATAGRAMS},
    _P.UDP: (_M.UDP_CONNECT, _M.TCP, _M.HTTP),
    _P.SCTP: (_M.SCTP, _M.TCP, _M.HTTP),
}
"""Which monitors a pool may have: those for which HAProxy or keepalived has a check."""

METHODS = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
"""What the load-balancer API allows as http_method."""

_SECONDS = whole(1, INT // 1000)  # HAProxy's longest time, in seconds
_RETRIES = whole(1, 10)
_LONGEST_CHECK = 86_400
"""Seconds, a day: the longest that a check of keepalived's is given."""
_LONGEST_PERSISTENCE = 365 * 86_400
"""Seconds, a year: the longest that keepalived is told."""
_SPECIAL = "\"'#!{}\\$~@<>`"
"""What keepalived would not read back as itself: quotes, comments, blocks, definitions, conditions, sequences."""
_REFERENCE = optional(reference())
_ID = optional(identifier())

_POOL: dict[str, Rule] = {
    "name": optional(line(255)),
    "description": optional(prose(255)),
    "project_id": optional(line(36)),
    "enabled": flag,
    "protocol": one_of(PoolProtocol),
    "lb_algorithm": one_of(Algorithm.ROUND_ROBIN, Algorithm.LEAST_CONNECTIONS, Algorithm.SOURCE_IP),
    "tls_enabled": flag,
    "tls_certificate_id": _REFERENCE,
    "ca_tls_certificate_id": _REFERENCE,
    "crl_container_id": _REFERENCE,
    "tls_ciphers": CIPHERS,
    "tls_versions": TLS_VERSIONS,
    "alpn_protocols": ALPN,
}
_PERSISTENCE: dict[str, Rule] = {
    "type": one_of(PersistenceType),
    "cookie_name": optional(token()),
    "persistence_timeout": optional(whole(1, INT)),
    "persistence_granularity": optional(granularity),
}
_MEMBER: dict[str, Rule] = {
    "address": address,
    "protocol_port": PORT,
    "name": optional(line(255)),
    "project_id": optional(line(36)),
    "subnet_id": _ID,
    "weight": whole(0, 256),
    "enabled": flag,
    "backup": flag,
    "monitor_address": optional(address),
    "monitor_port": optional(PORT),
    "vnic_type": one_of("normal", "direct"),
}
# The API reference wants timeout below delay; HAProxy and keepalived do well without, so that is left to the user.
_MONITOR: dict[str, Rule] = {
    "type": one_of(MonitorType),
    "name": optional(line(255)),
    "project_id": optional(line(36)),
    "delay": _SECONDS,
    "timeout": _SECONDS,
    "max_retries": _RETRIES,
    "max_retries_down": _RETRIES,
    "http_method": optional(one_of(*METHODS)),
    "url_path": optional(url_path),
    "expected_codes": optional(expected_codes),
    "http_version": optional(http_version),
    "domain_name": optional(host_name),
    "enabled": flag,
}
_TLS_ONLY = (
    "tls_certificate_id",
    "ca_tls_certificate_id",
    "crl_container_id",
    "tls_ciphers",
    "tls_versions",
    "alpn_protocols",
)
_HTTP_ONLY = ("http_method", "url_path", "expected_codes", "http_version", "domain_name")


def check(scope: Scope) -> None:
    """Hold pools, members and monitors that are concerned against their rules."""
    for pool in scope.tree.pools:
        if scope.concerned(pool):
            owner = scope.called(pool)
            fields(owner, pool, _POOL)
            _tls(owner, pool, scope)
            _persistence(owner, pool)
        _members(pool, scope)
        monitor = pool.health_monitor
        if monitor is not None and (scope.concerned(monitor) or scope.concerned(pool)):
            _monitor(pool, monitor, scope)


def _tls(owner: str, pool: Pool, scope: Scope) -> None:
    if pool.protocol in _DATAGRAMS:
        tail = f"members of a {pool.protocol} pool speak no TLS"
        if pool.tls_enabled:
            raise refusal(owner, "tls_enabled", pool.tls_enabled, f"false: {tail}")
        for name in _TLS_ONLY:
            value = getattr(pool, name)
            if value and scope.sets(pool, name):
                raise refusal(owner, name, value, f"left out: {tail}")
    if pool.crl_container_id is not None and pool.ca_tls_certificate_id is None:
        raise refusal(owner, "crl_container_id", pool.crl_container_id, "left out, or come with ca_tls_certificate_id")


def _persistence(owner: str, pool: Pool) -> None:
    kept: object = pool.session_persistence
    if kept is None:
        return
    if not isinstance(kept, SessionPersistence):
        raise refusal(owner, "session_persistence", kept, "a session persistence with a type, or not set")
    owner = f"session persistence of {owner}"
    fields(owner, kept, _PERSISTENCE)
    if kept.type is not PersistenceType.SOURCE_IP and pool.protocol not in _COOKIE_POOLS:
        raise refusal(owner, "type", kept.type, f"SOURCE_IP: a {pool.protocol} pool reads no cookies")
    if kept.type is PersistenceType.APP_COOKIE and kept.cookie_name is None:
        raise refusal(owner, "cookie_name", None, "the name of the application's cookie, since the type is APP_COOKIE")
    if kept.type is not PersistenceType.APP_COOKIE and kept.cookie_name is not None:
        raise refusal(owner, "cookie_name", kept.cookie_name, f"left out: type {kept.type} uses no cookie of yours")
    if pool.protocol not in _DATAGRAMS:
        for name in ("persistence_timeout", "persistence_granularity"):
            if getattr(kept, name) is not None:
                raise refusal(owner, name, getattr(kept, name), "left out: it works in UDP and SCTP pools only")
    elif kept.persistence_timeout is not None and kept.persistence_timeout > _LONGEST_PERSISTENCE:
        allowed = f"at most {_LONGEST_PERSISTENCE} seconds (a year)"
        raise refusal(owner, "persistence_timeout", kept.persistence_timeout, allowed)


def _members(pool: Pool, scope: Scope) -> None:
    concerned = [member for member in pool.members if scope.concerned(member)]
    if not concerned:
        return
    tail = f" of {scope.called(pool)}"
    for member in concerned:
        fields(label(member) + tail, member, _MEMBER)
        if member.backup and pool.protocol in _DATAGRAMS and scope.sets(member, "backup"):
            allowed = f"false: in a {pool.protocol} pool no member waits until all others are down"
            raise refusal(label(member) + tail, "backup", member.backup, allowed)
    new = {member.id for member in concerned}
    taken: dict[tuple[object, int], Member] = {}
    others = [member for member in pool.members if member.id not in new]
    for member in (*others, *concerned):
        place = _place(member)
        if place is None:
            continue
        first = taken.setdefault(place, member)
        if first is not member:
            value = f"{member.address}:{member.protocol_port}"
            allowed = f"an address and port that no other member of {label(pool)} has ({label(first)} has it)"
            raise refusal(label(member), "address and protocol_port", value, allowed)


def _place(member: Member) -> tuple[object, int] | None:
    """Address and port, the same for every spelling of an IPv6 address; None for what is no address."""
    literal: object = member.address
    if PORT(member.protocol_port) is not None or not isinstance(literal, str):
        return None
    if ":" not in literal:
        return literal, member.protocol_port  # IPv4 has one spelling
    try:
        return ipaddress.ip_address(literal), member.protocol_port
    except ValueError:
        return None


def _monitor(pool: Pool, monitor: HealthMonitor, scope: Scope) -> None:
    owner = f"{label(monitor)} of {scope.called(pool)}"
    of_monitor = scope.concerned(monitor)
    if of_monitor:
        fields(owner, monitor, _MONITOR)
        http = monitor.type in (_M.HTTP, _M.HTTPS)
        for name in _HTTP_ONLY:
            value = getattr(monitor, name)
            if value is not None and not http:
                raise refusal(owner, name, value, f"left out: a {monitor.type} monitor sends no HTTP request")
        if monitor.domain_name is not None and monitor.http_version != 1.1:
            raise refusal(owner, "http_version", monitor.http_version, "1.1, since domain_name is set")
    protocol: object = pool.protocol
    if not isinstance(protocol, PoolProtocol):
        return
    known = MONITORS[protocol]
    if monitor.type not in known:
        raise refusal(owner, "type", monitor.type, f"{alternatives(known)} in a {pool.protocol} pool")
    if pool.protocol in _DATAGRAMS:
        if monitor.http_method not in (None, "GET"):
            raise refusal(owner, "http_method", monitor.http_method, f"GET in a {pool.protocol} pool")
        if of_monitor:
            _readable(owner, pool, monitor)


def _readable(owner: str, pool: Pool, monitor: HealthMonitor) -> None:
    """Refuse what keepalived's file cannot say. The values are of their types already."""
    where = f"in a {pool.protocol} pool"
    if monitor.timeout > _LONGEST_CHECK:
        raise refusal(owner, "timeout", monitor.timeout, f"at most {_LONGEST_CHECK} seconds {where}")
    path = monitor.url_path
    if path is not None and (not path.isascii() or any(letter in _SPECIAL for letter in path)):
        allowed = f"a path {where} without letters beyond ASCII and without {' '.join(_SPECIAL)}; write them as %xx"
        raise refusal(owner, "url_path", path, allowed)
