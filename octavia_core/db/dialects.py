"""INSERT ... or else, as each database says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import mysql, postgresql, sqlite

__all__ = ["incoming", "insert_into", "on_conflict"]


def insert_into(dialect: str, table: Table) -> Any:
    """An INSERT that can say what happens when the key is there: see `on_conflict`."""
    match dialect:
        case "sqlite":
            return sqlite.insert(table)
        case "postgresql":
            return postgresql.insert(table)
    return mysql.insert(table)


def incoming(dialect: str, statement: Any) -> Any:
    """The columns of the row that was about to be inserted."""
    return statement.inserted if dialect == "mysql" else statement.excluded


def on_conflict(dialect: str, statement: Any, keys: Sequence[str], changes: Mapping[str, Any]) -> Any:
    """What to set when the row is there. MariaDB sets from left to right and sees what it has set: order matters."""
    if dialect == "mysql":
        return statement.on_duplicate_key_update(list(changes.items()))
    return statement.on_conflict_do_update(index_elements=list(keys), set_=dict(changes))
