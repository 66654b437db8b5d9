"""What a caller asks for: new objects without ids or statuses. `build` turns a wish into rows that are PENDING_CREATE.

Names and defaults are those of the load-balancer API's JSON. Whether a wish makes sense is checked by
`octavia_core.policy.validity` when it is accepted; here are only its shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from octavia_core.domain import words
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
    Operating,
    PoolProtocol,
    Provisioning,
    Topology,
)

__all__ = [
    "NewHealthMonitor",
    "NewL7Policy",
    "NewL7Rule",
    "NewListener",
    "NewLoadBalancer",
    "NewMember",
    "NewPool",
]

NewId = Callable[[], str]
_CREATE = Provisioning.PENDING_CREATE

# Converters take any iterable and are functions of their own, since `converter=tuple` means nothing to type checkers.


@attrs.frozen
class NewMember:
    """A server behind a pool: its address (IPv4 or IPv6 literal) and port. `weight` 0-256, 0 drains."""

    address: str
    protocol_port: int
    weight: int = attrs.field(default=1, kw_only=True)
    name: str | None = attrs.field(default=None, kw_only=True)
    subnet_id: str | None = attrs.field(default=None, kw_only=True)
    enabled: bool = attrs.field(default=True, kw_only=True)
    backup: bool = attrs.field(default=False, kw_only=True)
    monitor_address: str | None = attrs.field(default=None, kw_only=True)
    monitor_port: int | None = attrs.field(default=None, kw_only=True)

    def build(self, new_id: NewId, pool_id: str, project_id: str | None, *, monitored: bool) -> Member:
        """The row. With a monitor it starts OFFLINE, without one NO_MONITOR."""
        return Member(
            id=new_id(),
            pool_id=pool_id,
            project_id=project_id,
            provisioning_status=_CREATE,
            operating_status=Operating.OFFLINE if monitored else Operating.NO_MONITOR,
            **attrs.asdict(self),
        )


@attrs.frozen(kw_only=True)
class NewHealthMonitor:
    """How members are checked. `delay` and `timeout` are seconds, `max_retries` successes to rise, `..._down` failures to fall."""

    type: MonitorType = attrs.field(default=MonitorType.TCP, converter=words.monitor_type)
    delay: int = 5
    timeout: int = 3
    max_retries: int = 3
    max_retries_down: int = 3
    http_method: str | None = None
    url_path: str | None = None
    expected_codes: str | None = None
    http_version: float | None = None
    domain_name: str | None = None
    name: str | None = None
    enabled: bool = True

    def build(self, new_id: NewId, pool_id: str, project_id: str | None) -> HealthMonitor:
        """The row; an HTTP check without method, path and codes asks GET / and expects 200."""
        values = attrs.asdict(self)
        if self.type in (MonitorType.HTTP, MonitorType.HTTPS):
            values["http_method"] = self.http_method or "GET"
            values["url_path"] = self.url_path or "/"
            values["expected_codes"] = self.expected_codes or "200"
        return HealthMonitor(id=new_id(), pool_id=pool_id, project_id=project_id, provisioning_status=_CREATE, **values)


def _members(items: Iterable[NewMember]) -> tuple[NewMember, ...]:
    return tuple(items)


def _texts(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(items)


@attrs.frozen(kw_only=True)
class NewPool:
    """Members that share traffic. `protocol` None follows the listener it is made with (HTTP for TERMINATED_HTTPS)."""

    protocol: PoolProtocol | None = attrs.field(default=None, converter=words.pool_protocol)
    lb_algorithm: Algorithm = attrs.field(default=Algorithm.ROUND_ROBIN, converter=words.algorithm)
    name: str | None = None
    description: str | None = None
    enabled: bool = True
    members: tuple[NewMember, ...] = attrs.field(default=(), converter=_members)
    health_monitor: NewHealthMonitor | None = None
    session_persistence: SessionPersistence | None = None
    tls_enabled: bool = False
    tls_certificate_id: str | None = None
    ca_tls_certificate_id: str | None = None
    crl_container_id: str | None = None
    tls_ciphers: str | None = None
    tls_versions: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    alpn_protocols: tuple[str, ...] = attrs.field(default=(), converter=_texts)

    def build(
        self, new_id: NewId, lb_id: str, project_id: str | None, *, listener: ListenerProtocol | None = None
    ) -> Pool:
        """The row with its members and monitor."""
        pool_id = new_id()
        monitor = self.health_monitor
        values = {
            field.name: getattr(self, field.name)
            for field in attrs.fields(NewPool)
            if field.name not in ("protocol", "members", "health_monitor")
        }
        return Pool(
            id=pool_id,
            load_balancer_id=lb_id,
            project_id=project_id,
            protocol=self.protocol or _follows(listener),
            provisioning_status=_CREATE,
            members=tuple(m.build(new_id, pool_id, project_id, monitored=monitor is not None) for m in self.members),
            health_monitor=monitor.build(new_id, pool_id, project_id) if monitor else None,
            **values,
        )


def _follows(listener: ListenerProtocol | None) -> PoolProtocol:
    if listener in (None, ListenerProtocol.TERMINATED_HTTPS, ListenerProtocol.PROMETHEUS):
        return PoolProtocol.HTTP
    return PoolProtocol(listener.value)


@attrs.frozen(kw_only=True)
class NewL7Rule:
    """One condition. `key` names the header, cookie or DN field where the type needs one."""

    type: L7RuleType = attrs.field(converter=words.rule_type)
    compare_type: CompareType = attrs.field(default=CompareType.EQUAL_TO, converter=words.compare_type)
    value: str
    key: str | None = None
    invert: bool = False
    enabled: bool = True

    def build(self, new_id: NewId, policy_id: str, project_id: str | None) -> L7Rule:
        """The row."""
        return L7Rule(
            id=new_id(),
            l7policy_id=policy_id,
            project_id=project_id,
            provisioning_status=_CREATE,
            **attrs.asdict(self),
        )


def _rules(items: Iterable[NewL7Rule]) -> tuple[NewL7Rule, ...]:
    return tuple(items)


@attrs.frozen(kw_only=True)
class NewL7Policy:
    """An action for matching requests. `redirect_pool` makes a pool with it; `redirect_pool_id` names one that exists."""

    action: L7Action = attrs.field(converter=words.action)
    position: int | None = None
    redirect_pool_id: str | None = None
    redirect_pool: NewPool | None = None
    redirect_url: str | None = None
    redirect_prefix: str | None = None
    redirect_http_code: int | None = None
    name: str | None = None
    description: str | None = None
    enabled: bool = True
    rules: tuple[NewL7Rule, ...] = attrs.field(default=(), converter=_rules)

    def build(
        self, new_id: NewId, listener_id: str, project_id: str | None, *, position: int, redirect_pool_id: str | None
    ) -> L7Policy:
        """The row with its rules."""
        policy_id = new_id()
        redirects = self.action in (L7Action.REDIRECT_TO_URL, L7Action.REDIRECT_PREFIX)
        return L7Policy(
            id=policy_id,
            listener_id=listener_id,
            project_id=project_id,
            action=self.action,
            position=position,
            redirect_pool_id=redirect_pool_id,
            redirect_url=self.redirect_url,
            redirect_prefix=self.redirect_prefix,
            redirect_http_code=self.redirect_http_code or (302 if redirects else None),
            name=self.name,
            description=self.description,
            enabled=self.enabled,
            provisioning_status=_CREATE,
            rules=tuple(rule.build(new_id, policy_id, project_id) for rule in self.rules),
        )


def _policies(items: Iterable[NewL7Policy]) -> tuple[NewL7Policy, ...]:
    return tuple(items)


@attrs.frozen(kw_only=True)
class NewListener:
    """A port of the VIP. `default_pool` makes a pool with it; `default_pool_id` names one that exists."""

    protocol: ListenerProtocol = attrs.field(converter=words.listener_protocol)
    protocol_port: int
    name: str | None = None
    description: str | None = None
    enabled: bool = True
    connection_limit: int = -1
    default_pool: NewPool | None = None
    default_pool_id: str | None = None
    insert_headers: Mapping[str, str] = attrs.field(factory=dict)
    timeout_client_data: int | None = None
    timeout_member_connect: int | None = None
    timeout_member_data: int | None = None
    timeout_tcp_inspect: int | None = None
    tls_certificate_id: str | None = None
    sni_container_ids: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    client_ca_tls_certificate_id: str | None = None
    client_authentication: ClientAuthentication = attrs.field(
        default=ClientAuthentication.NONE, converter=words.client_authentication
    )
    client_crl_container_id: str | None = None
    tls_ciphers: str | None = None
    tls_versions: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    alpn_protocols: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    hsts_max_age: int | None = None
    hsts_include_subdomains: bool = False
    hsts_preload: bool = False
    allowed_cidrs: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    l7policies: tuple[NewL7Policy, ...] = attrs.field(default=(), converter=_policies)

    def build(
        self, new_id: NewId, lb_id: str, project_id: str | None, *, peer_port: int
    ) -> tuple[Listener, tuple[Pool, ...]]:
        """The row with its policies, and the pools that are made with it."""
        listener_id = new_id()
        pools: list[Pool] = []
        default_pool_id = self.default_pool_id
        if self.default_pool is not None:
            pools.append(self.default_pool.build(new_id, lb_id, project_id, listener=self.protocol))
            default_pool_id = pools[-1].id
        policies: list[L7Policy] = []
        for position, wish in enumerate(self.l7policies, start=1):
            redirect = wish.redirect_pool_id
            if wish.redirect_pool is not None:
                pools.append(wish.redirect_pool.build(new_id, lb_id, project_id, listener=self.protocol))
                redirect = pools[-1].id
            policies.append(wish.build(new_id, listener_id, project_id, position=position, redirect_pool_id=redirect))
        values = {
            field.name: getattr(self, field.name)
            for field in attrs.fields(NewListener)
            if field.name not in ("default_pool", "default_pool_id", "l7policies")
        }
        listener = Listener(
            id=listener_id,
            load_balancer_id=lb_id,
            project_id=project_id,
            peer_port=peer_port,
            default_pool_id=default_pool_id,
            l7policies=tuple(policies),
            provisioning_status=_CREATE,
            **values,
        )
        return listener, tuple(pools)


FIRST_PEER_PORT = 1025
"""Upstream gives the first listener of a load balancer this peer port, later ones the largest plus one."""


def _vips(items: Iterable[AdditionalVip]) -> tuple[AdditionalVip, ...]:
    return tuple(items)


def _listeners(items: Iterable[NewListener]) -> tuple[NewListener, ...]:
    return tuple(items)


def _pools(items: Iterable[NewPool]) -> tuple[NewPool, ...]:
    return tuple(items)


@attrs.frozen(kw_only=True)
class NewLoadBalancer:
    """A load balancer with everything below it. `vip_address` None takes any free address.

    `default_pool_id` and `redirect_pool_id` below it may be the name of one of its pools.
    """

    name: str | None = None
    description: str | None = None
    project_id: str | None = None
    enabled: bool = True
    topology: Topology | None = attrs.field(default=None, converter=words.topology)
    vip_address: str | None = None
    vip_port_id: str | None = None
    vip_subnet_id: str | None = None
    vip_network_id: str | None = None
    vip_qos_policy_id: str | None = None
    additional_vips: tuple[AdditionalVip, ...] = attrs.field(default=(), converter=_vips)
    flavor_id: str | None = None
    availability_zone: str | None = None
    listeners: tuple[NewListener, ...] = attrs.field(default=(), converter=_listeners)
    pools: tuple[NewPool, ...] = attrs.field(default=(), converter=_pools)

    def build(self, new_id: NewId, *, topology: Topology) -> LoadBalancer:
        """The rows, everything PENDING_CREATE; `topology` is what is used when the wish names none."""
        lb_id = new_id()
        listeners: list[Listener] = []
        pools = [pool.build(new_id, lb_id, self.project_id) for pool in self.pools]
        for index, wish in enumerate(self.listeners):
            listener, made = wish.build(new_id, lb_id, self.project_id, peer_port=FIRST_PEER_PORT + index)
            listeners.append(listener)
            pools.extend(made)
        return LoadBalancer(
            id=lb_id,
            project_id=self.project_id,
            name=self.name,
            description=self.description,
            enabled=self.enabled,
            topology=self.topology or topology,
            vip=Vip(
                ip_address=self.vip_address,
                port_id=self.vip_port_id,
                subnet_id=self.vip_subnet_id,
                network_id=self.vip_network_id,
                qos_policy_id=self.vip_qos_policy_id,
            ),
            additional_vips=self.additional_vips,
            flavor_id=self.flavor_id,
            availability_zone=self.availability_zone,
            listeners=_by_name(listeners, pools),
            pools=tuple(pools),
            provisioning_status=_CREATE,
        )


def _by_name(listeners: list[Listener], pools: list[Pool]) -> tuple[Listener, ...]:
    """Pools of the same wish may be referred to by name, since they have no id that the caller could know."""
    ids = {pool.name: pool.id for pool in reversed(pools) if pool.name}

    def id_of(reference: str | None) -> str | None:
        return reference if reference is None else ids.get(reference, reference)

    return tuple(
        attrs.evolve(
            listener,
            default_pool_id=id_of(listener.default_pool_id),
            l7policies=tuple(
                attrs.evolve(policy, redirect_pool_id=id_of(policy.redirect_pool_id)) for policy in listener.l7policies
            ),
        )
        for listener in listeners
    )
