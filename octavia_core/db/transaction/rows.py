"""Values to rows and back: which attribute is which column, kind by kind.

Most names are the same on both sides. A missing value of an old row reads as what upstream takes it for (weight 1,
connection limit -1, a VIP port that is not ours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from octavia_core.db.upstream_pickle import PickleRefused, dump, load
from octavia_core.domain.tree import (
    AdditionalVip,
    HealthMonitor,
    L7Policy,
    L7Rule,
    Listener,
    LoadBalancer,
    Member,
    Node,
    Pool,
    SessionPersistence,
    Vip,
)
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
from octavia_core.errors import PermanentError

__all__ = [
    "COLUMNS",
    "KIND_OF",
    "VIP_COLUMNS",
    "column_value",
    "health_monitor",
    "l7policy",
    "l7rule",
    "listener",
    "load_balancer",
    "member",
    "persistence_row",
    "pool",
    "row_of",
    "session_persistence",
    "vip",
    "vip_row",
]


def _columns(same: str, **other: str) -> Mapping[str, str]:
    return MappingProxyType({**{name: name for name in same.split()}, **other})


_STATUSES = "provisioning_status operating_status"

COLUMNS: Mapping[Kind, Mapping[str, str]] = MappingProxyType(
    {
        Kind.LOAD_BALANCER: _columns(
            "id project_id name description enabled topology provider flavor_id availability_zone server_group_id "
            + _STATUSES
        ),
        Kind.LISTENER: _columns(
            "id load_balancer_id project_id name description protocol protocol_port enabled connection_limit "
            "default_pool_id peer_port insert_headers timeout_client_data timeout_member_connect timeout_member_data "
            "timeout_tcp_inspect tls_certificate_id client_ca_tls_certificate_id client_authentication "
            "client_crl_container_id tls_ciphers tls_versions alpn_protocols hsts_max_age hsts_include_subdomains "
            "hsts_preload " + _STATUSES
        ),
        Kind.POOL: _columns(
            "id load_balancer_id project_id name description protocol lb_algorithm enabled tls_enabled "
            "tls_certificate_id ca_tls_certificate_id crl_container_id tls_ciphers tls_versions alpn_protocols "
            + _STATUSES
        ),
        Kind.MEMBER: _columns(
            "id pool_id project_id name subnet_id protocol_port weight enabled backup monitor_address monitor_port "
            "vnic_type " + _STATUSES,
            address="ip_address",
        ),
        Kind.HEALTH_MONITOR: _columns(
            "id pool_id project_id name type delay timeout http_method url_path expected_codes http_version "
            "domain_name enabled " + _STATUSES,
            max_retries="rise_threshold",
            max_retries_down="fall_threshold",
        ),
        Kind.L7POLICY: _columns(
            "id listener_id project_id name description action position redirect_pool_id redirect_url "
            "redirect_prefix redirect_http_code enabled " + _STATUSES
        ),
        Kind.L7RULE: _columns("id l7policy_id project_id type compare_type key value invert enabled " + _STATUSES),
    }
)
"""Attribute -> column. What is kept in rows of its own (VIP, SNI, CIDRs, persistence) is not here."""

KIND_OF: Mapping[type, Kind] = MappingProxyType(
    {
        LoadBalancer: Kind.LOAD_BALANCER,
        Listener: Kind.LISTENER,
        Pool: Kind.POOL,
        Member: Kind.MEMBER,
        HealthMonitor: Kind.HEALTH_MONITOR,
        L7Policy: Kind.L7POLICY,
        L7Rule: Kind.L7RULE,
    }
)

VIP_COLUMNS = ("ip_address", "port_id", "subnet_id", "network_id", "qos_policy_id", "octavia_owned", "vnic_type")
_LISTS = frozenset({"tls_versions", "alpn_protocols"})


def column_value(attribute: str, value: Any) -> Any:
    """An attribute as its column holds it."""
    if attribute in _LISTS:
        return ",".join(value) or None
    if attribute == "insert_headers":
        return dump(value) if value else None
    return value


def row_of(node: LoadBalancer | Node) -> dict[str, Any]:
    """The row of a value, without what hangs below it."""
    return {column: column_value(name, getattr(node, name)) for name, column in COLUMNS[KIND_OF[type(node)]].items()}


def vip_row(load_balancer_id: str, vip: Vip) -> dict[str, Any]:
    """The row of upstream's vip table."""
    return {"load_balancer_id": load_balancer_id, **{name: getattr(vip, name) for name in VIP_COLUMNS}}


def persistence_row(pool_id: str, persistence: SessionPersistence) -> dict[str, Any]:
    """The row of upstream's session_persistence table."""
    names = ("type", "cookie_name", "persistence_timeout", "persistence_granularity")
    return {"pool_id": pool_id, **{name: getattr(persistence, name) for name in names}}


# -- rows to values; `row` is a mapping of attribute names, as `selected` of tree.py labels them ---------------------


