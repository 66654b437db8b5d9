"""Baseline: upstream 19's tables where there are none, and our own.

Upstream's tables are complete when its `alembic_version` has its row, which is written last; where they are, they are
left alone. What an interrupted run of this file left behind (MariaDB commits each CREATE TABLE) is completed.
Our tables are spelt out here as they were at this revision; later revisions change them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT, VARCHAR

from octavia_core.db.tables import UPSTREAM
from octavia_core.db.tables.seeds import UPSTREAM_REVISION, upstream_rows
from octavia_core.errors import ConfigurationError

revision = "oc0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    connection = op.get_bind()
    present = set(sa.inspect(connection).get_table_names())
    _upstream(connection, present)
    _operations(present)
    _events(present)
    _health(present)
    if not connection.execute(sa.text("SELECT COUNT(*) FROM oc_meta WHERE name = 'event_sequence'")).scalar():
        connection.execute(sa.text("INSERT INTO oc_meta (name, number) VALUES ('event_sequence', 0)"))


def downgrade() -> None:
    """Take our tables away; upstream's hold the load balancers, so they stay."""
    for name in _OURS:
        op.drop_table(name)


_OURS = (
    "oc_meta",
    "oc_commit",
    "oc_amphora",
    "oc_liveness",
    "oc_revision",
    "oc_event_cursor",
    "oc_event",
    "oc_journal",
    "oc_operation",
)


def _upstream(connection: sa.Connection, present: set[str]) -> None:
    marks = sa.table("alembic_version", sa.column("version_num"))
    if "alembic_version" in present:
        found = connection.execute(sa.select(marks.c.version_num)).scalar()
        if found == UPSTREAM_REVISION:
            return
        if found is not None:
            raise ConfigurationError(
                f"upstream's tables in this database are at revision {found}, not at {UPSTREAM_REVISION} of Octavia 19;"
                " run: octavia-db-manage upgrade head (of Octavia 19.0.0)"
            )
    for table in UPSTREAM:
        if table.name not in present:
            table.create(connection)
    for table, rows in upstream_rows():
        keys = [column.name for column in table.primary_key]
        stored = {tuple(row) for row in connection.execute(sa.select(*(table.c[key] for key in keys)))}
        missing = [row for row in rows if tuple(row[key] for key in keys) not in stored]
        if table.name == "spares_pool" and stored:
            continue  # its key is the time of that other run
        if missing:
            connection.execute(table.insert().values(missing))


def _exact(length: int) -> Any:
    binary = VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def _long() -> Any:
    return sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")


