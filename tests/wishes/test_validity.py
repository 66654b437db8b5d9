"""What a user can get wrong: one thing wrong at a time, and the sentence names the object and the field.

One file, since most of it is one list of wishes and sentences.
"""

from __future__ import annotations

import warnings
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Member, SessionPersistence, Vip
from octavia_core.domain.vocabulary import (
    Algorithm,
    ClientAuthentication,
    CompareType,
    Kind,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    PoolProtocol,
    Provisioning,
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
from octavia_core.errors import BadRequest
from octavia_core.policy import validity
from octavia_core.policy.validity.listeners import USABLE
from octavia_core.policy.validity.values import regular_expression
from tests.wishes.strategies import SPEAKS, counter

L, P, M, S = ListenerProtocol, PoolProtocol, MonitorType, PersistenceType


def listener(**values: Any) -> NewLoadBalancer:
    one = NewListener(**{"name": "web", "protocol": L.HTTP, "protocol_port": 80, **values})
    return NewLoadBalancer(name="lb", listeners=[one])


def secure(**values: Any) -> NewLoadBalancer:
    return listener(**{"protocol": L.TERMINATED_HTTPS, "tls_certificate_id": "c", **values})


def pool(**values: Any) -> NewLoadBalancer:
    return NewLoadBalancer(name="lb", pools=[NewPool(**{"name": "p", "protocol": P.HTTP, **values})])


def member(*values: Any, **more: Any) -> NewLoadBalancer:
    address, port = values if len(values) == 2 else ("10.0.0.1", 80)
    return pool(members=[NewMember(address, port, name="m", **more)])


def monitor(protocol: PoolProtocol = P.HTTP, **values: Any) -> NewLoadBalancer:
    return pool(protocol=protocol, health_monitor=NewHealthMonitor(name="hm", **values))


def kept(protocol: PoolProtocol = P.HTTP, **values: Any) -> NewLoadBalancer:
    return pool(protocol=protocol, session_persistence=SessionPersistence(**values))


def policy(*, on: NewLoadBalancer | None = None, **values: Any) -> NewLoadBalancer:
    wish = on or listener()
    made = NewL7Policy(**{"name": "pol", "action": L7Action.REJECT, **values})
    return attrs.evolve(wish, listeners=[attrs.evolve(wish.listeners[0], l7policies=[made])])


def rule(*, on: NewLoadBalancer | None = None, **values: Any) -> NewLoadBalancer:
    return policy(on=on, rules=[NewL7Rule(**{"type": L7RuleType.PATH, "value": "/", **values})])


def two(*protocols: ListenerProtocol) -> NewLoadBalancer:
    return NewLoadBalancer(listeners=[NewListener(protocol=p, protocol_port=53, name=f"l-{p}") for p in protocols])


URL = {"action": L7Action.REDIRECT_TO_URL}

# What is wrong, and words of the sentence about it.
WRONG: dict[str, list[tuple[NewLoadBalancer, str]]] = {
    "addresses": [
        (
            member("www.example.com", 80),
            r"member 'm' of pool 'p': address is 'www.example.com'.*host name is not resolved",
        ),
        (member("10.0.0.0/8", 80), "not a network"),
        (member("10.0.0.1:80", 80), "address.*without a port"),
        (member("[::1]:80", 80), "address.*without brackets and port"),
        (member("10.0.0.256", 80), "address is '10.0.0.256'"),
        (member("10.0.0", 80), "address is '10.0.0'"),
        (member("010.0.0.1", 80), "address is '010.0.0.1'"),
        (member("fe80::1%eth0", 80), "address.*without a zone"),
        (member("0.0.0.0", 80), "address.*of one host"),
        (member("224.0.0.1", 80), "address.*of one host"),
        (member("", 80), "address is ''"),
        (member(" 10.0.0.1", 80), "address"),
        (member("10.0.0.1\n", 80), "address.*without control characters"),
        (member(10, 80), "address is 10, but must be an IPv4 or IPv6 address"),
        (member(monitor_address="host"), "monitor_address"),
        (attrs.evolve(listener(), vip_address="vip.example.com"), "VIP of load balancer 'lb': ip_address"),
        (attrs.evolve(listener(), additional_vips=[AdditionalVip(subnet_id="s", ip_address="x")]), "additional_vips"),
    ],
    "members": [
        (member("10.0.0.1", 0), "protocol_port is 0, but must be a whole number from 1 to 65535"),
        (member("10.0.0.1", 65536), "protocol_port is 65536"),
        (member("10.0.0.1", "80"), "protocol_port is '80'"),
        (member("10.0.0.1", True), "protocol_port is True"),
        (member(weight=257), "weight is 257, but must be a whole number from 0 to 256"),
        (member(weight=-1), "weight is -1"),
        (member(monitor_port=0), "monitor_port"),
        (member(backup="yes"), "backup is 'yes', but must be true or false"),
        (member(subnet_id="a b"), "subnet_id"),
        (
            pool(protocol=P.UDP, members=[NewMember("10.0.0.1", 53, backup=True)]),
            "member 10.0.0.1:53 of pool 'p': backup is True, but must be false: in a UDP pool",
        ),
        (
            listener(
                protocol=L.UDP,
                default_pool=NewPool(protocol=P.UDP, members=[NewMember("10.0.0.1", 53), NewMember("::1", 53)]),
            ),
            "address is '::1', but must be an IPv4 address, as member 10.0.0.1:53 has: UDP listener 'web' uses",
        ),
        (
            attrs.evolve(
                listener(protocol=L.UDP, default_pool=NewPool(protocol=P.UDP, members=[NewMember("::1", 53)])),
                vip_address="10.0.0.9",
            ),
            "address is '::1', but must be an IPv4 address, as the VIP has: UDP listener 'web' uses the pool",
        ),
        (
            pool(members=[NewMember("10.0.0.1", 80, name="a"), NewMember("10.0.0.1", 80, name="b")]),
            "'b': address and.*'a'",
        ),
        (pool(members=[NewMember("::1", 80), NewMember("0:0::1", 80)]), "no other member of pool 'p' has"),
    ],
    "names": [
        (listener(name="a\nb"), "name is .*without control characters"),
        (listener(name="x" * 256), "name is .*at most 255 characters long; this has 256"),
        (pool(name="\ud800"), "name is"),
        (attrs.evolve(listener(), name="\x7f"), "name is"),
        (attrs.evolve(listener(), description="x" * 256), "description"),
        (listener(description="\x00"), "description"),
    ],
    "listeners": [
        (listener(protocol_port=0), "listener 'web': protocol_port is 0"),
        (listener(protocol="SMTP"), "protocol is 'SMTP', but must be HTTP, HTTPS"),
        (two(L.TCP, L.TCP), "protocol_port is 53"),
        (two(L.TCP, L.HTTP), "'l-HTTP': protocol_port is 53, but must be a TCP port.*'l-TCP' has it"),
        (two(L.UDP, L.SCTP, L.UDP), "UDP port"),
        (listener(connection_limit=0), "connection_limit is 0, but must be -1"),
        (listener(connection_limit=-2), "connection_limit"),
        (listener(timeout_client_data=-1), "timeout_client_data"),
        (listener(timeout_tcp_inspect=2**31), "timeout_tcp_inspect is 2147483648"),
        (listener(default_pool_id="nothing"), "default_pool_id is 'nothing', but must be the id of a pool"),
        (listener(protocol=L.PROMETHEUS, default_pool_id="p"), "default_pool_id"),
        (listener(allowed_cidrs=["10.0.0.1"]), "allowed_cidrs.*'10.0.0.1' is not"),
        (listener(allowed_cidrs=["10.0.0.1/8"]), "allowed_cidrs.*host bits are zero: 10.0.0.0/8"),
        (listener(allowed_cidrs=["10.0.0.0/8", "10.0.0.0/8"]), "allowed_cidrs.*there twice"),
        (attrs.evolve(listener(allowed_cidrs=["::/0"]), vip_address="10.0.0.1"), "allowed_cidrs.*IPv4"),
    ],
    "headers": [
        (listener(insert_headers={"X-Forwarded-For": True}), "insert_headers value of X-Forwarded-For is True"),
        (listener(insert_headers={"X-Forwarded-For": "yes"}), "insert_headers value"),
        (listener(insert_headers={"X-Forwarded-Host": "true"}), "insert_headers key is 'X-Forwarded-Host'"),
        (listener(insert_headers={"X-SSL-Client-DN": "true"}), "insert_headers X-SSL-Client-DN.*TERMINATED_HTTPS can"),
        (listener(protocol=L.TCP, insert_headers={"X-Forwarded-For": "true"}), "insert_headers"),
        (listener(insert_headers=5), "insert_headers is 5"),
    ],
    "TLS of listeners": [
        (listener(protocol=L.TERMINATED_HTTPS), "tls_certificate_id is not set"),
        (listener(tls_certificate_id="c"), "tls_certificate_id is 'c', but must be left out: a HTTP listener"),
        (listener(sni_container_ids=["c"]), "sni_container_ids"),
        (listener(tls_versions=["TLSv1.2"]), "tls_versions"),
        (listener(alpn_protocols=["h2"]), "alpn_protocols"),
        (listener(protocol=L.HTTPS, tls_ciphers="DEFAULT"), "tls_ciphers"),
        (listener(client_authentication=ClientAuthentication.OPTIONAL), "client_authentication"),
        (listener(hsts_max_age=0), "hsts_max_age is 0"),
        (secure(tls_certificate_id="a b"), "tls_certificate_id"),
        (secure(tls_certificate_id="x" * 256), "tls_certificate_id"),
        (secure(sni_container_ids=["x" * 129]), "sni_container_ids"),
        (secure(sni_container_ids=["a", "a"]), "sni_container_ids"),
        (
            secure(client_authentication=ClientAuthentication.MANDATORY),
            "client_authentication.*client_ca_tls_certificate_id",
        ),
        (secure(client_crl_container_id="crl"), "client_crl_container_id.*client_ca_tls_certificate_id"),
        (secure(tls_ciphers="A;reload"), "tls_ciphers"),
        (secure(tls_ciphers="A\n"), "tls_ciphers"),
        (secure(tls_ciphers=""), "tls_ciphers"),
        (secure(tls_versions=["TLSv1.4"]), "tls_versions.*'TLSv1.4' is not"),
        (secure(tls_versions=["TLSv1.2", "TLSv1.2"]), "tls_versions"),
        (secure(alpn_protocols=["spdy"]), "alpn_protocols"),
        (secure(alpn_protocols="h2"), "alpn_protocols"),
        (secure(hsts_preload=True), "hsts_preload.*hsts_max_age"),
        (secure(hsts_max_age=-1), "hsts_max_age"),
    ],
    "pools": [
        (pool(lb_algorithm=Algorithm.SOURCE_IP_PORT), "pool 'p': lb_algorithm is SOURCE_IP_PORT"),
        (pool(protocol=P.UDP, tls_enabled=True), "tls_enabled"),
        (pool(crl_container_id="crl"), "crl_container_id.*ca_tls_certificate_id"),
        (pool(tls_ciphers="a b"), "tls_ciphers"),
        (
            pool(protocol=P.UDP, tls_ciphers="DEFAULT"),
            "tls_ciphers is 'DEFAULT', but must be left out: members of a UDP",
        ),
        (pool(protocol=P.SCTP, alpn_protocols=["h2"]), "alpn_protocols.*left out: members of a SCTP pool speak no TLS"),
        (
            listener(protocol=L.TCP, default_pool=NewPool(protocol=P.UDP)),
            "new UDP pool: protocol is UDP, but must be HTTP.*since TCP listener 'web' uses it",
        ),
        (
            listener(default_pool=NewPool(protocol=P.TCP)),
            "new TCP pool: protocol is TCP, but must be HTTP, PROXY or PROXYV2",
        ),
    ],
    "session persistence": [
        (kept(type=S.APP_COOKIE), "session persistence of pool 'p': cookie_name is not set"),
        (kept(type=S.APP_COOKIE, cookie_name="a b"), "cookie_name"),
        (kept(type=S.APP_COOKIE, cookie_name="a;b"), "cookie_name"),
        (kept(type=S.HTTP_COOKIE, cookie_name="a"), "cookie_name is 'a', but must be left out"),
        (kept(P.TCP, type=S.HTTP_COOKIE), "type is HTTP_COOKIE, but must be SOURCE_IP"),
        (kept(P.UDP, type=S.APP_COOKIE, cookie_name="a"), "type is APP_COOKIE"),
        (kept(type=S.SOURCE_IP, persistence_timeout=5), "persistence_timeout"),
        (kept(P.UDP, type=S.SOURCE_IP, persistence_timeout=0), "persistence_timeout"),
        (
            kept(P.UDP, type=S.SOURCE_IP, persistence_timeout=31_536_001),
            "persistence_timeout.*at most 31536000 seconds",
        ),
        (kept(P.UDP, type=S.SOURCE_IP, persistence_granularity="255.0.255.0"), "persistence_granularity"),
        (kept(P.UDP, type=S.SOURCE_IP, persistence_granularity="129"), "persistence_granularity"),
        (pool(session_persistence="SOURCE_IP"), "session_persistence"),
        (
            listener(
                protocol=L.TCP,
                default_pool=NewPool(protocol=P.PROXY, session_persistence=SessionPersistence(type=S.HTTP_COOKIE)),
            ),
            "session_persistence type is HTTP_COOKIE",
        ),
    ],
    "monitors": [
        (monitor(delay=0), "health monitor 'hm' of pool 'p': delay is 0"),
        (monitor(timeout=0), "timeout"),
        (monitor(delay=2**31), "delay"),
        (monitor(max_retries=11), "max_retries is 11, but must be a whole number from 1 to 10"),
        (monitor(max_retries_down=0), "max_retries_down"),
        (monitor(type=M.HTTP, http_method="FETCH"), "http_method"),
        (monitor(type=M.HTTP, http_method="get"), "http_method is 'get', but must be CONNECT"),
        (monitor(type=M.HTTP, url_path="health"), "url_path is 'health', but must be a path that begins with /"),
        (monitor(type=M.HTTP, url_path="/a b"), "url_path"),
        (monitor(type=M.HTTP, url_path="/\r\nX: y"), "url_path"),
        (monitor(type=M.HTTP, url_path="/" + "x" * 255), "url_path"),
        (monitor(type=M.HTTP, expected_codes="ok"), "expected_codes is 'ok'"),
        (monitor(type=M.HTTP, expected_codes="600"), "expected_codes"),
        (monitor(type=M.HTTP, expected_codes="099"), "expected_codes"),
        (monitor(type=M.HTTP, expected_codes="204-200"), "expected_codes.*lower end"),
        (monitor(type=M.HTTP, expected_codes="200,"), "expected_codes"),
        (monitor(type=M.HTTP, expected_codes=200), "expected_codes is 200"),
        (monitor(type=M.HTTP, http_version=2.0), "http_version is 2.0, but must be 1.0 or 1.1"),
        (monitor(type=M.HTTP, domain_name="www.example.com"), "http_version is not set, but must be 1.1"),
        (monitor(type=M.HTTP, domain_name="a b", http_version=1.1), "domain_name"),
        (monitor(type=M.TCP, url_path="/"), "url_path is '/', but must be left out: a TCP monitor"),
        (monitor(type=M.UDP_CONNECT), "type is UDP-CONNECT, but must be HTTP, HTTPS"),
        (monitor(P.UDP, type=M.PING), "type is PING"),
        (monitor(P.SCTP, type=M.UDP_CONNECT), "type is UDP-CONNECT"),
        (monitor(P.UDP, type=M.HTTP, http_method="HEAD"), "http_method is 'HEAD', but must be GET"),
        (
            monitor(P.UDP, type=M.HTTP, url_path="/~user"),
            "url_path is '/~user', but must be a path in a UDP pool without",
        ),
        (monitor(P.UDP, type=M.HTTP, url_path="/ü"), "url_path"),
        (monitor(P.UDP, type=M.UDP_CONNECT, timeout=86_401), "timeout is 86401, but must be at most 86400 seconds"),
    ],
    "policies": [
        (policy(on=listener(protocol=L.TCP)), "listener 'web': protocol is TCP.*L7 policy 'pol'"),
        (policy(**URL), "L7 policy 'pol' of listener 'web': redirect_url is not set"),
        (
            policy(redirect_url="http://a/"),
            "redirect_url is 'http://a/', but must be left out, since the action is REJECT",
        ),
        (policy(**URL, redirect_url="http://a/", redirect_prefix="http://a/"), "redirect_prefix"),
        (policy(**URL, redirect_url="ftp://a/"), "redirect_url"),
        (policy(**URL, redirect_url="/relative"), "redirect_url"),
        (policy(**URL, redirect_url="http:///a"), "redirect_url"),
        (policy(**URL, redirect_url="http://a/ b"), "redirect_url"),
        (policy(**URL, redirect_url="http://a:99999/"), "redirect_url"),
        (policy(**URL, redirect_url="http://[::1/"), "redirect_url"),
        (policy(**URL, redirect_url="http://a/", redirect_http_code=300), "redirect_http_code is 300, but must be 301"),
        (policy(redirect_http_code=302), "redirect_http_code"),
        (policy(action=L7Action.REDIRECT_TO_POOL), "redirect_pool_id is not set"),
        (policy(action=L7Action.REDIRECT_TO_POOL, redirect_pool_id="x"), "redirect_pool_id is 'x'"),
        (
            policy(action=L7Action.REDIRECT_TO_POOL, redirect_pool=NewPool(protocol=P.TCP)),
            "new TCP pool: protocol is TCP, but must be HTTP, PROXY or PROXYV2",
        ),
        (
            policy(rules=[NewL7Rule(type=L7RuleType.PATH, value="/")] * 51),
            "number of rules is 51, but must be at most 50",
        ),
    ],
    "rules": [
        (rule(value=""), "number 1 of L7 policy 'pol'.*value is ''"),
        (rule(value="x" * 256), "value"),
        (rule(value="/\n"), "value"),
        (rule(value="api"), "value is 'api', but must be a path that begins with /"),
        (rule(key="k"), "key is 'k', but must be left out"),
        (rule(type=L7RuleType.HEADER, value="v"), "key is not set, but must be the name of the header"),
        (
            rule(type=L7RuleType.HEADER, value=" v", key="X"),
            "value is ' v', but must be text that does not begin with a",
        ),
        (
            rule(type=L7RuleType.HEADER, value="v ", key="X", compare_type=CompareType.ENDS_WITH),
            "text that does not end with a blank",
        ),
        (rule(type=L7RuleType.COOKIE, value="v", key="a b"), "key is 'a b'"),
        (rule(type=L7RuleType.FILE_TYPE, compare_type=CompareType.CONTAINS), "compare_type is CONTAINS"),
        (rule(compare_type=CompareType.REGEX, value="("), "value is '\\(', but must be a regular expression"),
        (rule(compare_type=CompareType.REGEX, value="a{2,1}"), "value"),
        (rule(type=L7RuleType.SSL_CONN_HAS_CERT, value="True"), "type is SSL_CONN_HAS_CERT.*TERMINATED_HTTPS"),
        (rule(on=secure(), type=L7RuleType.SSL_CONN_HAS_CERT, value="1"), "value is '1', but must be True"),
        (rule(on=secure(), type=L7RuleType.SSL_VERIFY_RESULT, value="-1"), "value is '-1'"),
        (rule(on=secure(), type=L7RuleType.SSL_VERIFY_RESULT, value="65536"), "value"),
        (rule(on=secure(), type=L7RuleType.SSL_DN_FIELD, value="x", key="C N"), "key"),
    ],
}


def nameless(**values: Any) -> NewLoadBalancer:
    return NewLoadBalancer(listeners=[NewListener(**{"protocol": L.HTTP, "protocol_port": 80, **values})])


def default(**values: Any) -> NewLoadBalancer:
    return nameless(default_pool=NewPool(**values))


def behind_policy(made: NewL7Policy) -> NewLoadBalancer:
    return nameless(l7policies=[NewL7Policy(action="REJECT"), made])


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (NewLoadBalancer(project_id="x" * 99), "new load balancer: project_id is"),
        (nameless(protocol_port=0), "new listener HTTP:0: protocol_port is 0, but"),
        (nameless(protocol_port="x"), "new listener HTTP:'x': protocol_port is 'x', but"),
        (nameless(default_pool_id="no"), "new listener HTTP:80: default_pool_id is 'no', but"),
        (NewLoadBalancer(pools=[NewPool(protocol=P.TCP, crl_container_id="c")]), "new TCP pool: crl_container_id is 'c',"),
        (default(crl_container_id="c"), "new HTTP pool of new listener HTTP:80: crl_container_id is 'c',"),
        (default(protocol=P.TCP), "new TCP pool: protocol is TCP, but .* since new listener HTTP:80 uses it"),
        (nameless(protocol=L.PROMETHEUS, default_pool=NewPool()), "new listener PROMETHEUS:80: default_pool is new HTTP pool"),
        (default(members=[NewMember("a", 80)]), "^member a:80 of new HTTP pool of new listener HTTP:80: address is 'a'"),
        (default(members=[NewMember(1, 80)]), "new member of new HTTP pool of new listener HTTP:80: address is 1,"),
        (
            default(health_monitor=NewHealthMonitor(type=M.TCP, url_path="/")),
            "new TCP health monitor of new HTTP pool of new listener HTTP:80: url_path is '/', but",
        ),
        (
            default(session_persistence=SessionPersistence(type=S.APP_COOKIE)),
            "session persistence of new HTTP pool of new listener HTTP:80: cookie_name is not set, but",
        ),
        (
            behind_policy(NewL7Policy(action="REDIRECT_TO_URL")),
            "new L7 policy number 2 of new listener HTTP:80: redirect_url is not set",
        ),
        (
            behind_policy(NewL7Policy(action="REDIRECT_TO_POOL", redirect_pool=NewPool(crl_container_id="c"))),
            "new HTTP pool of new L7 policy number 2 of new listener HTTP:80: crl_container_id is 'c', but",
        ),
        (
            behind_policy(NewL7Policy(action="REJECT", rules=[NewL7Rule(type="PATH", value="x")])),
            r"new L7 rule \(number 1 of new L7 policy number 2 of new listener HTTP:80\): value is 'x', but",
        ),
    ],
)  # fmt: skip
def test_what_is_new_and_has_no_name_is_called_what_it_is_and_where(wish: NewLoadBalancer, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        validity.check(wish.build(counter("unseen"), topology=Topology.SINGLE))
    assert "unseen" not in str(refused.value)


def test_what_is_there_and_has_no_name_is_called_by_its_id() -> None:
    tree = nameless(protocol_port=0).build(counter("seen"), topology=Topology.SINGLE)
    there = attrs.evolve(tree.listeners[0], provisioning_status=Provisioning.ACTIVE)
    with pytest.raises(BadRequest, match=f"^listener {there.id}: protocol_port is 0"):
        validity.check(attrs.evolve(tree, listeners=(there,)))


@pytest.mark.parametrize(
    "pattern",
    [
        "[[.a.]]",
        "[[=a=]]",
        "[^[a]",
        "[a--]?",
        "[+--]",
        "[a-z&&[^b]]",
        "[a||b]",
        "[a~~b]",
        "[]&&[]",
        r"[\[&&]",
        r"\[[[a]",
        "[+----]",
    ],
)
def test_a_doubtful_pattern_says_nothing_on_standard_error(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        allowed = regular_expression(pattern)
    assert allowed is None or pattern == "[a--]?"  # a range that ends before it begins, here as in HAProxy


@pytest.mark.parametrize("pattern", ["[[a", "[a&&", "[[\\", "[^||\\", "[z-a]", "[[z-a]", "(?P<a", "a{2,1}", "*"])
def test_what_is_no_pattern_is_refused_without_a_warning(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (regular_expression(pattern) or "").startswith("a regular expression (")


@given(st.text(alphabet="[]^-&|~ab\\(", max_size=12))
def test_no_pattern_warns(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regular_expression(pattern)


CASES = [
    pytest.param(wish, words, id=f"{group}-{index}")
    for group, wrong in WRONG.items()
    for index, (wish, words) in enumerate(wrong)
]


@pytest.mark.parametrize(("wish", "words"), CASES)
def test_one_thing_wrong_is_one_sentence_that_names_it(wish: NewLoadBalancer, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        validity.check(wish.build(counter("unseen"), topology=Topology.SINGLE))
    assert str(refused.value).isprintable()
    assert "unseen" not in str(refused.value), "nobody knows the id of what is not made"


@pytest.mark.parametrize("protocol", list(L))
def test_listeners_use_the_pools_that_upstream_allows(protocol: ListenerProtocol) -> None:
    assert set(USABLE[protocol]) == set(SPEAKS[protocol])


def tree(wish: NewLoadBalancer) -> LoadBalancer:
    return wish.build(counter(), topology=Topology.SINGLE)


def test_a_pool_is_refused_by_the_listener_that_uses_it_whichever_of_them_changes() -> None:
    good = tree(listener(default_pool=NewPool(name="p")))
    settled = attrs.evolve(good.listeners[0], provisioning_status=Provisioning.ACTIVE)
    udp = attrs.evolve(good.pools[0], protocol=P.UDP, provisioning_status=Provisioning.ACTIVE)
    bad = attrs.evolve(good, listeners=(settled,), pools=(udp,), provisioning_status=Provisioning.ACTIVE)
    validity.check(bad, ())
    with pytest.raises(BadRequest, match=r"pool 'p': protocol is UDP, but must be HTTP.*HTTP listener 'web' uses it"):
        validity.check(bad, (Subject(Kind.POOL, udp.id),))
    with pytest.raises(BadRequest, match="listener 'web': default_pool_id"):
        validity.check(bad, (Subject(Kind.LISTENER, settled.id),))


def settled_udp(**values: Any) -> LoadBalancer:
    """A UDP load balancer as upstream's API may have left it: with values that are ignored."""
    members = [NewMember("10.0.0.1", 53), NewMember("2001:db8::1", 53)]
    wish = listener(protocol=L.UDP, default_pool=NewPool(name="p", protocol=P.UDP, members=members))
    found = tree(attrs.evolve(wish, vip_address="10.0.0.9"))
    done = {"provisioning_status": Provisioning.ACTIVE}
    (only,), (udp,) = found.listeners, found.pools
    inside = tuple(attrs.evolve(one, backup=True, **done) for one in udp.members)
    return attrs.evolve(
        found,
        listeners=(attrs.evolve(only, timeout_client_data=50_000, **done),),
        pools=(attrs.evolve(udp, tls_ciphers="DEFAULT", members=inside, **done),),
        **done,
    )


def test_what_upstream_s_api_wrote_into_datagram_rows_refuses_no_change_of_something_else() -> None:
    before = settled_udp()
    (only,), (udp,) = before.listeners, before.pools
    everything = (
        Subject(Kind.LISTENER, only.id),
        Subject(Kind.POOL, udp.id),
        *(Subject(Kind.MEMBER, one.id) for one in udp.members),
    )
    renamed = attrs.evolve(before, listeners=(attrs.evolve(only, name="other"),))
    validity.check(renamed, everything, before=before)
    slower = attrs.evolve(before, listeners=(attrs.evolve(only, timeout_client_data=50_001),))
    with pytest.raises(
        BadRequest, match="timeout_client_data is 50001, but must be left out: what serves UDP knows no"
    ):
        validity.check(slower, everything, before=before)
    six = attrs.evolve(udp.members[0], address="2001:db8::7")
    moved = attrs.evolve(before, pools=(attrs.evolve(udp, members=(six, udp.members[1])),))
    with pytest.raises(BadRequest, match="address is '2001:db8::7', but must be an IPv4 address"):
        validity.check(moved, everything, before=before)


def test_what_is_made_by_a_wish_is_checked_though_only_its_parent_is_named() -> None:
    made = tree(member("nowhere", 80))
    with pytest.raises(BadRequest, match="address"):
        validity.check(made, (Subject(Kind.POOL, made.pools[0].id),))


def test_the_newer_of_two_clashing_listeners_is_the_one_that_is_refused() -> None:
    both = tree(two(L.TCP, L.HTTP))
    old = attrs.evolve(both.listeners[0], provisioning_status=Provisioning.ACTIVE)
    with pytest.raises(BadRequest, match=r"^listener 'l-HTTP'"):
        validity.check(attrs.evolve(both, listeners=(both.listeners[1], old)), ())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"listeners": [1]}, "listeners"),
        ({"listeners": (1,)}, "a tuple of Listener"),
        ({"pools": None}, "pools"),
        ({"id": "../../etc"}, "id is"),
        ({"vip": None}, "vip is not set"),
        ({"vip": Vip(vnic_type="fast")}, "vnic_type is 'fast', but must be normal or direct"),
        ({"topology": "SINGLE"}, "topology"),
    ],
)
def test_a_tree_of_the_wrong_shape_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        validity.check(attrs.evolve(LoadBalancer(id="lb"), **values))


def test_there_is_a_bound_on_members() -> None:
    many = tuple(Member(id=f"m{n}", address="10.0.0.1", protocol_port=80) for n in range(10_001))
    made = tree(pool())
    with pytest.raises(BadRequest, match="number of members is 10001, but must be at most 10000"):
        validity.check(attrs.evolve(made, pools=(attrs.evolve(made.pools[0], members=many),)))
