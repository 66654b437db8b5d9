"""The rows that are there from the start: lookup words, and what upstream's migrations seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Table

from octavia_core.db.clock import db_utcnow
from octavia_core.db.tables import tenancy
from octavia_core.db.tables.amphora import amphora_build_slots
from octavia_core.db.tables.own import oc_meta
from octavia_core.db.tables.parts import metadata
from octavia_core.db.tables.words import WORDS

__all__ = ["EVENT_COUNTER", "NIL", "UPSTREAM_REVISION", "own_rows", "upstream_rows"]

UPSTREAM_REVISION = "fabf4983846b"
"""The newest migration of upstream Octavia 19.0.0: what its `octavia-db-manage current` shows."""

NIL = "00000000-0000-0000-0000-000000000000"
"""The id (and zone name) of the rows that deleted load balancers point at when their flavor or zone is deleted."""

EVENT_COUNTER = "event_sequence"
"""The row of oc_meta that counts events."""


def upstream_rows() -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Rows by table, referred-to tables first."""
    for name, words in WORDS.items():
        yield metadata.tables[name], [{"name": word} for word in words]
    yield amphora_build_slots, [{"id": 1, "slots_used": 0}]
    named = {"name": "DELETED-PLACEHOLDER", "provider_name": "DELETED"}
    yield tenancy.flavor_profile, [{"id": NIL, "flavor_data": "{}", **named}]
    yield (
        tenancy.flavor,
        [
            {
                "id": NIL,
                "name": "DELETED-PLACEHOLDER",
                "description": "Placeholder for DELETED LBs with DELETED flavors",
                "enabled": False,
                "flavor_profile_id": NIL,
            }
        ],
    )
    yield tenancy.availability_zone_profile, [{"id": NIL, "availability_zone_data": "{}", **named}]
    yield (
        tenancy.availability_zone,
        [
            {
                "name": NIL,
                "description": "Placeholder for DELETED LBs with DELETED availability zones",
                "enabled": False,
                "availability_zone_profile_id": NIL,
            }
        ],
    )
    yield tenancy.spares_pool, [{"updated_at": db_utcnow()}]
    yield tenancy.alembic_version, [{"version_num": UPSTREAM_REVISION}]


def own_rows() -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Rows of our own tables."""
    yield oc_meta, [{"name": EVENT_COUNTER, "number": 0}]
