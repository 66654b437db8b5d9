"""What health managers share: the pause and the tokens of failovers, their figures, and failovers that come back.

And the host of each amphora, where compute says it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT, VARCHAR

revision = "oc0002"
down_revision = "oc0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing: MariaDB commits each CREATE TABLE, so an interrupted run may have left some."""
    present = set(sa.inspect(op.get_bind()).get_table_names())
    if "oc_governor" not in present:
        op.create_table(
            "oc_governor",
            sa.Column("name", _exact(64), primary_key=True),
            sa.Column("paused_by", _exact(255)),
            sa.Column("paused_reason", _long()),
            sa.Column("paused_at", sa.BigInteger()),
            sa.Column("tokens", sa.BigInteger()),
            sa.Column("counted_at", sa.BigInteger()),
        )
    if "oc_observer" not in present:
        op.create_table(
            "oc_observer",
            sa.Column("name", _exact(255), primary_key=True),
            sa.Column("written_at", sa.BigInteger(), nullable=False),
            sa.Column("figures", _long(), nullable=False),
        )
    if "oc_comeback" not in present:
        op.create_table(
            "oc_comeback",
            sa.Column("amphora_id", _exact(36), primary_key=True),
            sa.Column("load_balancer_id", _exact(36), nullable=False),
            sa.Column("attempts", sa.Integer(), nullable=False),
            sa.Column("next_at", sa.BigInteger(), nullable=False),
            sa.Column("since", sa.BigInteger(), nullable=False),
            sa.Column("operation_id", _exact(36)),
            sa.Column("reason", _long(), nullable=False),
            sa.Index("ix_oc_comeback_next_at", "next_at"),
        )

    if "host" not in _columns("oc_liveness"):
        op.add_column("oc_liveness", sa.Column("host", _exact(255)))
    if _INDEX not in _indexes("oc_liveness"):
        op.create_index(_INDEX, "oc_liveness", ["declared_dead"])


def downgrade() -> None:
    """Take them away again."""
    present = set(sa.inspect(op.get_bind()).get_table_names())
    if _INDEX in _indexes("oc_liveness"):
        op.drop_index(_INDEX, "oc_liveness")
    if "host" in _columns("oc_liveness"):
        op.drop_column("oc_liveness", "host")
    for name in ("oc_comeback", "oc_observer", "oc_governor"):
        if name in present:
            op.drop_table(name)


_INDEX = "ix_oc_liveness_declared_dead"


def _indexes(table: str) -> set[str | None]:
    return {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}


def _columns(table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}


def _exact(length: int) -> Any:
    binary = VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def _long() -> Any:
    return sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
