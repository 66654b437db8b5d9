"""Values to store, by hand and by Hypothesis."""

from __future__ import annotations

import uuid
from typing import Any

import attrs
from hypothesis import strategies as st

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation
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
    AmphoraStatus,
    ClientAuthentication,
    CompareType,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
    Operating,
    PersistenceType,
    PoolProtocol,
    Provisioning,
    Topology,
)


def new_id() -> str:
    return str(uuid.uuid4())


def amphora(load_balancer_id: str | None = None, **more: Any) -> Amphora:
    return Amphora(
        **{"id": new_id(), "status": AmphoraStatus.PENDING_CREATE, "load_balancer_id": load_balancer_id, **more}
    )


def operation(load_balancer_id: str | None = None, **more: Any) -> Operation:
    return Operation(**{"id": new_id(), "flow": "flow", "load_balancer_id": load_balancer_id, **more})


def member(number: int = 1, **more: Any) -> Member:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return Member(**{"id": new_id(), "address": address, "protocol_port": 80, **more})


def pool(*members: Member, **more: Any) -> Pool:
    return Pool(**{"id": new_id(), "protocol": PoolProtocol.HTTP, "members": members, **more})


def monitor(**more: Any) -> HealthMonitor:
    return HealthMonitor(**{"id": new_id(), "type": MonitorType.HTTP, **more})


def rule(**more: Any) -> L7Rule:
    values = {"id": new_id(), "type": L7RuleType.PATH, "compare_type": CompareType.STARTS_WITH, "value": "/"}
    return L7Rule(**{**values, **more})


def policy(*rules: L7Rule, **more: Any) -> L7Policy:
    return L7Policy(**{"id": new_id(), "action": L7Action.REJECT, "rules": rules, **more})


def listener(*policies: L7Policy, port: int = 80, **more: Any) -> Listener:
    values = {"id": new_id(), "protocol": ListenerProtocol.HTTP, "protocol_port": port, "l7policies": policies}
    return Listener(**{**values, **more})


def balancer(**more: Any) -> LoadBalancer:
    return LoadBalancer(**{"id": new_id(), "project_id": "project", **more})


def full(**more: Any) -> LoadBalancer:
    """One of everything, every row ACTIVE."""
    behind = pool(
        member(1),
        member(2),
        health_monitor=monitor(),
        session_persistence=SessionPersistence(type=PersistenceType.SOURCE_IP),
    )
    other = pool(member(3))
    return balancer(
        name="web",
        vip=Vip(ip_address="192.0.2.1", port_id="port", subnet_id="subnet", sg_ids=("group",)),
        additional_vips=(AdditionalVip(subnet_id="other", ip_address="192.0.2.2"),),
        listeners=(
            listener(
                policy(rule(), rule(), position=1),
                policy(rule(), position=2, action=L7Action.REDIRECT_TO_POOL, redirect_pool_id=other.id),
                default_pool_id=behind.id,
                insert_headers={"X-Forwarded-For": "true"},
                sni_container_ids=("second", "first"),
                allowed_cidrs=("10.0.0.0/8",),
            ),
            listener(port=81, default_pool_id=other.id),
        ),
        pools=(behind, other),
        **more,
    )


def normal(tree: LoadBalancer) -> LoadBalancer:
    """The tree as it comes back: parents and projects filled in, children in the order of their ids."""
    project = tree.project_id

    def of_policy(each: L7Policy, parent: Listener) -> L7Policy:
        owner = each.project_id or parent.project_id or project
        rules = [attrs.evolve(r, l7policy_id=each.id, project_id=r.project_id or owner) for r in each.rules]
        return attrs.evolve(each, listener_id=parent.id, project_id=owner, rules=_sorted(rules))

    def of_listener(each: Listener) -> Listener:
        policies = [of_policy(p, each) for p in each.l7policies]
        return attrs.evolve(
            each,
            load_balancer_id=tree.id,
            project_id=each.project_id or project,
            sni_container_ids=tuple(dict.fromkeys(each.sni_container_ids)),
            allowed_cidrs=tuple(sorted(set(each.allowed_cidrs))),
            l7policies=tuple(sorted(policies, key=lambda p: (p.position, p.id))),
        )

    def of_pool(each: Pool) -> Pool:
        owner = each.project_id or project
        check = each.health_monitor
        return attrs.evolve(
            each,
            load_balancer_id=tree.id,
            project_id=owner,
            members=_sorted([attrs.evolve(m, pool_id=each.id, project_id=m.project_id or owner) for m in each.members]),
            health_monitor=check and attrs.evolve(check, pool_id=each.id, project_id=check.project_id or owner),
        )

    return attrs.evolve(
        tree,
        vip=attrs.evolve(tree.vip, sg_ids=tuple(sorted(set(tree.vip.sg_ids)))),
        additional_vips=tuple(sorted(tree.additional_vips, key=lambda vip: vip.subnet_id)),
        listeners=_sorted([of_listener(each) for each in tree.listeners]),
        pools=_sorted([of_pool(each) for each in tree.pools]),
    )


