"""The database's own clock, inside the statement that uses it.

Each database says "now" in its own words; these elements are compiled to them. Sessions of MariaDB run in UTC
(engine.py), without which its UNIX_TIMESTAMP would be ambiguous for an hour each autumn.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, DateTime
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

__all__ = ["db_now", "db_statement_now", "db_utcnow"]


class db_now(FunctionElement[int]):  # noqa: N801 - reads as a function of SQL
    """Microseconds since the epoch, at the moment a row is written (SQLite: in steps of a millisecond)."""

    name = "db_now"
    type = BigInteger()
    inherit_cache = True


class db_statement_now(FunctionElement[int]):  # noqa: N801 - reads as a function of SQL
    """The same, at the start of the statement: one constant, so that an index can be searched by it."""

    name = "db_statement_now"
    type = BigInteger()
    inherit_cache = True


class db_utcnow(FunctionElement[Any]):  # noqa: N801 - reads as a function of SQL
    """Now as upstream's DATETIME columns hold it: UTC without a zone, whole seconds."""

    name = "db_utcnow"
    type = DateTime()
    inherit_cache = True


@compiles(db_now, "sqlite")
@compiles(db_statement_now, "sqlite")
def _sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    # Milliseconds are what 'now' has; rounding takes away what the day fraction of a double adds (about 40 us).
    return "(CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)"


@compiles(db_now, "mysql")
@compiles(db_now, "mariadb")
def _mysql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"


@compiles(db_statement_now, "mysql")
@compiles(db_statement_now, "mariadb")
def _mysql_statement(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"


@compiles(db_now, "postgresql")
def _postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(db_statement_now, "postgresql")
def _postgresql_statement(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)"


@compiles(db_utcnow, "sqlite")
def _sqlite_utc(element: Any, compiler: Any, **kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%S.000000', 'now')"


@compiles(db_utcnow, "mysql")
@compiles(db_utcnow, "mariadb")
def _mysql_utc(element: Any, compiler: Any, **kw: Any) -> str:
    return "UTC_TIMESTAMP()"


@compiles(db_utcnow, "postgresql")
def _postgresql_utc(element: Any, compiler: Any, **kw: Any) -> str:
    return "date_trunc('second', clock_timestamp() AT TIME ZONE 'UTC')"
