"""Hypothesis strategies for load balancers as the API lets users make them, hostile texts included."""

from __future__ import annotations

import string
import uuid

import attrs
from hypothesis import strategies as st

from octavia_core.domain.tree import (
    AdditionalVip,
    HealthMonitor,
    L7Policy,
    L7Rule,
    Listener,
    LoadBalancer,
    Member,
    Pool,
    SessionPersistence,
    Vip,
)
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
    Provisioning,
    Topology,
)

__all__ = ["hostile_text", "ids", "load_balancers", "token"]

LP, PP = ListenerProtocol, PoolProtocol

POOLS_OF: dict[ListenerProtocol, tuple[PoolProtocol, ...]] = {
    LP.HTTP: (PP.HTTP, PP.PROXY, PP.PROXYV2),
    LP.HTTPS: (PP.HTTPS, PP.PROXY, PP.PROXYV2, PP.TCP),
    LP.TCP: (PP.HTTP, PP.HTTPS, PP.PROXY, PP.PROXYV2, PP.TCP),
    LP.TERMINATED_HTTPS: (PP.HTTP, PP.PROXY, PP.PROXYV2),
    LP.PROMETHEUS: (),
    LP.UDP: (PP.UDP,),
    LP.SCTP: (PP.SCTP,),
}
"""Which pools the API lets a listener have."""

_CONTROL = "".join(map(chr, [*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029]))

ids = st.uuids(version=4).map(str)
provisioning = st.sampled_from([*[Provisioning.ACTIVE] * 6, *Provisioning])
enabled = st.sampled_from([True, True, True, True, False])
ports = st.integers(1, 65535)
timeouts = st.none() | st.integers(0, 86_400_000)
token = st.text("!#$%&'*+-.^_`|~" + string.ascii_letters + string.digits, min_size=1, max_size=40)
"""Names of headers and cookies."""

SNIPPETS = (
    "'", '"', "\\", "\\'", "#", "$HOME", "${HOME}", "%[env(HOME)]", "%%", "{", "}", "if", "unless", "||", "!", "-f", "-i",
    "--", "-m", " group ", " group x", "group", ")", "(", ",", "\\x0a", "\\n", " ", "  ", "/", "?", "a", "ü", "\u3000", "\U0001f600",
)  # fmt: skip
"""What means something to HAProxy, to its parsers or to the agent."""

hostile_text = st.lists(
    st.sampled_from(SNIPPETS) | st.text(st.characters(blacklist_characters=_CONTROL, blacklist_categories=("Cs", "Cc")), max_size=5),
    min_size=1,
    max_size=8,
).map("".join).filter(bool)  # fmt: skip
"""Text without control characters, made of what could break out of its place."""

urls = hostile_text.map(lambda text: "https://example.com/" + "".join(text.split()))
addresses = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
references = st.uuids(version=4).map(lambda found: f"secret-{found}")


