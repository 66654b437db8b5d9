"""What table definitions are made of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, MetaData, String, Text
from sqlalchemy.dialects.mysql import LONGTEXT, VARCHAR
from sqlalchemy.types import TypeEngine

__all__ = ["exact", "indexed_reference", "long_text", "metadata", "microseconds", "reference"]

metadata = MetaData()
"""Every table: upstream's, and ours (their names begin with `oc_`)."""


def reference(column: str, target: str, name: str) -> ForeignKeyConstraint:
    """A foreign key of one column; upstream has no ON DELETE anywhere, so neither has this."""
    return ForeignKeyConstraint([column], [target], name=name)


def indexed_reference(column: str, target: str, name: str) -> tuple[ForeignKeyConstraint, Index]:
    """A foreign key with an index of the same name. MariaDB makes that index by itself, under that name."""
    return reference(column, target, name), Index(name, column).ddl_if(callable_=_not_mysql)


def _not_mysql(*_: Any, **about: Any) -> bool:
    return about["dialect"].name not in ("mysql", "mariadb")


def exact(length: int) -> TypeEngine[str]:
    """Text that is compared byte by byte on every database (MariaDB would take 'A' and 'a' for the same)."""
    binary = VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(binary, "mysql", "mariadb")


def long_text() -> TypeEngine[str]:
    """JSON or prose of any length (TEXT of MariaDB ends at 64 KiB)."""
    return Text().with_variant(LONGTEXT(), "mysql", "mariadb")


def microseconds() -> BigInteger:
    """A time: microseconds since the epoch, of the database's clock."""
    return BigInteger()
