"""Pools, their members, monitors and persistence. Upstream's tables, column by column."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, DateTime, Float, Index, Integer, String, Table, UniqueConstraint, false

from octavia_core.db.tables.parts import indexed_reference, metadata, reference

__all__ = ["health_monitor", "member", "pool", "session_persistence"]

pool = Table(
    "pool",
    metadata,
    Column("project_id", String(36)),
    Column("id", String(36), primary_key=True),
    Column("name", String(255)),
    Column("description", String(255)),
    Column("protocol", String(16), nullable=False),
    Column("lb_algorithm", String(255), nullable=False),
    Column("operating_status", String(16), nullable=False),
    Column("enabled", Boolean(), nullable=False),
    Column("load_balancer_id", String(36)),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("provisioning_status", String(16), nullable=False),
    Column("tls_certificate_id", String(255)),
    Column("ca_tls_certificate_id", String(255)),
    Column("crl_container_id", String(255)),
    Column("tls_enabled", Boolean(), nullable=False, server_default=false()),
    Column("tls_ciphers", String(2048)),
    Column("tls_versions", String(512)),
    Column("alpn_protocols", String(512)),
    *indexed_reference("lb_algorithm", "algorithm.name", "fk_pool_algorithm_name"),
    *indexed_reference("operating_status", "operating_status.name", "fk_pool_operating_status_name"),
    *indexed_reference("protocol", "protocol.name", "fk_pool_protocol_name"),
    *indexed_reference("provisioning_status", "provisioning_status.name", "fk_pool_provisioning_status_name"),
    reference("load_balancer_id", "load_balancer.id", "pool_ibfk_1"),
    Index("load_balancer_id", "load_balancer_id"),
)

session_persistence = Table(
    "session_persistence",
    metadata,
    Column("pool_id", String(36), primary_key=True),
    Column("type", String(16), nullable=False),
    Column("cookie_name", String(255)),
    Column("persistence_timeout", Integer()),
    Column("persistence_granularity", String(64)),
    reference("pool_id", "pool.id", "fk_session_persistence_pool_id"),
    *indexed_reference("type", "session_persistence_type.name", "fk_session_persistence_session_persistence_type_name"),
)

health_monitor = Table(
    "health_monitor",
    metadata,
    Column("pool_id", String(36), nullable=False),
    Column("type", String(36), nullable=False),
    Column("delay", Integer(), nullable=False),
    Column("timeout", Integer(), nullable=False),
    Column("fall_threshold", Integer(), nullable=False),
    Column("rise_threshold", Integer(), nullable=False),
    Column("http_method", String(16)),
    Column("url_path", String(255)),
    Column("expected_codes", String(64)),
    Column("enabled", Boolean(), nullable=False),
    Column("project_id", String(36)),
    Column("provisioning_status", String(16), nullable=False),
    Column("name", String(255)),
    Column("id", String(36), primary_key=True),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("operating_status", String(16), nullable=False),
    Column("http_version", Float()),
    Column("domain_name", String(255)),
    UniqueConstraint("pool_id", name="uq_health_monitor_pool"),
    *indexed_reference("type", "health_monitor_type.name", "fk_health_monitor_health_monitor_type_name"),
    *indexed_reference("operating_status", "operating_status.name", "fk_health_monitor_operating_status_name"),
    reference("pool_id", "pool.id", "fk_health_monitor_pool_id"),
    *indexed_reference("provisioning_status", "provisioning_status.name", "fk_health_monitor_provisioning_status_name"),
)

member = Table(
    "member",
    metadata,
    Column("project_id", String(36)),
    Column("id", String(36), primary_key=True),
    Column("pool_id", String(36), nullable=False),
    Column("subnet_id", String(36)),
    Column("ip_address", String(64)),
    Column("protocol_port", Integer(), nullable=False),
    Column("weight", Integer()),
    Column("operating_status", String(16), nullable=False),
    Column("enabled", Boolean(), nullable=False),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("provisioning_status", String(16), nullable=False),
    Column("name", String(255)),
    Column("monitor_address", String(64)),
    Column("monitor_port", Integer()),
    Column("backup", Boolean(), nullable=False),
    Column("vnic_type", String(64), nullable=False, server_default="normal"),
    UniqueConstraint("pool_id", "ip_address", "protocol_port", name="uq_member_pool_id_address_protocol_port"),
    *indexed_reference("operating_status", "operating_status.name", "fk_member_operating_status_name"),
    reference("pool_id", "pool.id", "fk_member_pool_id"),
    *indexed_reference("provisioning_status", "provisioning_status.name", "fk_member_provisioning_status_name"),
)
