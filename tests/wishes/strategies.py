"""Load balancers that make sense, as wishes: whatever is drawn here must be accepted."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs
from hypothesis import strategies as st

from octavia_core.domain.tree import LoadBalancer, SessionPersistence
from octavia_core.domain.vocabulary import (
    Algorithm,
    ClientAuthentication,
    CompareType,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    PoolProtocol,
    Topology,
)
from octavia_core.domain.wishes import (
    NewHealthMonitor,
    NewL7Policy,
    NewL7Rule,
    NewListener,
    NewLoadBalancer,
    NewMember,
    NewPool,
)

L, P, M = ListenerProtocol, PoolProtocol, MonitorType

# Written down here a second time on purpose: the table of upstream's valid combinations, HAProxy catalogue A6.
SPEAKS = {
    L.HTTP: [P.HTTP, P.PROXY, P.PROXYV2],
    L.TERMINATED_HTTPS: [P.HTTP, P.PROXY, P.PROXYV2],
    L.HTTPS: [P.HTTPS, P.PROXY, P.PROXYV2, P.TCP],
    L.TCP: [P.HTTP, P.HTTPS, P.PROXY, P.PROXYV2, P.TCP],
    L.UDP: [P.UDP],
    L.SCTP: [P.SCTP],
    L.PROMETHEUS: [],
}
DATAGRAMS = (P.UDP, P.SCTP)
ADDRESSES = ["10.0.0.1", "10.0.0.2", "192.0.2.200", "127.0.0.1", "2001:db8::1", "::1", "fe80::1"]

names = st.none() | st.sampled_from(["a", "b", "c", "Grüße", "x" * 255])
small = st.integers(1, 30)
ciphers = st.none() | st.sampled_from(["ECDHE-RSA-AES128-GCM-SHA256:!aNULL", "DEFAULT@SECLEVEL=2"])
versions = st.lists(st.sampled_from(["TLSv1.1", "TLSv1.2", "TLSv1.3"]), unique=True, max_size=3)
alpn = st.lists(st.sampled_from(["h2", "http/1.1", "http/1.0"]), unique=True, max_size=3)
reference = st.sampled_from(["cert-1", "https://barbican.example/v1/containers/7c2d", "web.pem"])


def counter(prefix: str = "id") -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"{prefix}-{next(numbers)}"


members = st.builds(
    NewMember,
    st.sampled_from(ADDRESSES),
    st.integers(1, 65535) | st.just(80),
    weight=st.integers(0, 256),
    name=names,
    enabled=st.booleans(),
    backup=st.booleans(),
    monitor_address=st.none() | st.sampled_from(ADDRESSES),
    monitor_port=st.none() | st.integers(1, 65535),
)


@st.composite
def monitors(draw: st.DrawFn, protocol: PoolProtocol) -> NewHealthMonitor:
    kinds = {P.UDP: [M.UDP_CONNECT, M.TCP, M.HTTP], P.SCTP: [M.SCTP, M.TCP, M.HTTP]}
    kind = draw(st.sampled_from(kinds.get(protocol, [M.HTTP, M.HTTPS, M.TCP, M.PING, M.TLS_HELLO])))
    values = {name: draw(st.integers(1, 10)) for name in ("delay", "timeout", "max_retries", "max_retries_down")}
    if kind not in (M.HTTP, M.HTTPS):
        return NewHealthMonitor(type=kind, name=draw(names), enabled=draw(st.booleans()), **values)
    host = draw(st.none() | st.sampled_from(["www.example.com", "localhost", "10.0.0.1"]))
    return NewHealthMonitor(
        type=kind,
        http_method="GET" if protocol in DATAGRAMS else draw(st.none() | st.sampled_from(["GET", "HEAD", "TRACE"])),
        url_path=draw(st.none() | st.sampled_from(["/", "/health?a=b&c=d"])),
        expected_codes=draw(st.none() | st.sampled_from(["200", "200,202", "200, 202", "200-204", "100-599"])),
        http_version=1.1 if host else draw(st.none() | st.sampled_from([1.0, 1.1])),
        domain_name=host,
        **values,
    )


@st.composite
def persistences(draw: st.DrawFn, protocol: PoolProtocol, *, cookies: bool) -> SessionPersistence | None:
    kinds = [None, PersistenceType.SOURCE_IP]
    if cookies and protocol in (P.HTTP, P.PROXY, P.PROXYV2):
        kinds += [PersistenceType.HTTP_COOKIE, PersistenceType.APP_COOKIE]
    kind = draw(st.sampled_from(kinds))
    if kind is None:
        return None
    if protocol in DATAGRAMS:
        masks = st.none() | st.sampled_from(["255.255.255.0", "64"])
        return SessionPersistence(type=kind, persistence_timeout=draw(small), persistence_granularity=draw(masks))
    return SessionPersistence(type=kind, cookie_name="JSESSIONID" if kind is PersistenceType.APP_COOKIE else None)


@st.composite
def pools(draw: st.DrawFn, protocol: PoolProtocol, *, cookies: bool = True) -> NewPool:
    datagrams = protocol in DATAGRAMS  # no TLS, nobody waits for others to go down, one address family
    authority = None if datagrams else draw(st.none() | reference)
    here = st.sampled_from([address for address in ADDRESSES if ":" not in address])
    alike = st.builds(lambda member, address: attrs.evolve(member, address=address, backup=False), members, here)
    usable = alike if datagrams else members
    return NewPool(
        protocol=protocol,
        lb_algorithm=draw(st.sampled_from([Algorithm.ROUND_ROBIN, Algorithm.LEAST_CONNECTIONS, Algorithm.SOURCE_IP])),
        name=draw(names),
        description=draw(st.none() | st.just("several\nlines")),
        enabled=draw(st.booleans()),
        members=draw(st.lists(usable, unique_by=lambda m: (m.address, m.protocol_port), max_size=3)),
        health_monitor=draw(st.none() | monitors(protocol)),
        session_persistence=draw(persistences(protocol, cookies=cookies)),
        tls_enabled=not datagrams and draw(st.booleans()),
        ca_tls_certificate_id=authority,
        crl_container_id=draw(st.none() | reference) if authority else None,
        tls_ciphers=None if datagrams else draw(ciphers),
        tls_versions=() if datagrams else draw(versions),
        alpn_protocols=() if datagrams else draw(alpn),
    )


PLAIN_RULES = [
    NewL7Rule(type=L7RuleType.PATH, compare_type=CompareType.STARTS_WITH, value="/api"),
    NewL7Rule(type=L7RuleType.PATH, compare_type=CompareType.REGEX, value=r"^/(?<id>\d+)/[[:alpha:]]+\h*$"),
    NewL7Rule(type=L7RuleType.HOST_NAME, value="www.example.com", invert=True),
    NewL7Rule(type=L7RuleType.FILE_TYPE, value="jpg", enabled=False),
    NewL7Rule(type=L7RuleType.FILE_TYPE, compare_type=CompareType.REGEX, value="jpe?g"),
    NewL7Rule(type=L7RuleType.HEADER, key="X-Version", compare_type=CompareType.CONTAINS, value="a b # 'c'"),
    NewL7Rule(type=L7RuleType.COOKIE, key="who", compare_type=CompareType.ENDS_WITH, value="me"),
]
TLS_RULES = [
    NewL7Rule(type=L7RuleType.SSL_CONN_HAS_CERT, value="True"),
    NewL7Rule(type=L7RuleType.SSL_VERIFY_RESULT, value="0"),
    NewL7Rule(type=L7RuleType.SSL_DN_FIELD, key="CN", compare_type=CompareType.STARTS_WITH, value="client"),
]


@st.composite
def policies(draw: st.DrawFn, protocol: ListenerProtocol) -> NewL7Policy:
    action = draw(st.sampled_from(list(L7Action)))
    known = PLAIN_RULES + (TLS_RULES if protocol is L.TERMINATED_HTTPS else [])
    redirects = action in (L7Action.REDIRECT_TO_URL, L7Action.REDIRECT_PREFIX)
    urls = st.sampled_from(["https://www.example.com/a?b=c&d=%20", "http://[2001:db8::1]:8080/", "http://10.0.0.1"])
    code = draw(st.none() | st.sampled_from([301, 302, 303, 307, 308])) if redirects else None
    return NewL7Policy(
        action=action,
        name=draw(names),
        enabled=draw(st.booleans()),
        redirect_url=draw(urls) if action is L7Action.REDIRECT_TO_URL else None,
        redirect_prefix=draw(urls) if action is L7Action.REDIRECT_PREFIX else None,
        redirect_pool=draw(pools(draw(st.sampled_from(SPEAKS[protocol]))))
        if action is L7Action.REDIRECT_TO_POOL
        else None,
        redirect_http_code=code,
        rules=draw(st.lists(st.sampled_from(known), max_size=3)),
    )


def headers(protocol: ListenerProtocol) -> st.SearchStrategy[dict[str, str]]:
    known = (
        ["X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto"] if protocol in (L.HTTP, L.TERMINATED_HTTPS) else []
    )
    known += ["X-SSL-Client-DN", "X-SSL-Issuer"] if protocol is L.TERMINATED_HTTPS else []
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(["true", "False"]) for name in known})


@st.composite
def listeners(draw: st.DrawFn, protocol: ListenerProtocol, port: int) -> NewListener:
    http = protocol in (L.HTTP, L.TERMINATED_HTTPS)
    timeouts = st.none() | st.integers(0, 0 if protocol in (L.UDP, L.SCTP) else 2**31 - 1)
    default = None
    if SPEAKS[protocol] and draw(st.booleans()):
        default = draw(pools(draw(st.sampled_from(SPEAKS[protocol])), cookies=http))
    values = {}
    if protocol is L.TERMINATED_HTTPS:
        values = {
            "tls_certificate_id": draw(reference),
            "sni_container_ids": draw(st.lists(reference, unique=True, max_size=2)),
            "tls_ciphers": draw(ciphers),
            "tls_versions": draw(versions),
            "alpn_protocols": draw(alpn),
        }
        if draw(st.booleans()):
            values["client_ca_tls_certificate_id"] = draw(reference)
            values["client_authentication"] = draw(st.sampled_from(list(ClientAuthentication)))
            values["client_crl_container_id"] = draw(st.none() | reference)
        if draw(st.booleans()):
            values["hsts_max_age"] = draw(st.integers(0, 2**31 - 1))
            values["hsts_preload"] = draw(st.booleans())
    return NewListener(
        protocol=protocol,
        protocol_port=port,
        name=draw(names),
        enabled=draw(st.booleans()),
        connection_limit=draw(st.sampled_from([-1, 1, 50000])),
        default_pool=default,
        insert_headers=draw(headers(protocol)),
        timeout_client_data=draw(timeouts),
        timeout_tcp_inspect=draw(timeouts),
        allowed_cidrs=draw(st.lists(st.sampled_from(["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"]), unique=True)),
        l7policies=draw(st.lists(policies(protocol), max_size=3)) if http else (),
        **values,
    )


@st.composite
def wishes(draw: st.DrawFn) -> NewLoadBalancer:
    """Any load balancer that makes sense. TCP-like listeners have ports of their own."""
    ports = draw(st.lists(st.sampled_from([53, 80, 443, 8080]), unique=True, max_size=3))
    chosen = [draw(listeners(draw(st.sampled_from([one for one in L if one is not L.UDP])), port)) for port in ports]
    if draw(st.booleans()):
        chosen.append(draw(listeners(L.UDP, 53)))
    return NewLoadBalancer(
        name=draw(names),
        description=draw(names),
        enabled=draw(st.booleans()),
        listeners=chosen,
        pools=draw(st.lists(st.sampled_from(list(P)).flatmap(pools), max_size=2)),
    )


def trees() -> st.SearchStrategy[LoadBalancer]:
    return wishes().map(lambda wish: wish.build(counter(), topology=Topology.SINGLE))
