"""Changes and documents: what users write becomes values, or one sentence that names the place."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavia_core.domain.codec import to_json
from octavia_core.domain.tree import (
    HealthMonitor,
    L7Policy,
    L7Rule,
    Listener,
    LoadBalancer,
    Member,
    Pool,
    SessionPersistence,
)
from octavia_core.domain.vocabulary import (
    Algorithm,
    ClientAuthentication,
    Kind,
    L7Action,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    PoolProtocol,
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
from octavia_core.policy.changes import normalised, tidy, wish
from octavia_core.policy.changes.names import CHANGEABLE, FIXED
from tests.wishes.strategies import wishes

CLASSES: dict[Kind, type] = {
    Kind.LOAD_BALANCER: LoadBalancer,
    Kind.LISTENER: Listener,
    Kind.POOL: Pool,
    Kind.MEMBER: Member,
    Kind.HEALTH_MONITOR: HealthMonitor,
    Kind.L7POLICY: L7Policy,
    Kind.L7RULE: L7Rule,
}
NEW = [NewLoadBalancer, NewListener, NewPool, NewMember, NewHealthMonitor, NewL7Policy, NewL7Rule]
relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


@pytest.mark.parametrize(
    ("kind", "given_", "values"),
    [
        (Kind.MEMBER, {"weight": "5", "admin_state_up": "no"}, {"weight": 5, "enabled": False}),
        (Kind.MEMBER, {"Monitor-Port": " 81 ", "backup": "TRUE"}, {"monitor_port": 81, "backup": True}),
        (Kind.MEMBER, {"monitor_address": "none", "name": None}, {"monitor_address": None, "name": None}),
        (Kind.MEMBER, {"weight": None}, {"weight": 1}),
        (Kind.POOL, {"algorithm": "round-robin"}, {"lb_algorithm": Algorithm.ROUND_ROBIN}),
        (
            Kind.POOL,
            {"tls_container_ref": "a", "crl_container_ref": "b"},
            {"tls_certificate_id": "a", "crl_container_id": "b"},
        ),
        (Kind.POOL, {"ca_tls_container_ref": "c"}, {"ca_tls_certificate_id": "c"}),
        (
            Kind.POOL,
            {"session_persistence": "source_ip"},
            {"session_persistence": SessionPersistence(type=PersistenceType.SOURCE_IP)},
        ),
        (
            Kind.POOL,
            {"session_persistence": "type=APP_COOKIE,cookie_name=who"},
            {"session_persistence": SessionPersistence(type=PersistenceType.APP_COOKIE, cookie_name="who")},
        ),
        (Kind.POOL, {"session_persistence": "none"}, {"session_persistence": None}),
        (Kind.LISTENER, {"client_authentication": "none"}, {"client_authentication": ClientAuthentication.NONE}),
        (Kind.LISTENER, {"alpn_protocols": "h2, http/1.1"}, {"alpn_protocols": ("h2", "http/1.1")}),
        (
            Kind.LISTENER,
            {"tls_versions": "none", "connection_limit": "none"},
            {"tls_versions": (), "connection_limit": -1},
        ),
        (Kind.LISTENER, {"sni_container_refs": ["a", "b"]}, {"sni_container_ids": ("a", "b")}),
        (Kind.LISTENER, {"default_tls_container_ref": "a"}, {"tls_certificate_id": "a"}),
        (Kind.LISTENER, {"client_ca_tls_container_ref": "a"}, {"client_ca_tls_certificate_id": "a"}),
        (Kind.LISTENER, {"client_crl_container_ref": "a"}, {"client_crl_container_id": "a"}),
        (Kind.LISTENER, {"insert_headers": "X-Forwarded-For=true"}, {"insert_headers": {"X-Forwarded-For": "true"}}),
        (
            Kind.LISTENER,
            {"insert_headers": {"X-Forwarded-For": False}},
            {"insert_headers": {"X-Forwarded-For": "false"}},
        ),
        (Kind.LISTENER, {"insert_headers": None}, {"insert_headers": {}}),
        (
            Kind.HEALTH_MONITOR,
            {"fall_threshold": 2, "expected_codes": 200},
            {"max_retries_down": 2, "expected_codes": "200"},
        ),
        (Kind.HEALTH_MONITOR, {"http_version": "1.1"}, {"http_version": 1.1}),
        (Kind.L7RULE, {"value": "none", "type": "host_name"}, {"value": "none", "type": "HOST_NAME"}),
        (Kind.L7POLICY, {"position": "2"}, {"position": 2}),
    ],
)
def test_changes_become_values_of_the_tree(kind: Kind, given_: dict[str, Any], values: dict[str, Any]) -> None:
    found = normalised(kind, given_)
    assert found == values
    assert [type(value) for value in found.values()] == [
        type(value) for value in values.values()
    ] or kind is Kind.L7RULE


def test_a_policy_with_another_action_loses_the_targets_of_the_old_one() -> None:
    assert normalised(Kind.L7POLICY, {"action": "redirect_to_url", "redirect_url": "http://a/"}) == {
        "action": L7Action.REDIRECT_TO_URL,
        "redirect_url": "http://a/",
        "redirect_prefix": None,
        "redirect_pool_id": None,
    }
    assert normalised(Kind.L7POLICY, {"action": "REJECT"})["redirect_http_code"] is None
    with pytest.raises(BadRequest, match="redirect_url is 'x', but must be left out: the action is REJECT"):
        normalised(Kind.L7POLICY, {"action": "REJECT", "redirect_url": "x"})


@pytest.mark.parametrize(
    ("kind", "given_", "words"),
    [
        (Kind.MEMBER, {}, "nothing to change: name at least one of name, weight"),
        (Kind.MEMBER, {"wieght": 1}, "member: there is no attribute 'wieght'; did you mean 'weight'"),
        (Kind.MEMBER, {"quux": 1}, "known are backup, enabled"),
        (Kind.MEMBER, {3: 1}, "3 is no name of an attribute"),
        (Kind.MEMBER, {"weight": "heavy"}, "member: weight is 'heavy', but must be a whole number"),
        (Kind.MEMBER, {"weight": 1.5}, "weight is 1.5"),
        (Kind.MEMBER, {"weight": True}, "weight is True"),
        (Kind.MEMBER, {"enabled": "maybe"}, "enabled is 'maybe', but must be true or false"),
        (
            Kind.MEMBER,
            {"enabled": True, "admin_state_up": True},
            "enabled is given twice, as 'enabled' and as 'admin_state_up'",
        ),
        (Kind.MEMBER, {"address": "10.0.0.1"}, "address of a member cannot be changed during its life"),
        (Kind.MEMBER, {"ip_address": "10.0.0.1"}, "address of a member cannot be changed"),
        (Kind.MEMBER, {"pool_id": "x"}, "pool_id of a member is kept by the controller"),
        (Kind.MEMBER, {"provisioning_status": "ACTIVE"}, "kept by the controller"),
        (Kind.LISTENER, {"protocol": "HTTP"}, "protocol of a listener cannot be changed"),
        (Kind.LISTENER, {"port": 1}, "protocol_port of a listener cannot be changed"),
        (Kind.LISTENER, {"l7policies": []}, "l7policies cannot be set on a listener"),
        (Kind.LISTENER, {"default_pool": "x"}, "is chosen with default_pool_id"),
        (Kind.LISTENER, {"client_authentication": "sometimes"}, "must be NONE, OPTIONAL or MANDATORY"),
        (Kind.POOL, {"lb_algorithm": "FOO"}, "but must be ROUND_ROBIN, LEAST_CONNECTIONS or SOURCE_IP$"),
        (Kind.LISTENER, {"insert_headers": "X-Forwarded-For"}, "must be pairs such as name=value"),
        (Kind.POOL, {"protocol": "HTTP"}, "protocol of a pool cannot be changed"),
        (Kind.POOL, {"session_persistence": {"typ": "x"}}, "no attribute 'typ'"),
        (Kind.POOL, {"session_persistence": {}}, "session_persistence.type is missing"),
        (Kind.HEALTH_MONITOR, {"type": "HTTP"}, "type of a health monitor cannot be changed"),
        (Kind.L7POLICY, {"listener_id": "x"}, "listener_id of an L7 policy cannot be changed"),
        (Kind.L7POLICY, {"position": None}, "position is not set, but must be a value"),
        (Kind.L7RULE, {"type": None}, "type is not set"),
        (Kind.LOAD_BALANCER, {"vip_address": "10.0.0.1"}, "vip_address of a load balancer cannot be changed"),
        (Kind.AMPHORA, {"status": "x"}, "an amphora has no attributes"),
    ],
)
def test_what_cannot_be_changed_is_refused(kind: Kind, given_: dict[Any, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        normalised(kind, given_)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_what_may_change_are_attributes_of_the_tree(kind: Kind) -> None:
    names = {field.name for field in attrs.fields(CLASSES[kind])}
    assert set(CHANGEABLE[kind]) <= names
    assert not set(CHANGEABLE[kind]) & set(FIXED[kind])


DOCUMENT = {
    "loadbalancer": {
        "name": "shop",
        "admin_state_up": True,
        "listeners": [
            {
                "protocol": "http",
                "port": "80",
                "insert_headers": {"X-Forwarded-For": True},
                "pool": {
                    "algorithm": "least_connections",
                    "healthmonitor": {"type": "http", "expected_codes": 200},
                    "members": [
                        "127.0.0.1:8001",
                        "[2001:db8::1]:80 weight=5 backup=true",
                        {"address": "10.0.0.1", "protocol_port": 80, "admin_state_up": False},
                    ],
                },
                "l7policies": [
                    {
                        "action": "redirect_to_pool",
                        "redirect_pool": "static",
                        "rules": [{"type": "path", "value": "/s"}],
                    }
                ],
            }
        ],
        "pools": [{"name": "static", "protocol": "HTTP", "members": "10.0.0.2:80, 10.0.0.3:80 weight=2"}],
    }
}


def test_a_document_becomes_a_wish() -> None:
    found = wish(NewLoadBalancer, DOCUMENT)
    listener = found.listeners[0]
    pool = listener.default_pool
    assert pool is not None
    assert (listener.protocol, listener.protocol_port) == (ListenerProtocol.HTTP, 80)
    assert listener.insert_headers == {"X-Forwarded-For": "true"}
    assert pool.lb_algorithm is Algorithm.LEAST_CONNECTIONS
    assert pool.health_monitor == NewHealthMonitor(type=MonitorType.HTTP, expected_codes="200")
    assert pool.members == (
        NewMember("127.0.0.1", 8001),
        NewMember("2001:db8::1", 80, weight=5, backup=True),
        NewMember("10.0.0.1", 80, enabled=False),
    )
    assert listener.l7policies[0].redirect_pool_id == "static"
    assert found.pools[0].members == (NewMember("10.0.0.2", 80), NewMember("10.0.0.3", 80, weight=2))
    assert found.pools[0].protocol is PoolProtocol.HTTP


@pytest.mark.parametrize(
    ("spot", "value", "words"),
    [
        (
            "pool.members.2.weight",
            "abc",
            r"listeners\[0\].pool.members\[2\].weight is 'abc', but must be a whole number",
        ),
        ("pool.members.1", "10.0.0.1", r"listeners\[0\].pool.members\[1\] is '10.0.0.1', but must be ADDRESS:PORT"),
        ("pool.members.1", "::1:80", r"members\[1\] is '::1:80', but must be ADDRESS:PORT"),
        ("pool.members.1", "10.0.0.1:80 fast", r"members\[1\]: 'fast' is no setting of a member"),
        (
            "pool.members.1",
            "10.0.0.1:80 wieght=5",
            r"members\[1\]: there is no attribute 'wieght'; did you mean 'weight'",
        ),
        ("pool.members.1", "10.0.0.1:80 weight=x", r"members\[1\].weight is 'x'"),
        ("pool.members", 5, r"pool.members is 5, but must be a list"),
        ("pool.members.2", {"protocol_port": 80}, r"members\[2\].address is missing: a member needs it"),
        ("pool.members.2.port", None, r"protocol_port is given twice"),
        ("protocol", None, r"listeners\[0\].protocol is missing"),
        ("protocol", "SMTP", r"listeners\[0\].protocol is 'SMTP', but must be HTTP, HTTPS"),
        ("prot", "HTTP", r"listeners\[0\]: there is no attribute 'prot'"),
        (
            "pool.healthmonitor",
            [],
            r"pool.healthmonitor is \[\], but must be a mapping that describes a health monitor",
        ),
        ("l7policies.0.rules.0.value", 1.5, r"l7policies\[0\].rules\[0\].value is 1.5, but must be text"),
        ("default_pool", {}, "default_pool is given twice"),
    ],
)
def test_an_error_names_the_place_in_the_document(spot: str, value: object, words: str) -> None:
    document = _exchanged(DOCUMENT["loadbalancer"], ["listeners", "0", *spot.split(".")], value)
    with pytest.raises(BadRequest, match=words):
        wish(NewLoadBalancer, document)
    with pytest.raises(BadRequest, match=r"^shop.yaml: "):
        wish(NewLoadBalancer, document, "shop.yaml:")


def _exchanged(document: Any, path: list[str], value: object) -> Any:
    if not path:
        return value
    if isinstance(document, list):
        return [_exchanged(item, path[1:], value) if str(n) == path[0] else item for n, item in enumerate(document)]
    return {**document, path[0]: _exchanged(document.get(path[0], {}), path[1:], value)}


def test_a_wish_written_with_text_is_tidied_up() -> None:
    rough: Any = NewListener(
        protocol="http",  # type: ignore[arg-type]
        protocol_port="80",  # type: ignore[arg-type]
        default_pool=NewPool(members=["10.0.0.1:80"], lb_algorithm="SOURCE_IP"),  # type: ignore[arg-type]
        alpn_protocols=["h2"],
    )
    assert tidy(rough) == NewListener(
        protocol=ListenerProtocol.HTTP,
        protocol_port=80,
        default_pool=NewPool(members=[NewMember("10.0.0.1", 80)], lb_algorithm=Algorithm.SOURCE_IP),
        alpn_protocols=("h2",),
    )


@relaxed
@given(wishes())
def test_a_wish_survives_json_and_tidying(wanted: NewLoadBalancer) -> None:
    lower = attrs.evolve(
        wanted,
        listeners=[
            attrs.evolve(one, insert_headers={name: str(on).lower() for name, on in one.insert_headers.items()})
            for one in wanted.listeners
        ],
    )
    assert tidy(lower) == lower
    assert wish(NewLoadBalancer, to_json(lower)) == lower
    assert wish(NewLoadBalancer, {"loadbalancer": to_json(lower)}) == lower


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["HTTP", "10.0.0.1:80", "none"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@relaxed
@given(st.sampled_from(NEW), st.data())
def test_any_document_is_a_wish_or_one_sentence(cls: type, data: st.DataObject) -> None:
    names = st.sampled_from([field.name for field in attrs.fields(cls)]) | st.text(max_size=5)
    document = data.draw(st.dictionaries(names, json, max_size=6) | json)
    try:
        assert isinstance(wish(cls, document), cls)
    except BadRequest as refused:
        assert str(refused).isprintable()


@relaxed
@given(st.sampled_from(list(Kind)), st.data())
def test_any_change_is_understood_or_refused_in_one_sentence(kind: Kind, data: st.DataObject) -> None:
    names = st.sampled_from([*CHANGEABLE.get(kind, ["status"]), *FIXED.get(kind, ["id"])]) | st.text(max_size=5)
    changes = data.draw(st.dictionaries(names, json, max_size=4) | json)
    try:
        assert set(normalised(kind, changes)) <= set(CHANGEABLE[kind])
    except BadRequest as refused:
        assert str(refused).isprintable()
