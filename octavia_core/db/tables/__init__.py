"""The tables: upstream Octavia 19's exactly, and ours beside them."""

from __future__ import annotations

from sqlalchemy import Table

from octavia_core.db.tables import amphora, balancer, listener, own, pool, tenancy, words  # noqa: F401 - they add to it
from octavia_core.db.tables.parts import metadata
from octavia_core.domain.vocabulary import Kind

__all__ = ["OWN", "TABLE_OF", "UPSTREAM", "metadata"]

OWN: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if table.name.startswith("oc_"))
"""Our tables, in the order of creation."""

UPSTREAM: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if not table.name.startswith("oc_"))
"""Upstream's tables, referred-to ones first."""

TABLE_OF: dict[Kind, Table] = {kind: metadata.tables[kind.value] for kind in Kind}
"""The table of each kind of row that has a life of its own."""