@st.composite
def monitors(draw: st.DrawFn, udp: bool) -> HealthMonitor:
    """A health monitor."""
    lvs = (MonitorType.UDP_CONNECT, MonitorType.SCTP)
    kinds = [kind for kind in MonitorType if (kind in lvs) == udp]
    return HealthMonitor(
        id=draw(ids),
        type=draw(st.sampled_from(kinds)),
        delay=draw(st.integers(1, 3600)),
        timeout=draw(st.integers(1, 3600)),
        max_retries=draw(st.integers(1, 10)),
        max_retries_down=draw(st.integers(1, 10)),
        http_method=draw(st.none() | st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE"])),
        url_path=draw(st.none() | hostile_text.map(lambda text: "/" + "".join(text.split()))),
        expected_codes=draw(st.sampled_from([None, "200", "200,202,404", "200-204", "100-599"])),
        http_version=draw(st.sampled_from([None, 1.0, 1.1])),
        domain_name=draw(st.none() | st.sampled_from(["example.com", "a.b.c.example"])),
        enabled=draw(enabled),
        provisioning_status=draw(provisioning),
    )


members = st.builds(
    Member,
    id=ids,
    address=addresses,
    protocol_port=ports,
    weight=st.integers(0, 256),
    enabled=enabled,
    backup=st.booleans(),
    monitor_address=st.none() | addresses,
    monitor_port=st.none() | ports,
    provisioning_status=provisioning,
)


@st.composite
def pools(draw: st.DrawFn, protocol: PoolProtocol) -> Pool:
    """A pool of that protocol."""
    udp = protocol in (PP.UDP, PP.SCTP)
    kind = draw(st.sampled_from(list(PersistenceType)))
    tls = draw(st.booleans()) and not udp
    sticky = SessionPersistence(type=kind, cookie_name=draw(token) if kind is PersistenceType.APP_COOKIE else None)
    found = Pool(
        id=draw(ids),
        protocol=protocol,
        lb_algorithm=draw(st.sampled_from([a for a in Algorithm if a is not Algorithm.SOURCE_IP_PORT])),
        enabled=draw(enabled),
        members=tuple(draw(st.lists(members, min_size=1, max_size=3, unique_by=lambda m: m.id))),
        health_monitor=draw(st.none() | monitors(udp)),
        session_persistence=draw(st.sampled_from([None, sticky])),
        provisioning_status=draw(provisioning),
    )
    if not tls:
        return found
    return attrs.evolve(
        found,
        tls_enabled=True,
        tls_certificate_id=draw(st.none() | references),
        ca_tls_certificate_id=draw(st.none() | references),
        crl_container_id=draw(st.none() | references),
        tls_ciphers=draw(st.sampled_from([None, "ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256", "no such'"])),
        tls_versions=draw(versions),
        alpn_protocols=draw(alpn),
    )


versions = st.sampled_from([(), ("TLSv1.2",), ("TLSv1.3",), ("TLSv1.2", "TLSv1.3"), ("TLSv1", "TLSv1.1", "TLSv1.2")])
alpn = st.lists(st.sampled_from(["h2", "http/1.1", "http/1.0"]), unique=True, max_size=3).map(tuple)


@st.composite
def rules(draw: st.DrawFn) -> L7Rule:
    """An L7 rule with a value of the kind its type wants."""
    kind = draw(st.sampled_from(list(L7RuleType)))
    compare = draw(st.sampled_from(list(CompareType)))
    value = draw(hostile_text)
    if kind is L7RuleType.SSL_VERIFY_RESULT:
        value = str(draw(st.integers(0, 100)))
    elif compare is CompareType.REGEX:
        value = draw(st.sampled_from([r"^/a\d+(b|c)$", r"\.(jpg|gif)", r"[a-z '\"#]+", r"\\x{0,3}", r"a b\sc"]))
    keyed = kind in (L7RuleType.HEADER, L7RuleType.COOKIE)
    dn = draw(st.sampled_from(["CN", "O", "OU"])) if kind is L7RuleType.SSL_DN_FIELD else None
    return L7Rule(
        id=draw(ids),
        type=kind,
        compare_type=compare,
        value=value,
        key=draw(token) if keyed else dn,
        invert=draw(st.booleans()),
        enabled=draw(enabled),
        provisioning_status=draw(provisioning),
    )


@st.composite
def policies(draw: st.DrawFn, position: int, pool_ids: list[str]) -> L7Policy:
    """An L7 policy at that position, which may redirect to one of these pools."""
    action = draw(st.sampled_from([a for a in L7Action if pool_ids or a is not L7Action.REDIRECT_TO_POOL]))
    return L7Policy(
        id=draw(ids),
        action=action,
        position=position,
        redirect_pool_id=draw(st.sampled_from(pool_ids)) if action is L7Action.REDIRECT_TO_POOL else None,
        redirect_url=draw(urls) if action is L7Action.REDIRECT_TO_URL else None,
        redirect_prefix=draw(urls) if action is L7Action.REDIRECT_PREFIX else None,
        redirect_http_code=draw(st.sampled_from([None, 301, 302, 303, 307, 308])),
        rules=tuple(draw(st.lists(rules(), min_size=1, max_size=3, unique_by=lambda r: r.id))),
        enabled=draw(enabled),
        provisioning_status=draw(provisioning),
    )


@st.composite
def listeners(draw: st.DrawFn, port: int, below: list[Pool], protocol: ListenerProtocol) -> Listener:
    """A listener on that port. It takes pools that it may have from `below`, and adds others there."""
    possible, wanted = POOLS_OF[protocol], draw(st.integers(0, 3))
    if possible and wanted:
        kind: PoolProtocol = draw(st.sampled_from(possible))
        below.append(draw(pools(kind)))
    fitting = [pool for pool in below if pool.protocol in POOLS_OF[protocol]]
    default = draw(st.sampled_from([None, *reversed(fitting)])) if fitting else None
    l7 = [pool.id for pool in fitting]
    terminates = protocol is LP.TERMINATED_HTTPS
    headers = ["X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto", "X-SSL-Client-DN", "X-SSL-Issuer", "X-Other"]
    found = Listener(
        id=draw(ids),
        protocol=protocol,
        protocol_port=port,
        enabled=draw(enabled),
        connection_limit=draw(st.sampled_from([-1, 0, 1, 1000, 2_000_000])),
        default_pool_id=default.id if default else None,
        insert_headers=draw(st.dictionaries(st.sampled_from(headers), st.sampled_from(["true", "False", "TRUE", "x"]))),
        timeout_client_data=draw(timeouts),
        timeout_member_connect=draw(timeouts),
        timeout_member_data=draw(timeouts),
        timeout_tcp_inspect=draw(timeouts),
        allowed_cidrs=draw(st.sampled_from([(), ("10.0.0.0/8",)])),
        l7policies=tuple(draw(policies(at, l7)) for at in range(1, draw(st.integers(1, 4)) + 1)),
        provisioning_status=draw(provisioning),
    )
    if not terminates:
        return found
    return attrs.evolve(
        found,
        tls_certificate_id=draw(references),
        sni_container_ids=tuple(draw(st.lists(references, max_size=2))),
        client_ca_tls_certificate_id=draw(st.none() | references),
        client_authentication=draw(st.sampled_from(list(ClientAuthentication))),
        client_crl_container_id=draw(st.none() | references),
        tls_ciphers=draw(st.sampled_from([None, "ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256", "a b"])),
        tls_versions=draw(versions),
        alpn_protocols=draw(alpn),
        hsts_max_age=draw(st.none() | st.integers(0, 2**31)),
        hsts_include_subdomains=draw(st.booleans()),
        hsts_preload=draw(st.booleans()),
    )


_OFTEN = (LP.HTTP, LP.HTTP, LP.TERMINATED_HTTPS, LP.HTTP, LP.TCP)


@st.composite
def load_balancers(draw: st.DrawFn, kinds: tuple[ListenerProtocol, ...] = (*_OFTEN, *ListenerProtocol)) -> LoadBalancer:
    """A load balancer with up to three listeners of these kinds and the pools they use, everything below them varied."""
    below: list[Pool] = []
    count = draw(st.sampled_from([1, 2, 3, 0]))
    found = [draw(listeners(8000 + at, below, draw(st.sampled_from(kinds)))) for at in range(count)]
    vips = draw(st.lists(addresses, min_size=1, max_size=3, unique=True))
    return LoadBalancer(
        id=draw(ids),
        project_id=draw(st.none() | hostile_text | st.just(uuid.UUID(int=7).hex)),
        name=draw(st.none() | st.text()),
        enabled=draw(enabled),
        topology=draw(st.sampled_from(list(Topology))),
        vip=Vip(ip_address=vips[0]),
        additional_vips=tuple(AdditionalVip(subnet_id="subnet", ip_address=vip) for vip in vips[1:]),
        listeners=tuple(found),
        pools=tuple(below),
        provisioning_status=draw(provisioning),
    )