def _operations(present: set[str]) -> None:
    if "oc_operation" not in present:
        op.create_table(
            "oc_operation",
            sa.Column("id", _exact(36), primary_key=True),
            sa.Column("flow", _exact(64), nullable=False),
            sa.Column("flow_version", sa.Integer(), nullable=False),
            sa.Column("load_balancer_id", _exact(36)),
            sa.Column("amphora_id", _exact(36)),
            sa.Column("arguments", _long(), nullable=False),
            sa.Column("subjects", _long(), nullable=False),
            sa.Column("internal", sa.Boolean(), nullable=False),
            sa.Column("actor", _exact(255), nullable=False),
            sa.Column("request_id", _exact(255)),
            sa.Column("state", _exact(16), nullable=False),
            sa.Column("lock_key", _exact(36)),
            sa.Column("holder", _exact(255)),
            sa.Column("fence", sa.BigInteger(), nullable=False),
            sa.Column("lease_until", sa.BigInteger(), nullable=False),
            sa.Column("wake_at", sa.BigInteger(), nullable=False),
            sa.Column("wait", _long()),
            sa.Column("wait_kind", _exact(64)),
            sa.Column("undoing", sa.Boolean(), nullable=False),
            sa.Column("attempts", sa.Integer(), nullable=False),
            sa.Column("error", _long()),
            sa.Column("commit_token", _exact(36)),
            sa.Column("created_at", sa.BigInteger(), nullable=False),
            sa.Column("updated_at", sa.BigInteger(), nullable=False),
            sa.Column("finished_at", sa.BigInteger()),
            sa.UniqueConstraint("lock_key", name="uq_oc_operation_lock_key"),
            sa.UniqueConstraint("flow", "request_id", name="uq_oc_operation_flow_request_id"),
            sa.Index("ix_oc_operation_state_wake_at", "state", "wake_at"),
            sa.Index("ix_oc_operation_state_lease_until", "state", "lease_until"),
            sa.Index("ix_oc_operation_load_balancer_id", "load_balancer_id", "created_at"),
            sa.Index("ix_oc_operation_created_at", "created_at"),
        )
    if "oc_journal" not in present:
        op.create_table(
            "oc_journal",
            sa.Column("operation_id", _exact(36), primary_key=True),
            sa.Column("path", _exact(255), primary_key=True),
            sa.Column("sequence", sa.Integer(), nullable=False),
            sa.Column("kind", _exact(16), nullable=False),
            sa.Column("outcome", _exact(16), nullable=False),
            sa.Column("entry_key", _long()),
            sa.Column("result", _long()),
            sa.Column("error", _long()),
            sa.Column("attempts", sa.Integer(), nullable=False),
            sa.Column("started_at", sa.BigInteger(), nullable=False),
            sa.Column("finished_at", sa.BigInteger()),
        )
    if "oc_revision" not in present:
        op.create_table(
            "oc_revision",
            sa.Column("load_balancer_id", _exact(36), primary_key=True),
            sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
            sa.Column("tree", _long(), nullable=False),
            sa.Column("good", sa.Boolean(), nullable=False),
            sa.Column("operation_id", _exact(36)),
            sa.Column("created_at", sa.BigInteger(), nullable=False),
            sa.UniqueConstraint("operation_id", name="uq_oc_revision_operation_id"),
        )


def _events(present: set[str]) -> None:
    if "oc_event" not in present:
        op.create_table(
            "oc_event",
            sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
            sa.Column("name", _exact(128), nullable=False),
            sa.Column("text", _long(), nullable=False),
            sa.Column("at", sa.BigInteger(), nullable=False),
            sa.Column("load_balancer_id", _exact(36)),
            sa.Column("amphora_id", _exact(36)),
            sa.Column("operation_id", _exact(36)),
            sa.Column("data", _long(), nullable=False),
            sa.Index("ix_oc_event_load_balancer_id", "load_balancer_id", "sequence"),
            sa.Index("ix_oc_event_operation_id", "operation_id", "sequence"),
        )
    if "oc_event_cursor" not in present:
        op.create_table(
            "oc_event_cursor",
            sa.Column("plugin", _exact(255), primary_key=True),
            sa.Column("sequence", sa.BigInteger(), nullable=False),
        )


def _health(present: set[str]) -> None:
    if "oc_liveness" not in present:
        op.create_table(
            "oc_liveness",
            sa.Column("amphora_id", sa.String(36), primary_key=True),
            sa.Column("last_heard", sa.BigInteger()),
            sa.Column("since", sa.BigInteger(), nullable=False),
            sa.Column("observer", _exact(255)),
            sa.Column("sequence", sa.BigInteger()),
            sa.Column("declared_dead", sa.BigInteger()),
            sa.Column("report", _long()),
            sa.Index("ix_oc_liveness_last_heard", "last_heard"),
        )
    if "oc_amphora" not in present:
        op.create_table(
            "oc_amphora",
            sa.Column("amphora_id", sa.String(36), primary_key=True),
            sa.Column("agent_port", sa.Integer(), nullable=False),
        )
    if "oc_commit" not in present:
        op.create_table(
            "oc_commit",
            sa.Column("token", _exact(36), primary_key=True),
            sa.Column("at", sa.BigInteger(), nullable=False),
            sa.Index("ix_oc_commit_at", "at"),
        )
    if "oc_meta" not in present:
        op.create_table(
            "oc_meta",
            sa.Column("name", _exact(64), primary_key=True),
            sa.Column("number", sa.BigInteger(), nullable=False),
        )
