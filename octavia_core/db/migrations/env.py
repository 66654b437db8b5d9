"""Alembic's door: migrations run over the connection that `octavia_core.db.schema` hands in, in its transaction."""

from __future__ import annotations

from alembic import context

from octavia_core.db.schema import VERSION_TABLE
from octavia_core.db.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