def _sorted(nodes: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(nodes, key=lambda node: node.id))


# -- by Hypothesis -----------------------------------------------------------------------------------------------------

ids = st.uuids(version=4).map(str)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
maybe_text = st.none() | texts
numbers = st.integers(0, 2**31 - 1)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
lists = st.lists(words, max_size=3).map(tuple)
statuses = {
    "provisioning_status": st.sampled_from(Provisioning),
    "operating_status": st.sampled_from(Operating),
    "enabled": st.booleans(),
    "project_id": st.none() | words,
    "name": maybe_text,
}
unnamed = {key: value for key, value in statuses.items() if key != "name"}

members = st.builds(
    Member,
    id=ids,
    address=st.ip_addresses().map(str),
    protocol_port=st.integers(1, 65535),
    subnet_id=st.none() | ids,
    weight=st.integers(0, 256),
    backup=st.booleans(),
    monitor_address=st.none() | st.ip_addresses().map(str),
    monitor_port=st.none() | st.integers(1, 65535),
    **statuses,
)
monitors = st.builds(
    HealthMonitor,
    id=ids,
    type=st.sampled_from(MonitorType),
    delay=numbers,
    timeout=numbers,
    max_retries=st.integers(1, 10),
    max_retries_down=st.integers(1, 10),
    url_path=maybe_text,
    http_version=st.sampled_from([None, 1.0, 1.1]),
    **statuses,
)
persistences = st.builds(
    SessionPersistence,
    type=st.sampled_from(PersistenceType),
    cookie_name=maybe_text,
    persistence_timeout=st.none() | numbers,
)
pools = st.builds(
    Pool,
    id=ids,
    protocol=st.sampled_from(PoolProtocol),
    lb_algorithm=st.sampled_from(Algorithm),
    description=maybe_text,
    members=st.lists(members, max_size=3, unique_by=lambda m: (m.address, m.protocol_port)).map(tuple),
    health_monitor=st.none() | monitors,
    session_persistence=st.none() | persistences,
    tls_enabled=st.booleans(),
    tls_versions=lists,
    alpn_protocols=lists,
    **statuses,
)
rules = st.builds(
    L7Rule,
    id=ids,
    type=st.sampled_from(L7RuleType),
    compare_type=st.sampled_from(CompareType),
    value=texts,
    key=maybe_text,
    invert=st.booleans(),
    **unnamed,
)
policies = st.builds(
    L7Policy,
    id=ids,
    action=st.sampled_from(L7Action),
    description=maybe_text,
    position=st.integers(1, 5),
    redirect_url=maybe_text,
    redirect_http_code=st.sampled_from([None, 301, 302]),
    rules=st.lists(rules, max_size=2).map(tuple),
    **statuses,
)
listeners = st.builds(
    Listener,
    id=ids,
    protocol=st.sampled_from(ListenerProtocol),
    protocol_port=st.integers(1, 65535),
    description=maybe_text,
    connection_limit=st.integers(-1, 1000),
    insert_headers=st.dictionaries(words, texts, max_size=3),
    timeout_client_data=st.none() | numbers,
    tls_certificate_id=maybe_text,
    sni_container_ids=lists,
    client_authentication=st.sampled_from(ClientAuthentication),
    tls_versions=lists,
    hsts_max_age=st.none() | numbers,
    hsts_preload=st.booleans(),
    allowed_cidrs=lists,
    l7policies=st.lists(policies, max_size=2).map(tuple),
    **statuses,
)
balancers = st.builds(
    LoadBalancer,
    id=ids,
    description=maybe_text,
    topology=st.sampled_from(Topology),
    vip=st.builds(Vip, ip_address=st.none() | st.ip_addresses().map(str), octavia_owned=st.booleans(), sg_ids=lists),
    additional_vips=st.lists(
        st.builds(AdditionalVip, subnet_id=words, ip_address=st.none() | st.ip_addresses().map(str)),
        max_size=2,
        unique_by=lambda vip: vip.subnet_id,
    ).map(tuple),
    listeners=st.lists(listeners, max_size=2, unique_by=lambda each: (each.protocol, each.protocol_port)).map(tuple),
    pools=st.lists(pools, max_size=2).map(tuple),
    **statuses,
)
