"""Attribute names: those of the tree, and the other names under which users know them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final

from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import BadRequest
from octavia_core.policy.validity.words import show

__all__ = ["ALIASES", "CHANGEABLE", "FIXED", "resolved"]

_EVERYWHERE = {"admin_state_up": "enabled"}

ALIASES: Final[Mapping[Kind, Mapping[str, str]]] = {
    Kind.LOAD_BALANCER: {
        **_EVERYWHERE,
        "vip": "vip_address",
        "flavor": "flavor_id",
    },
    Kind.LISTENER: {
        **_EVERYWHERE,
        "port": "protocol_port",
        "pool": "default_pool",
        "pool_id": "default_pool_id",
        "policies": "l7policies",
        "default_tls_container_ref": "tls_certificate_id",
        "sni_container_refs": "sni_container_ids",
        "client_ca_tls_container_ref": "client_ca_tls_certificate_id",
        "client_crl_container_ref": "client_crl_container_id",
    },
    Kind.POOL: {
        **_EVERYWHERE,
        "algorithm": "lb_algorithm",
        "healthmonitor": "health_monitor",
        "monitor": "health_monitor",
        "tls_container_ref": "tls_certificate_id",
        "ca_tls_container_ref": "ca_tls_certificate_id",
        "crl_container_ref": "crl_container_id",
    },
    Kind.MEMBER: {**_EVERYWHERE, "port": "protocol_port", "ip_address": "address"},
    Kind.HEALTH_MONITOR: {**_EVERYWHERE, "rise_threshold": "max_retries", "fall_threshold": "max_retries_down"},
    Kind.L7POLICY: {**_EVERYWHERE, "l7rules": "rules"},
    Kind.L7RULE: {**_EVERYWHERE},
}
"""Other names: those of the load-balancer API, of the columns, and a few short ones."""

CHANGEABLE: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.LOAD_BALANCER: ("name", "description", "enabled"),
    Kind.LISTENER: (
        "name",
        "description",
        "enabled",
        "connection_limit",
        "default_pool_id",
        "insert_headers",
        "timeout_client_data",
        "timeout_member_connect",
        "timeout_member_data",
        "timeout_tcp_inspect",
        "tls_certificate_id",
        "sni_container_ids",
        "client_ca_tls_certificate_id",
        "client_authentication",
        "client_crl_container_id",
        "tls_ciphers",
        "tls_versions",
        "alpn_protocols",
        "hsts_max_age",
        "hsts_include_subdomains",
        "hsts_preload",
        "allowed_cidrs",
    ),
    Kind.POOL: (
        "name",
        "description",
        "enabled",
        "lb_algorithm",
        "session_persistence",
        "tls_enabled",
        "tls_certificate_id",
        "ca_tls_certificate_id",
        "crl_container_id",
        "tls_ciphers",
        "tls_versions",
        "alpn_protocols",
    ),
    Kind.MEMBER: ("name", "weight", "enabled", "backup", "monitor_address", "monitor_port"),
    Kind.HEALTH_MONITOR: (
        "name",
        "enabled",
        "delay",
        "timeout",
        "max_retries",
        "max_retries_down",
        "http_method",
        "url_path",
        "expected_codes",
        "http_version",
        "domain_name",
    ),
    Kind.L7POLICY: (
        "name",
        "description",
        "enabled",
        "action",
        "position",
        "redirect_pool_id",
        "redirect_url",
        "redirect_prefix",
        "redirect_http_code",
    ),
    Kind.L7RULE: ("type", "compare_type", "key", "value", "invert", "enabled"),
}
"""What may change during an object's life: the fields that the load-balancer API's PUT takes."""

FIXED: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.LOAD_BALANCER: (
        "vip_address",
        "vip_port_id",
        "vip_subnet_id",
        "vip_network_id",
        "vip_qos_policy_id",
        "additional_vips",
        "topology",
        "flavor_id",
        "availability_zone",
        "project_id",
    ),
    Kind.LISTENER: ("protocol", "protocol_port"),
    Kind.POOL: ("protocol",),
    Kind.MEMBER: ("address", "protocol_port", "subnet_id"),
    Kind.HEALTH_MONITOR: ("type",),
    Kind.L7POLICY: ("listener_id",),
    Kind.L7RULE: (),
}
"""What a user chose when the object was made, and cannot change afterwards."""


def resolved(
    data: Mapping[Any, Any], known: Collection[str], aliases: Mapping[str, str], where: str, near: Collection[str] = ()
) -> dict[str, tuple[str, Any]]:
    """The attributes by their own names, each with the name that the user wrote and its value.

    Case does not matter, and '-' is as good as '_'. `near` are further names that a misspelt one may have meant.

    Raises:
        BadRequest: a name that is not known (with the nearest one that is), or two names of one attribute.
    """
    found: dict[str, tuple[str, Any]] = {}
    for written, value in data.items():
        if not isinstance(written, str):
            raise BadRequest(f"{where}: {show(written)} is no name of an attribute")
        plain = written.strip().lower().replace("-", "_")
        name = aliases.get(plain, plain)
        if plain in known:
            name = plain
        if name not in known:
            raise BadRequest(f"{where}: {_unknown(written, plain, known, (*aliases, *near))}")
        if name in found:
            raise BadRequest(f"{where}: {name} is given twice, as {found[name][0]!r} and as {written!r}")
        found[name] = (written, value)
    return found


def _unknown(written: str, plain: str, known: Collection[str], more: Collection[str]) -> str:
    near = difflib.get_close_matches(plain, sorted({*known, *more}), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    return f"there is no attribute {show(written)}; {hint}"
