"""What load balancers refer to and are counted by: flavors, zones, quotas, tags; and two marks of upstream. Upstream's tables, column by column."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, DateTime, Index, Integer, String, Table, UniqueConstraint, func

from octavia_core.db.tables.parts import indexed_reference, metadata

__all__ = [
    "alembic_version",
    "availability_zone",
    "availability_zone_profile",
    "flavor",
    "flavor_profile",
    "quotas",
    "spares_pool",
    "tags",
]

flavor_profile = Table(
    "flavor_profile",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("provider_name", String(255), nullable=False),
    Column("flavor_data", String(4096), nullable=False),
)

flavor = Table(
    "flavor",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("description", String(255)),
    Column("enabled", Boolean(), nullable=False),
    Column("flavor_profile_id", String(36), nullable=False),
    UniqueConstraint("name", name="uq_flavor_name"),
    *indexed_reference("flavor_profile_id", "flavor_profile.id", "fk_flavor_flavor_profile_id"),
)

availability_zone_profile = Table(
    "availability_zone_profile",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("provider_name", String(255), nullable=False),
    Column("availability_zone_data", String(4096), nullable=False),
)

availability_zone = Table(
    "availability_zone",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("description", String(255)),
    Column("enabled", Boolean(), nullable=False),
    Column("availability_zone_profile_id", String(36), nullable=False),
    *indexed_reference("availability_zone_profile_id", "availability_zone_profile.id", "fk_az_az_profile_id"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("project_id", String(36), primary_key=True),
    Column("health_monitor", Integer()),
    Column("load_balancer", Integer()),
    Column("listener", Integer()),
    Column("member", Integer()),
    Column("pool", Integer()),
    Column("in_use_health_monitor", Integer()),
    Column("in_use_load_balancer", Integer()),
    Column("in_use_listener", Integer()),
    Column("in_use_member", Integer()),
    Column("in_use_pool", Integer()),
    Column("l7policy", Integer()),
    Column("l7rule", Integer()),
    Column("in_use_l7policy", Integer()),
    Column("in_use_l7rule", Integer()),
)

tags = Table(
    "tags",
    metadata,
    Column("resource_id", String(36), primary_key=True),
    Column("tag", String(255), primary_key=True),
    Index("ix_tags_tag", "tag"),
)

spares_pool = Table(
    "spares_pool",
    metadata,
    Column("updated_at", DateTime(), primary_key=True, server_default=func.current_timestamp()),
)

alembic_version = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), primary_key=True),
)
