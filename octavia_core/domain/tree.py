"""A load balancer and everything below it, as frozen values. A change is a new value.

Attribute names are upstream's column names, so a value, its row and a message about it read alike. Two pairs are
spelt as users know them: `HealthMonitor.max_retries` (column rise_threshold) and `max_retries_down` (fall_threshold).
References to secrets are names for a secret store; a tree never holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from octavia_core.domain.vocabulary import (
    Algorithm,
    ClientAuthentication,
    CompareType,
    Kind,
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

__all__ = [
    "AdditionalVip",
    "HealthMonitor",
    "L7Policy",
    "L7Rule",
    "Listener",
    "LoadBalancer",
    "Member",
    "Node",
    "Pool",
    "SessionPersistence",
    "Vip",
]


@attrs.frozen(kw_only=True)
class Vip:
    """The address that clients connect to. A field is None until it is allocated."""

    ip_address: str | None = None
    port_id: str | None = None
    subnet_id: str | None = None
    network_id: str | None = None
    qos_policy_id: str | None = None
    octavia_owned: bool = True
    vnic_type: str = "normal"
    sg_ids: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class AdditionalVip:
    """A further address of the same load balancer, on another subnet: one for each subnet.

    Attributes:
        subnet_id: None: one that the network chooses.
        ip_address: None: any free one of the subnet.
    """

    subnet_id: str | None = None
    ip_address: str | None = None
    port_id: str | None = None
    network_id: str | None = None


@attrs.frozen(kw_only=True)
class Member:
    """A server behind a pool. `weight` is 0-256; 0 drains. `address` is an IPv4 or IPv6 literal."""

    id: str
    address: str
    protocol_port: int
    pool_id: str = ""
    project_id: str | None = None
    name: str | None = None
    subnet_id: str | None = None
    weight: int = 1
    enabled: bool = True
    backup: bool = False
    monitor_address: str | None = None
    monitor_port: int | None = None
    vnic_type: str = "normal"
    provisioning_status: Provisioning = Provisioning.ACTIVE
    operating_status: Operating = Operating.NO_MONITOR


@attrs.frozen(kw_only=True)
class HealthMonitor:
    """How members of a pool are checked. `delay` and `timeout` are seconds."""

    id: str
    type: MonitorType
    pool_id: str = ""
    project_id: str | None = None
    name: str | None = None
    delay: int = 5
    timeout: int = 3
    max_retries: int = 3
    max_retries_down: int = 3
    http_method: str | None = None
    url_path: str | None = None
    expected_codes: str | None = None
    http_version: float | None = None
    domain_name: str | None = None
    enabled: bool = True
    provisioning_status: Provisioning = Provisioning.ACTIVE
    operating_status: Operating = Operating.OFFLINE


@attrs.frozen(kw_only=True)
class SessionPersistence:
    """What keeps a client with its member. The timeout (seconds) and granularity apply to UDP and SCTP only."""

    type: PersistenceType
    cookie_name: str | None = None
    persistence_timeout: int | None = None
    persistence_granularity: str | None = None


@attrs.frozen(kw_only=True)
class Pool:
    """Members that share traffic, and how."""

    id: str
    protocol: PoolProtocol
    lb_algorithm: Algorithm = Algorithm.ROUND_ROBIN
    load_balancer_id: str = ""
    project_id: str | None = None
    name: str | None = None
    description: str | None = None
    enabled: bool = True
    members: tuple[Member, ...] = ()
    health_monitor: HealthMonitor | None = None
    session_persistence: SessionPersistence | None = None
    tls_enabled: bool = False
    tls_certificate_id: str | None = None
    ca_tls_certificate_id: str | None = None
    crl_container_id: str | None = None
    tls_ciphers: str | None = None
    tls_versions: tuple[str, ...] = ()
    alpn_protocols: tuple[str, ...] = ()
    provisioning_status: Provisioning = Provisioning.ACTIVE
    operating_status: Operating = Operating.OFFLINE


@attrs.frozen(kw_only=True)
class L7Rule:
    """One condition of an L7 policy. `key` names the header, cookie or DN field."""

    id: str
    type: L7RuleType
    compare_type: CompareType
    value: str
    l7policy_id: str = ""
    project_id: str | None = None
    key: str | None = None
    invert: bool = False
    enabled: bool = True
    provisioning_status: Provisioning = Provisioning.ACTIVE
    operating_status: Operating = Operating.OFFLINE


@attrs.frozen(kw_only=True)
class L7Policy:
    """An action for requests that match all of its rules. `position` is 1-based and contiguous per listener."""

    id: str
    action: L7Action
    listener_id: str = ""
    project_id: str | None = None
    name: str | None = None
    description: str | None = None
    position: int = 1
    redirect_pool_id: str | None = None
    redirect_url: str | None = None
    redirect_prefix: str | None = None
    redirect_http_code: int | None = None
    enabled: bool = True
    rules: tuple[L7Rule, ...] = ()
    provisioning_status: Provisioning = Provisioning.ACTIVE
    operating_status: Operating = Operating.OFFLINE


@attrs.frozen(kw_only=True)
class Listener:
    """A port of the VIP. `connection_limit` -1 means the configured default; timeouts are milliseconds, None default."""

    id: str
    protocol: ListenerProtocol
    protocol_port: int
    load_balancer_id: str = ""
    project_id: str | None = None
    name: str | None = None
    description: str | None = None
    enabled: bool = True
    connection_limit: int = -1
    default_pool_id: str | None = None
    peer_port: int | None = None
    insert_headers: Mapping[str, str] = attrs.field(factory=dict)
    timeout_client_data: int | None = None
    timeout_member_connect: int | None = None
    timeout_member_data: int | None = None
    timeout_tcp_inspect: int | None = None
    tls_certificate_id: str | None = None
    sni_container_ids: tuple[str, ...] = ()
    client_ca_tls_certificate_id: str | None = None
    client_authentication: ClientAuthentication = ClientAuthentication.NONE
    client_crl_container_id: str | None = None
    tls_ciphers: str | None = None
    tls_versions: tuple[str, ...] = ()
    alpn_protocols: tuple[str, ...] = ()
    hsts_max_age: int | None = None
    hsts_include_subdomains: bool = False
    hsts_preload: bool = False
    allowed_cidrs: tuple[str, ...] = ()
    l7policies: tuple[L7Policy, ...] = ()
    provisioning_status: Provisioning = Provisioning.ACTIVE
    operating_status: Operating = Operating.OFFLINE


Node = Listener | Pool | Member | HealthMonitor | L7Policy | L7Rule


@attrs.frozen(kw_only=True)
class LoadBalancer:
    """The root, and the lock: while its provisioning status is pending, nothing below it may be changed."""

    id: str
    project_id: str | None = None
    name: str | None = None
    description: str | None = None
    enabled: bool = True
    topology: Topology = Topology.SINGLE
    vip: Vip = attrs.field(factory=Vip)
    additional_vips: tuple[AdditionalVip, ...] = ()
    listeners: tuple[Listener, ...] = ()
    pools: tuple[Pool, ...] = ()
    provider: str | None = "amphora"
    flavor_id: str | None = None
    availability_zone: str | None = None
    server_group_id: str | None = None
    provisioning_status: Provisioning = Provisioning.ACTIVE
    operating_status: Operating = Operating.OFFLINE

    def pool(self, pool_id: str | None) -> Pool | None:
        """The pool of that id, or None."""
        return next((pool for pool in self.pools if pool.id == pool_id), None)

    def listener(self, listener_id: str) -> Listener | None:
        """The listener of that id, or None."""
        return next((listener for listener in self.listeners if listener.id == listener_id), None)

    def nodes(self) -> Iterator[tuple[Kind, Node]]:
        """Everything below the load balancer, children before their parents (the order of settling and deleting)."""
        for listener in self.listeners:
            for policy in listener.l7policies:
                yield from ((Kind.L7RULE, rule) for rule in policy.rules)
                yield Kind.L7POLICY, policy
        for pool in self.pools:
            yield from ((Kind.MEMBER, member) for member in pool.members)
            if pool.health_monitor:
                yield Kind.HEALTH_MONITOR, pool.health_monitor
        yield from ((Kind.LISTENER, listener) for listener in self.listeners)
        yield from ((Kind.POOL, pool) for pool in self.pools)

    def secret_refs(self) -> tuple[str, ...]:
        """Every secret that an enabled listener or pool refers to, sorted, without repeats."""
        refs: set[str | None] = set()
        for listener in self.listeners:
            refs |= {
                listener.tls_certificate_id,
                listener.client_ca_tls_certificate_id,
                listener.client_crl_container_id,
            }
            refs |= set(listener.sni_container_ids)
        for pool in self.pools:
            if pool.tls_enabled:
                refs |= {pool.tls_certificate_id, pool.ca_tls_certificate_id, pool.crl_container_id}
        return tuple(sorted(ref for ref in refs if ref))
