"""Amphorae, their health, their ports, and the queue of their building. Upstream's tables, column by column."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, DateTime, Index, Integer, String, Table

from octavia_core.db.tables.parts import indexed_reference, metadata, reference

__all__ = ["amphora", "amphora_build_request", "amphora_build_slots", "amphora_health", "amphora_member_port"]

amphora = Table(
    "amphora",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("compute_id", String(36)),
    Column("status", String(36), nullable=False),
    Column("load_balancer_id", String(36)),
    Column("lb_network_ip", String(64)),
    Column("vrrp_ip", String(64)),
    Column("ha_ip", String(64)),
    Column("vrrp_port_id", String(36)),
    Column("ha_port_id", String(36)),
    Column("role", String(36)),
    Column("cert_expiration", DateTime()),
    Column("cert_busy", Boolean(), nullable=False),
    Column("vrrp_interface", String(16)),
    Column("vrrp_id", Integer()),
    Column("vrrp_priority", Integer()),
    Column("cached_zone", String(255)),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("image_id", String(36)),
    Column("compute_flavor", String(255)),
    *indexed_reference("load_balancer_id", "load_balancer.id", "fk_amphora_load_balancer_id"),
    *indexed_reference("status", "provisioning_status.name", "fk_amphora_provisioning_status_name"),
    *indexed_reference("role", "amphora_roles.name", "fk_amphora_roles_name"),
)

amphora_health = Table(
    "amphora_health",
    metadata,
    Column("amphora_id", String(36), primary_key=True),
    Column("last_update", DateTime(), nullable=False),
    Column("busy", Boolean(), nullable=False),
)

amphora_member_port = Table(
    "amphora_member_port",
    metadata,
    Column("port_id", String(36), primary_key=True),
    Column("amphora_id", String(36), nullable=False),
    Column("network_id", String(36)),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    reference("amphora_id", "amphora.id", "fk_member_port_amphora_id"),
    Index("ix_amphora_member_port_amphora_id", "amphora_id"),
)

amphora_build_request = Table(
    "amphora_build_request",
    metadata,
    Column("amphora_id", String(36), primary_key=True),
    Column("priority", Integer()),
    Column("created_time", DateTime(), nullable=False),
    Column("status", String(16), nullable=False),
)

amphora_build_slots = Table(
    "amphora_build_slots",
    metadata,
    Column("id", Integer(), primary_key=True, autoincrement=True),
    Column("slots_used", Integer()),
)
