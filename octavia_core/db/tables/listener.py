"""Listeners, what hangs on them, and their counters. Upstream's tables, column by column."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    true,
)

from octavia_core.db.tables.parts import indexed_reference, metadata, reference

__all__ = ["l7policy", "l7rule", "listener", "listener_cidr", "listener_statistics", "sni"]

listener = Table(
    "listener",
    metadata,
    Column("project_id", String(36)),
    Column("id", String(36), primary_key=True),
    Column("name", String(255)),
    Column("description", String(255)),
    Column("protocol", String(16), nullable=False),
    Column("protocol_port", Integer(), nullable=False),
    Column("connection_limit", Integer()),
    Column("load_balancer_id", String(36)),
    Column("tls_certificate_id", String(255)),
    Column("default_pool_id", String(36)),
    Column("provisioning_status", String(16), nullable=False),
    Column("operating_status", String(16), nullable=False),
    Column("enabled", Boolean(), nullable=False),
    Column("peer_port", Integer()),
    Column("insert_headers", LargeBinary()),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("timeout_client_data", Integer()),
    Column("timeout_member_connect", Integer()),
    Column("timeout_member_data", Integer()),
    Column("timeout_tcp_inspect", Integer()),
    Column("client_ca_tls_certificate_id", String(255)),
    Column("client_authentication", String(10), nullable=False, server_default="NONE"),
    Column("client_crl_container_id", String(255)),
    Column("tls_ciphers", String(2048)),
    Column("tls_versions", String(512)),
    Column("alpn_protocols", String(512)),
    Column("hsts_max_age", Integer()),
    Column("hsts_include_subdomains", Boolean()),
    Column("hsts_preload", Boolean()),
    UniqueConstraint(
        "load_balancer_id", "protocol", "protocol_port", name="uq_listener_load_balancer_id_protocol_port"
    ),
    reference("load_balancer_id", "load_balancer.id", "fk_listener_load_balancer_id"),
    *indexed_reference("operating_status", "operating_status.name", "fk_listener_operating_status_name"),
    *indexed_reference("default_pool_id", "pool.id", "fk_listener_pool_id"),
    *indexed_reference("protocol", "protocol.name", "fk_listener_protocol_name"),
    *indexed_reference("provisioning_status", "provisioning_status.name", "fk_listener_provisioning_status_name"),
    reference("client_authentication", "client_authentication_mode.name", "listener_ibfk_1"),
    Index("client_authentication", "client_authentication"),
)

sni = Table(
    "sni",
    metadata,
    Column("listener_id", String(36), primary_key=True),
    Column("tls_container_id", String(128), primary_key=True),
    Column("position", Integer()),
    reference("listener_id", "listener.id", "fk_sni_listener_id"),
)

listener_cidr = Table(
    "listener_cidr",
    metadata,
    Column("listener_id", String(36), primary_key=True),
    Column("cidr", String(64), primary_key=True),
    reference("listener_id", "listener.id", "fk_listener_cidr_listener_id"),
)

l7policy = Table(
    "l7policy",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255)),
    Column("description", String(255)),
    Column("listener_id", String(36), nullable=False),
    Column("action", String(36), nullable=False),
    Column("redirect_pool_id", String(36)),
    Column("redirect_url", String(255)),
    Column("position", Integer(), nullable=False),
    Column("enabled", Boolean(), nullable=False),
    Column("provisioning_status", String(16), nullable=False),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("project_id", String(36)),
    Column("operating_status", String(16), nullable=False),
    Column("redirect_prefix", String(255)),
    Column("redirect_http_code", Integer()),
    *indexed_reference("action", "l7policy_action.name", "fk_l7policy_l7policy_action_name"),
    *indexed_reference("listener_id", "listener.id", "fk_l7policy_listener_id"),
    *indexed_reference("operating_status", "operating_status.name", "fk_l7policy_operating_status_name"),
    *indexed_reference("redirect_pool_id", "pool.id", "fk_l7policy_pool_id"),
    *indexed_reference("provisioning_status", "provisioning_status.name", "fk_l7policy_provisioning_status_name"),
)

l7rule = Table(
    "l7rule",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("l7policy_id", String(36), nullable=False),
    Column("type", String(36), nullable=False),
    Column("compare_type", String(36), nullable=False),
    Column("key", String(255)),
    Column("value", String(255), nullable=False),
    Column("invert", Boolean(), nullable=False),
    Column("provisioning_status", String(16), nullable=False),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("project_id", String(36)),
    Column("enabled", Boolean(), nullable=False, server_default=true()),
    Column("operating_status", String(16), nullable=False),
    *indexed_reference("l7policy_id", "l7policy.id", "fk_l7rule_l7policy_id"),
    *indexed_reference("compare_type", "l7rule_compare_type.name", "fk_l7rule_l7rule_compare_type_name"),
    *indexed_reference("type", "l7rule_type.name", "fk_l7rule_l7rule_type_name"),
    *indexed_reference("operating_status", "operating_status.name", "fk_l7rule_operating_status_name"),
    *indexed_reference("provisioning_status", "provisioning_status.name", "fk_l7rule_provisioning_status_name"),
)

listener_statistics = Table(
    "listener_statistics",
    metadata,
    Column("listener_id", String(36), primary_key=True),
    Column("bytes_in", BigInteger(), nullable=False),
    Column("bytes_out", BigInteger(), nullable=False),
    Column("active_connections", Integer(), nullable=False),
    Column("total_connections", BigInteger(), nullable=False),
    Column("amphora_id", String(36), primary_key=True),
    Column("request_errors", BigInteger(), nullable=False),
    Index("fk_listener_statistic_amphora_id", "amphora_id"),
)
