"""Listeners: ports, TLS, headers, and the pools they may use."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

from octavia_core.domain.tree import L7Policy, Listener, Pool
from octavia_core.domain.vocabulary import ClientAuthentication, ListenerProtocol, PersistenceType, PoolProtocol
from octavia_core.errors import BadRequest
from octavia_core.policy.validity.scope import Scope
from octavia_core.policy.validity.values import (
    INT,
    PORT,
    Rule,
    each,
    fields,
    flag,
    line,
    matching,
    network,
    one_of,
    optional,
    prose,
    reference,
    whole,
)
from octavia_core.policy.validity.words import alternatives, label, refusal, show

__all__ = ["ALPN", "CIPHERS", "HTTP_LISTENERS", "TLS_VERSIONS", "USABLE", "check"]

_L, _P = ListenerProtocol, PoolProtocol

USABLE: Final[Mapping[ListenerProtocol, tuple[PoolProtocol, ...]]] = {
    _L.HTTP: (_P.HTTP, _P.PROXY, _P.PROXYV2),
    _L.TERMINATED_HTTPS: (_P.HTTP, _P.PROXY, _P.PROXYV2),
    _L.HTTPS: (_P.HTTPS, _P.PROXY, _P.PROXYV2, _P.TCP),
    _L.TCP: (_P.HTTP, _P.HTTPS, _P.PROXY, _P.PROXYV2, _P.TCP),
    _L.UDP: (_P.UDP,),
    _L.SCTP: (_P.SCTP,),
    _L.PROMETHEUS: (),
}
"""Which pools a listener may use (upstream's table of valid protocol combinations)."""

HTTP_LISTENERS = (_L.HTTP, _L.TERMINATED_HTTPS)
"""Listeners that read requests: L7 policies, header insertion and cookies work on these."""

_TRANSPORT = {_L.UDP: "UDP", _L.SCTP: "SCTP"}  # everything else is TCP

CIPHERS = optional(
    matching(r"[A-Za-z0-9\-+!:@=_.]+", 2048, "an OpenSSL cipher list such as ECDHE-RSA-AES128-GCM-SHA256:!aNULL")
)
"""Upstream's guard: nothing but these characters ever reaches a bind or server line."""

TLS_VERSIONS = each(one_of("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"), most=5, longest=512)
ALPN = each(one_of("h2", "http/1.1", "http/1.0"), most=3, longest=512)

_MILLISECONDS = optional(whole(0, INT))  # 0 and None take the configured default
_REFERENCE = optional(reference())

_LISTENER: dict[str, Rule] = {
    "name": optional(line(255)),
    "description": optional(prose(255)),
    "project_id": optional(line(36)),
    "enabled": flag,
    "protocol": one_of(ListenerProtocol),
    "protocol_port": PORT,
    "timeout_client_data": _MILLISECONDS,
    "timeout_member_connect": _MILLISECONDS,
    "timeout_member_data": _MILLISECONDS,
    "timeout_tcp_inspect": _MILLISECONDS,
    "tls_certificate_id": _REFERENCE,
    "sni_container_ids": each(reference(128), most=1000),
    "client_ca_tls_certificate_id": _REFERENCE,
    "client_authentication": one_of(ClientAuthentication),
    "client_crl_container_id": _REFERENCE,
    "tls_ciphers": CIPHERS,
    "tls_versions": TLS_VERSIONS,
    "alpn_protocols": ALPN,
    "hsts_max_age": optional(whole(0, INT)),
    "hsts_include_subdomains": flag,
    "hsts_preload": flag,
    "allowed_cidrs": each(network, most=1000),
}

_TLS_ONLY = (
    "tls_certificate_id",
    "sni_container_ids",
    "client_ca_tls_certificate_id",
    "client_crl_container_id",
    "tls_ciphers",
    "tls_versions",
    "alpn_protocols",
)
_TIMEOUTS = ("timeout_client_data", "timeout_member_connect", "timeout_member_data", "timeout_tcp_inspect")
_HSTS_ONLY = ("hsts_max_age", "hsts_include_subdomains", "hsts_preload")

_HEADERS: Mapping[str, tuple[ListenerProtocol, ...]] = {
    "X-Forwarded-For": HTTP_LISTENERS,
    "X-Forwarded-Port": HTTP_LISTENERS,
    "X-Forwarded-Proto": HTTP_LISTENERS,
    "X-SSL-Client-Verify": (_L.TERMINATED_HTTPS,),
    "X-SSL-Client-Has-Cert": (_L.TERMINATED_HTTPS,),
    "X-SSL-Client-DN": (_L.TERMINATED_HTTPS,),
    "X-SSL-Client-CN": (_L.TERMINATED_HTTPS,),
    "X-SSL-Issuer": (_L.TERMINATED_HTTPS,),
    "X-SSL-Client-SHA1": (_L.TERMINATED_HTTPS,),
    "X-SSL-Client-Not-Before": (_L.TERMINATED_HTTPS,),
    "X-SSL-Client-Not-After": (_L.TERMINATED_HTTPS,),
}


def check(scope: Scope) -> None:
    """Hold the listeners that are concerned against their rules, and every use of a pool that is concerned."""
    for listener in scope.tree.listeners:
        if scope.concerned(listener):
            owner = label(listener)
            fields(owner, listener, _LISTENER)
            _limit(owner, listener)
            _timeouts(owner, listener, scope)
            _tls(owner, listener)
            _headers(owner, listener)
            _families(owner, listener, scope)
            _default_pool(owner, listener, scope)
    _ports(scope)
    for listener, pool, policy in scope.uses():
        _use(scope, listener, pool, policy)
        _reach(scope, listener, pool)


def _limit(owner: str, listener: Listener) -> None:
    limit: object = listener.connection_limit
    if limit != -1 and whole(1, INT)(limit) is not None:
        raise refusal(
            owner, "connection_limit", limit, f"-1 (the configured default) or a whole number from 1 to {INT}"
        )


def _timeouts(owner: str, listener: Listener, scope: Scope) -> None:
    if listener.protocol not in _TRANSPORT:
        return
    for name in _TIMEOUTS:
        value = getattr(listener, name)
        if value and scope.sets(listener, name):  # 0, as None, means the default
            tail = f"left out: what serves {listener.protocol} knows no timeouts of a connection"
            raise refusal(owner, name, value, tail)


def _tls(owner: str, listener: Listener) -> None:
    terminates = listener.protocol is _L.TERMINATED_HTTPS
    if terminates and not listener.tls_certificate_id:
        raise refusal(
            owner, "tls_certificate_id", None, "the reference of a certificate, since TERMINATED_HTTPS ends TLS"
        )
    if not terminates:
        _without(owner, listener, _HSTS_ONLY, "left out: HSTS works on TERMINATED_HTTPS listeners only")
    encrypted = terminates or (listener.protocol is _L.PROMETHEUS and listener.tls_certificate_id is not None)
    if not encrypted:
        tail = f"left out: a {listener.protocol} listener does not end TLS (TERMINATED_HTTPS does)"
        _without(owner, listener, _TLS_ONLY, tail)
        if listener.client_authentication is not ClientAuthentication.NONE:
            raise refusal(owner, "client_authentication", listener.client_authentication, f"NONE: {tail[10:]}")
    if listener.hsts_max_age is None:
        _without(owner, listener, _HSTS_ONLY, "left out, or come with hsts_max_age")
    if listener.client_ca_tls_certificate_id is None:
        if listener.client_authentication is not ClientAuthentication.NONE:
            needs = "NONE, or come with client_ca_tls_certificate_id to verify certificates with"
            raise refusal(owner, "client_authentication", listener.client_authentication, needs)
        _without(owner, listener, ("client_crl_container_id",), "left out, or come with client_ca_tls_certificate_id")


def _without(owner: str, listener: Listener, names: tuple[str, ...], tail: str) -> None:
    for name in names:
        value = getattr(listener, name)
        if value not in (None, False, ()) or (value == 0 and value is not False):
            raise refusal(owner, name, value, tail)


def _headers(owner: str, listener: Listener) -> None:
    headers: object = listener.insert_headers
    if not isinstance(headers, Mapping):
        raise refusal(owner, "insert_headers", headers, 'a mapping of header names to "true" or "false"')
    for name, value in headers.items():
        where = _HEADERS.get(name) if isinstance(name, str) else None
        if where is None:
            raise refusal(owner, "insert_headers key", name, alternatives(_HEADERS))
        if not isinstance(value, str) or value.lower() not in ("true", "false"):
            raise refusal(owner, f"insert_headers value of {name}", value, 'the text "true" or "false"')
        if listener.protocol not in where:
            tail = (
                f"left out: on a {listener.protocol} listener nothing can be inserted there ({alternatives(where)} can)"
            )
            raise refusal(owner, f"insert_headers {name}", value, tail)


def _families(owner: str, listener: Listener, scope: Scope) -> None:
    """A CIDR of an address family that no VIP has lets nobody in."""
    known = _versions(scope)
    for cidr in listener.allowed_cidrs if known else ():
        version = ipaddress.ip_network(cidr).version
        if version not in known:
            raise refusal(owner, "allowed_cidrs", cidr, f"networks of IPv{min(known)}, as the VIP is")


def _default_pool(owner: str, listener: Listener, scope: Scope) -> None:
    if listener.default_pool_id is None:
        return
    pool = scope.pool(listener.default_pool_id)
    if listener.protocol is _L.PROMETHEUS:
        allowed = "left out: a PROMETHEUS listener answers itself"
        if pool is not None and scope.new(pool):
            raise BadRequest(f"{owner}: default_pool is {label(pool)}, but must be {allowed}")
        raise refusal(owner, "default_pool_id", listener.default_pool_id, allowed)
    if pool is None:
        raise refusal(owner, "default_pool_id", listener.default_pool_id, "the id of a pool of this load balancer")


def _ports(scope: Scope) -> None:
    """One port, one listener; UDP, SCTP and TCP do not meet."""
    taken: dict[tuple[str, int], list[Listener]] = {}
    for listener in scope.tree.listeners:
        protocol: object = listener.protocol
        if isinstance(protocol, ListenerProtocol) and PORT(listener.protocol_port) is None:
            taken.setdefault((_TRANSPORT.get(protocol, "TCP"), listener.protocol_port), []).append(listener)
    for (transport, port), sharers in taken.items():
        if len(sharers) < 2:
            continue
        for listener in reversed(sharers):
            if scope.concerned(listener):
                other = next(one for one in sharers if one is not listener)
                tail = f"a {transport} port that no other listener of the load balancer has ({label(other)} has it)"
                raise refusal(label(listener), "protocol_port", port, tail)


def _use(scope: Scope, listener: Listener, pool: Pool, policy: L7Policy | None) -> None:
    """A pool that a listener uses must speak what that listener can send."""
    speaker: object = listener.protocol
    mine = scope.concerned(listener) or (policy is not None and scope.concerned(policy))
    if not isinstance(speaker, ListenerProtocol) or not (mine or scope.concerned(pool)):
        return
    usable, says = USABLE[speaker], _speaker(listener)
    if pool.protocol not in usable:
        if not usable:
            raise refusal(label(pool), "use", says, "left out: that listener uses no pool")
        if mine and not scope.new(pool):
            where = (label(listener), "default_pool_id") if policy is None else (label(policy), "redirect_pool_id")
            tail = f"a pool of protocol {alternatives(usable)}; {label(pool)} speaks {show(pool.protocol)}"
            raise refusal(*where, pool.id, tail)
        raise refusal(label(pool), "protocol", pool.protocol, f"{alternatives(usable)}, since {says} uses it")
    kept = getattr(pool.session_persistence, "type", None)
    cookies = kept in (PersistenceType.HTTP_COOKIE, PersistenceType.APP_COOKIE)
    if cookies and speaker not in HTTP_LISTENERS and pool.protocol in (_P.PROXY, _P.PROXYV2):
        tail = f"SOURCE_IP or left out, since {says} uses the pool and reads no cookies"
        raise refusal(label(pool), "session_persistence type", kept, tail)


def _reach(scope: Scope, listener: Listener, pool: Pool) -> None:
    """Datagrams go to members of a VIP's own address family; others would never get any (upstream's driver agrees).

    A VIP that is not known yet will be of one family, so that its members are.
    """
    known, model = _versions(scope), "the VIP"
    speaker: object = listener.protocol
    if not isinstance(speaker, ListenerProtocol) or speaker not in _TRANSPORT:
        return
    for member in pool.members:
        literal: object = member.address
        if not isinstance(literal, str):
            continue
        version = 6 if ":" in literal else 4
        if not known and not scope.tree.additional_vips:
            known, model = {version}, label(member)
        asked = scope.sets(member, "address") or scope.sets(listener, "default_pool_id")
        if not known or version in known or not asked:
            continue
        tail = f"an IPv{min(known)} address, as {model} has: {_speaker(listener)} uses the pool"
        raise refusal(f"{label(member)} of {label(pool)}", "address", literal, tail)


def _versions(scope: Scope) -> set[int]:
    """IP versions of the VIPs; empty while one is not allocated yet, so that its family is not known."""
    vips = [getattr(scope.tree.vip, "ip_address", None)]
    if isinstance(scope.tree.additional_vips, tuple):
        vips += [getattr(one, "ip_address", None) for one in scope.tree.additional_vips]
    return set() if None in vips else {6 if ":" in str(vip) else 4 for vip in vips}


def _speaker(listener: Listener) -> str:
    """With its protocol, which the label of a new one has."""
    words = label(listener)
    return words if words.startswith("new ") else f"{listener.protocol} {words}"
