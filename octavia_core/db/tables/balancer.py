"""A load balancer and its addresses. Upstream's tables, column by column."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, DateTime, Index, Integer, String, Table

from octavia_core.db.tables.parts import indexed_reference, metadata, reference

__all__ = ["additional_vip", "load_balancer", "vip", "vip_security_group", "vrrp_group"]

load_balancer = Table(
    "load_balancer",
    metadata,
    Column("project_id", String(36)),
    Column("id", String(36), primary_key=True),
    Column("name", String(255)),
    Column("description", String(255)),
    Column("provisioning_status", String(16), nullable=False),
    Column("operating_status", String(16), nullable=False),
    Column("enabled", Boolean(), nullable=False),
    Column("topology", String(36)),
    Column("server_group_id", String(36)),
    Column("created_at", DateTime()),
    Column("updated_at", DateTime()),
    Column("provider", String(64)),
    Column("flavor_id", String(36)),
    Column("availability_zone", String(255)),
    *indexed_reference("topology", "lb_topology.name", "fk_lb_topology_name"),
    *indexed_reference("availability_zone", "availability_zone.name", "fk_load_balancer_availability_zone_name"),
    *indexed_reference("operating_status", "operating_status.name", "fk_load_balancer_operating_status_name"),
    *indexed_reference("provisioning_status", "provisioning_status.name", "fk_load_balancer_provisioning_status_name"),
    *indexed_reference("flavor_id", "flavor.id", "fk_loadbalancer_flavor_id"),
)

vip = Table(
    "vip",
    metadata,
    Column("load_balancer_id", String(36), primary_key=True),
    Column("ip_address", String(64)),
    Column("port_id", String(36)),
    Column("subnet_id", String(36)),
    Column("network_id", String(36)),
    Column("qos_policy_id", String(36)),
    Column("octavia_owned", Boolean()),
    Column("vnic_type", String(64), nullable=False, server_default="normal"),
    reference("load_balancer_id", "load_balancer.id", "fk_vip_load_balancer_id"),
)

vip_security_group = Table(
    "vip_security_group",
    metadata,
    Column("load_balancer_id", String(36), primary_key=True),
    Column("sg_id", String(36), primary_key=True),
    reference("load_balancer_id", "vip.load_balancer_id", "fk_vip_sg_vip_lb_id"),
)

additional_vip = Table(
    "additional_vip",
    metadata,
    Column("load_balancer_id", String(36), primary_key=True),
    Column("ip_address", String(64)),
    Column("port_id", String(36)),
    Column("subnet_id", String(36), primary_key=True),
    Column("network_id", String(36)),
    reference("load_balancer_id", "load_balancer.id", "fk_add_vip_load_balancer_id"),
    Index("ix_additional_vip_load_balancer_id", "load_balancer_id"),
)

vrrp_group = Table(
    "vrrp_group",
    metadata,
    Column("load_balancer_id", String(36), primary_key=True),
    Column("vrrp_group_name", String(36)),
    Column("vrrp_auth_type", String(16)),
    Column("vrrp_auth_pass", String(36)),
    Column("advert_int", Integer()),
    *indexed_reference("vrrp_auth_type", "vrrp_auth_method.name", "fk_load_balancer_vrrp_auth_method_name"),
    reference("load_balancer_id", "load_balancer.id", "fk_vrrp_group_load_balancer_id"),
)
