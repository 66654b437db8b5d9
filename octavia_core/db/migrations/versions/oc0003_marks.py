"""What each agent has of that which can be rotated, and what all are to have: kept apart from operations, which expire.

What operations prove until now is taken over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import VARCHAR

revision = "oc0003"
down_revision = "oc0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing: MariaDB commits each CREATE TABLE, so an interrupted run may have left some."""
    present = set(sa.inspect(op.get_bind()).get_table_names())
    if "oc_mark" not in present:
        op.create_table(
            "oc_mark",
            sa.Column("amphora_id", _exact(36), primary_key=True),
            sa.Column("what", _exact(32), primary_key=True),
            sa.Column("mark", _exact(64), nullable=False),
            sa.Column("given_at", sa.BigInteger(), nullable=False),
        )
    if "oc_rotation" not in present:
        op.create_table(
            "oc_rotation",
            sa.Column("what", _exact(32), primary_key=True),
            sa.Column("mark", _exact(64), nullable=False),
            sa.Column("begun_at", sa.BigInteger(), nullable=False),
        )
    _take_over(op.get_bind())


def downgrade() -> None:
    """Take them away again."""
    present = set(sa.inspect(op.get_bind()).get_table_names())
    for name in ("oc_rotation", "oc_mark"):
        if name in present:
            op.drop_table(name)


_OPERATIONS = sa.text(
    "SELECT amphora_id, arguments, state, created_at FROM oc_operation WHERE flow = 'configure-agent' ORDER BY created_at"
)


def _take_over(connection: sa.Connection) -> None:
    """An agent has what it was told last, unless it may have been told something else since."""
    marks: dict[tuple[str, str], tuple[str, int]] = {}
    rotations: dict[str, tuple[str, int]] = {}
    for row in connection.execute(_OPERATIONS):
        told = json.loads(row.arguments or "{}")
        what, mark = told.get("tell"), told.get("mark")
        if not what or not mark or row.amphora_id is None:
            continue
        rotations[what] = mark, row.created_at
        if row.state == "SUCCEEDED":
            marks[row.amphora_id, what] = mark, row.created_at
        elif marks.get((row.amphora_id, what), (mark, 0))[0] != mark:
            del marks[row.amphora_id, what]
    _insert(
        connection,
        "INSERT INTO oc_mark (amphora_id, what, mark, given_at) VALUES (:amphora_id, :what, :mark, :at)",
        "SELECT amphora_id, what FROM oc_mark",
        [{"amphora_id": id, "what": what, "mark": mark, "at": at} for (id, what), (mark, at) in marks.items()],
    )
    _insert(
        connection,
        "INSERT INTO oc_rotation (what, mark, begun_at) VALUES (:what, :mark, :at)",
        "SELECT what FROM oc_rotation",
        [{"what": what, "mark": mark, "at": at} for what, (mark, at) in rotations.items()],
    )


def _insert(connection: sa.Connection, statement: str, there: str, rows: Iterable[dict[str, Any]]) -> None:
    keys = {tuple(row) for row in connection.execute(sa.text(there))}
    wanted = [row for row in rows if (*([row["amphora_id"]] if "amphora_id" in row else []), row["what"]) not in keys]
    if wanted:
        connection.execute(sa.text(statement), wanted)


def _exact(length: int) -> Any:
    binary = VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")
