"""Backends: one per pool and listener that uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from octavia_core.domain.tree import Listener, Pool
from octavia_core.domain.vocabulary import Algorithm, ListenerProtocol, PersistenceType, PoolProtocol
from octavia_core.settings import HaproxyAmphora
from octavia_haproxy.render import check
from octavia_haproxy.render.model import Facts, Served, Tls, alive
from octavia_haproxy.render.monitor import active_monitor, check_words, member_words, monitor_lines
from octavia_haproxy.render.names import backend_name
from octavia_haproxy.render.words import INDENT, argument, line, quote

__all__ = ["backend", "connection_limit", "manifest"]

_BALANCE = {
    Algorithm.ROUND_ROBIN: "roundrobin",
    Algorithm.LEAST_CONNECTIONS: "leastconn",
    Algorithm.SOURCE_IP: "source",
}
_TLS_HEADERS = {
    "X-SSL-Client-Verify": "%[ssl_c_verify]",
    "X-SSL-Client-Has-Cert": "%[ssl_c_used]",
    "X-SSL-Client-DN": "%{+Q}[ssl_c_s_dn]",
    "X-SSL-Client-CN": "%{+Q}[ssl_c_s_dn(cn)]",
    "X-SSL-Issuer": "%{+Q}[ssl_c_i_dn]",
    "X-SSL-Client-SHA1": "%{+Q}[ssl_c_sha1,hex]",
    "X-SSL-Client-Not-Before": "%{+Q}[ssl_c_notbefore]",
    "X-SSL-Client-Not-After": "%{+Q}[ssl_c_notafter]",
}
_PROTO = {ListenerProtocol.HTTP: "http", ListenerProtocol.TERMINATED_HTTPS: "https"}


def backend(served: Served, pool: Pool, peers: str | None, settings: HaproxyAmphora, facts: Facts) -> Iterator[str]:
    """The lines of one backend, its header first.

    Args:
        served: the listener it belongs to.
        pool: one of `served.pools`.
        peers: the peers section that stick tables are shared through, None for a single amphora.
        settings: defaults of the operator.
        facts: about the amphora.

    Raises:
        PermanentError: a field cannot be written.
    """
    listener, mode = served.listener, served.mode(pool)
    tls = served.pool_tls.get(pool.id, Tls())
    monitor = active_monitor(pool)
    yield f"backend {backend_name(check.identifier('pool', pool.id), listener.id)}"
    yield from manifest(tls)
    yield line("mode", mode)
    if mode == "http" and facts.haproxy_version >= (1, 6):
        yield line("http-reuse", "safe")
    yield line("balance", _balance(pool))
    yield from _persistence(pool, mode, peers, settings)
    if monitor:
        yield from monitor_lines(monitor, pool, facts)
    yield from _headers(listener, mode)
    yield line("fullconn", str(connection_limit(listener.connection_limit, settings)))
    yield line("option", "allbackups")
    yield line("timeout", "connect", str(listener.timeout_member_connect or settings.timeout_member_connect))
    yield line("timeout", "server", str(listener.timeout_member_data or settings.timeout_member_data))
    yield from _servers(served, pool, mode, tls, facts)


def _servers(served: Served, pool: Pool, mode: str, tls: Tls, facts: Facts) -> Iterator[str]:
    """Server lines. What all members share is joined once, since a pool may have thousands."""
    monitor = active_monitor(pool)
    checks = _joined(check_words(monitor, pool, facts)) if monitor else ""
    cookies = _cookie_persistence(pool, mode)
    proxy, tail = _joined(_send_proxy(served, pool)), _joined(tls.words)
    members = [member for member in pool.members if alive(member)]
    if tls.words and not members:
        yield f"{INDENT}# members{tail}"  # what the next one gets, should its secrets be gone by then
    for member in members:
        id = check.identifier("member", member.id)
        address = check.address(f"member {id}", "address", member.address)
        where = _joined(member_words(member)) if monitor and (member.monitor_address or member.monitor_port) else ""
        cookie = f" cookie {id}" if cookies else ""
        switches = " backup" * member.backup + " disabled" * (not member.enabled)
        yield (
            f"{INDENT}server {id} {address}:{member.protocol_port} weight {member.weight}"
            f"{checks}{where}{cookie}{proxy}{switches}{tail}"
        )


def _joined(words: Iterable[str]) -> str:
    return "".join(f" {quote(word)}" for word in words)


def connection_limit(limit: int | None, settings: HaproxyAmphora) -> int:
    """A listener's own limit, or the operator's default when it says -1 or nothing."""
    return limit if limit is not None and limit > 0 else settings.default_connection_limit


def manifest(tls: Tls) -> Iterator[str]:
    """The files behind a section, as comments: what a later push compares with, keeps or removes."""
    for file in tls.files:
        yield f"{INDENT}# file {file.name} {file.md5}"


def _balance(pool: Pool) -> str:
    found = _BALANCE.get(pool.lb_algorithm)
    if found is None:
        known = ", ".join(_BALANCE)
        raise check.refuse(
            f"pool {pool.id}", "lb_algorithm", f"{pool.lb_algorithm} is not offered by amphorae ({known})"
        )
    return found


def _cookie_persistence(pool: Pool, mode: str) -> bool:
    persistence = pool.session_persistence
    return persistence is not None and persistence.type is PersistenceType.HTTP_COOKIE and mode == "http"


def _persistence(pool: Pool, mode: str, peers: str | None, settings: HaproxyAmphora) -> Iterator[str]:
    """Stick tables and cookies. Cookies need HTTP: in a TCP backend they say nothing."""
    persistence = pool.session_persistence
    if persistence is None:
        return
    shared = ["peers", peers] if peers else []
    size = ["size", settings.haproxy_stick_size]
    if persistence.type is PersistenceType.SOURCE_IP:
        yield line("stick-table", "type", "ipv6", *size, *shared)
        yield line("stick", "on", "src")
    elif mode == "http" and persistence.type is PersistenceType.APP_COOKIE:
        cookie = argument(check.name(f"pool {pool.id}", "session persistence cookie_name", persistence.cookie_name))
        yield line("stick-table", "type", "string", "len", "64", *size, *shared)
        yield line("stick", "store-response", f"res.cook({cookie})")
        yield line("stick", "match", f"req.cook({cookie})")
    elif _cookie_persistence(pool, mode):
        yield line("cookie", "SRV", "insert", "indirect", "nocache")


def _headers(listener: Listener, mode: str) -> Iterator[str]:
    """What the listener inserts into requests, whichever way the client's address comes besides."""
    wanted = {name for name, value in listener.insert_headers.items() if str(value).lower() == "true"}
    if mode != "http":
        return
    if "X-Forwarded-For" in wanted:
        yield line("option", "forwardfor")
    if "X-Forwarded-Port" in wanted:
        yield _set_header("X-Forwarded-Port", "%[dst_port]")
    if "X-Forwarded-Proto" in wanted and listener.protocol in _PROTO:
        yield _set_header("X-Forwarded-Proto", _PROTO[listener.protocol])
    if listener.protocol is ListenerProtocol.TERMINATED_HTTPS:
        for name, expression in _TLS_HEADERS.items():
            if name in wanted:
                yield _set_header(name, expression)


def _set_header(name: str, expression: str) -> str:
    return line("http-request", "set-header", name, expression)


def _send_proxy(served: Served, pool: Pool) -> list[str]:
    if pool.protocol is PoolProtocol.PROXY:
        return ["send-proxy"]
    if pool.protocol is PoolProtocol.PROXYV2:
        return ["send-proxy-v2-ssl-cn" if served.terminates else "send-proxy-v2"]
    return []
