"""Lookup tables: the words that columns may hold. Upstream's, with every word its migrations put in."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy import Column, String, Table

from octavia_core.db.tables.parts import metadata

__all__ = ["LOOKUPS", "WORDS"]


def _lookup(name: str, length: int) -> Table:
    return Table(name, metadata, Column("name", String(length), primary_key=True), Column("description", String(255)))


LOOKUPS: tuple[Table, ...] = (
    _lookup("provisioning_status", 30),
    _lookup("operating_status", 30),
    _lookup("protocol", 30),
    _lookup("algorithm", 255),
    _lookup("health_monitor_type", 30),
    _lookup("session_persistence_type", 30),
    _lookup("lb_topology", 36),
    _lookup("amphora_roles", 36),
    _lookup("vrrp_auth_method", 36),
    _lookup("l7rule_type", 36),
    _lookup("l7rule_compare_type", 36),
    _lookup("l7policy_action", 36),
    Table("client_authentication_mode", metadata, Column("name", String(10), primary_key=True)),
)

_AMPHORA_ONLY = "READY BOOTING ALLOCATED FAILOVER_STOPPED"  # amphora.status refers to provisioning_status too

WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(words.split())
        for name, words in {
            "provisioning_status": f"ACTIVE PENDING_CREATE PENDING_UPDATE PENDING_DELETE DELETED ERROR {_AMPHORA_ONLY}",
            "operating_status": "ONLINE OFFLINE DEGRADED ERROR NO_MONITOR DRAINING",
            "protocol": "HTTP HTTPS TCP TERMINATED_HTTPS PROXY UDP PROXYV2 SCTP PROMETHEUS",
            "algorithm": "ROUND_ROBIN LEAST_CONNECTIONS SOURCE_IP SOURCE_IP_PORT",
            "health_monitor_type": "HTTP HTTPS TCP PING TLS-HELLO UDP-CONNECT SCTP",
            "session_persistence_type": "SOURCE_IP HTTP_COOKIE APP_COOKIE",
            "lb_topology": "SINGLE ACTIVE_STANDBY",
            "amphora_roles": "MASTER BACKUP STANDALONE",
            "vrrp_auth_method": "PASS AH",
            "l7rule_type": "HOST_NAME PATH FILE_TYPE HEADER COOKIE SSL_CONN_HAS_CERT SSL_VERIFY_RESULT SSL_DN_FIELD",
            "l7rule_compare_type": "REGEX STARTS_WITH ENDS_WITH CONTAINS EQUAL_TO",
            "l7policy_action": "REJECT REDIRECT_TO_URL REDIRECT_TO_POOL REDIRECT_PREFIX",
            "client_authentication_mode": "NONE OPTIONAL MANDATORY",
        }.items()
    }
)
"""The rows of each lookup table; `description` is NULL everywhere, as upstream has it."""