def load_balancer(row: Mapping[str, Any], **below: Any) -> LoadBalancer:
    """A load balancer from its row."""
    topology = Topology(row["topology"] or Topology.SINGLE)
    return LoadBalancer(**{**row, "topology": topology, **_statuses(row)}, **below)


def vip(row: Mapping[str, Any], sg_ids: tuple[str, ...]) -> Vip:
    """A VIP from its row."""
    return Vip(**{**row, "octavia_owned": bool(row["octavia_owned"])}, sg_ids=sg_ids)


def listener(row: Mapping[str, Any], **below: Any) -> Listener:
    """A listener from its row.

    Raises:
        PermanentError: its `insert_headers` are not what upstream or we write there.
    """
    try:
        headers = load(row["insert_headers"]) if row["insert_headers"] else {}
    except PickleRefused as error:
        raise PermanentError(
            f"listener {row['id']}: its insert_headers were refused ({error}); set them anew"
        ) from error
    return Listener(
        **{
            **row,
            "load_balancer_id": row["load_balancer_id"] or "",
            "protocol": ListenerProtocol(row["protocol"]),
            "connection_limit": -1 if row["connection_limit"] is None else row["connection_limit"],
            "insert_headers": headers,
            "client_authentication": ClientAuthentication(row["client_authentication"]),
            "tls_versions": _list(row["tls_versions"]),
            "alpn_protocols": _list(row["alpn_protocols"]),
            "hsts_include_subdomains": bool(row["hsts_include_subdomains"]),
            "hsts_preload": bool(row["hsts_preload"]),
            **_statuses(row),
        },
        **below,
    )


def pool(row: Mapping[str, Any], **below: Any) -> Pool:
    """A pool from its row."""
    return Pool(
        **{
            **row,
            "load_balancer_id": row["load_balancer_id"] or "",
            "protocol": PoolProtocol(row["protocol"]),
            "lb_algorithm": Algorithm(row["lb_algorithm"]),
            "tls_versions": _list(row["tls_versions"]),
            "alpn_protocols": _list(row["alpn_protocols"]),
            **_statuses(row),
        },
        **below,
    )


def session_persistence(row: Mapping[str, Any]) -> SessionPersistence:
    """Session persistence from its row."""
    return SessionPersistence(**{**row, "type": PersistenceType(row["type"])})


def member(row: Mapping[str, Any]) -> Member:
    """A member from its row."""
    return Member(
        **{
            **row,
            "address": row["address"] or "",
            "weight": 1 if row["weight"] is None else row["weight"],
            **_statuses(row),
        }
    )


def health_monitor(row: Mapping[str, Any]) -> HealthMonitor:
    """A health monitor from its row. HTTP versions are 1.0 and 1.1, which a FLOAT column holds only nearly."""
    version = row["http_version"]
    return HealthMonitor(
        **{
            **row,
            "type": MonitorType(row["type"]),
            "http_version": None if version is None else round(version, 3),
            **_statuses(row),
        }
    )


def l7policy(row: Mapping[str, Any], **below: Any) -> L7Policy:
    """An L7 policy from its row."""
    return L7Policy(**{**row, "action": L7Action(row["action"]), **_statuses(row)}, **below)


def l7rule(row: Mapping[str, Any]) -> L7Rule:
    """An L7 rule from its row."""
    return L7Rule(
        **{
            **row,
            "type": L7RuleType(row["type"]),
            "compare_type": CompareType(row["compare_type"]),
            **_statuses(row),
        }
    )


def additional_vip(row: Mapping[str, Any]) -> AdditionalVip:
    """An additional VIP from its row."""
    unnamed = str(row["subnet_id"]).startswith(_UNNAMED)
    return AdditionalVip(**{**row, "subnet_id": None} if unnamed else row)


def additional_vip_rows(load_balancer_id: str, several: Sequence[AdditionalVip]) -> list[dict[str, Any]]:
    """The rows of the additional VIPs of a load balancer."""
    return [
        {
            "load_balancer_id": load_balancer_id,
            **attrs.asdict(one),
            "subnet_id": one.subnet_id or f"{_UNNAMED}{index:012x}",
        }
        for index, one in enumerate(several)
    ]


_UNNAMED = "0c7a71a0-0000-4000-8000-"
"""What begins the id of a subnet that the network is yet to choose: the column takes no NULL, and readers expect UUIDs."""


_PROVISIONING: Mapping[str, Provisioning] = MappingProxyType({str(status): status for status in Provisioning})
_OPERATING: Mapping[str, Operating] = MappingProxyType({str(status): status for status in Operating})


def _statuses(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "provisioning_status": _PROVISIONING[row["provisioning_status"]],
        "operating_status": _OPERATING[row["operating_status"]],
    }


def _list(joined: str | None) -> tuple[str, ...]:
    return tuple(joined.split(",")) if joined else ()
