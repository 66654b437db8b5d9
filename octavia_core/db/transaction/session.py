"""What the parts of a transaction share: one connection, statements counted as reads or writes, rows checked."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, Integer, Row, String, Table, bindparam, exists, select
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.expression import FunctionElement

from octavia_core.db.prepared import Prepared, Wire
from octavia_core.db.text import from_text, to_text
from octavia_core.errors import BadRequest

__all__ = ["Session", "chunks", "fit", "from_text", "is_plain", "to_text"]

T = TypeVar("T")

_CHUNK = 500
"""Values in one IN list: SQLite binds at most 32,766, and a statement per length is kept in the cache."""
_PLAIN = re.compile(r"[0-9A-Za-z-]{1,36}(?: [0-9A-Za-z-]{1,36})*")
"""Ids with blanks between them, of characters that mean nothing but themselves in any SQL."""


class Session:
    """One transaction that is under way."""

    def __init__(self, connection: Connection, *, writes: bool, wire: Wire) -> None:
        self._connection = connection
        self._writes = writes
        self._wire = wire
        self.changed = False
        """True once a statement changed something: only then a second application could matter."""
        self.token = ""
        """Of a transaction that writes: the same over all attempts at it."""
        self.proof: str | None = None
        """The id of an operation whose row exists when, and only when, this transaction was committed."""

    @property
    def dialect(self) -> str:
        """sqlite, mysql (MariaDB too) or postgresql."""
        name = self._connection.dialect.name
        return "mysql" if name == "mariadb" else name

    def rows(self, statement: Executable | Prepared, **parameters: Any) -> Sequence[Row[Any]]:
        """All rows of a query."""
        if isinstance(statement, Prepared):
            return self._wire.rows(self._connection, statement, parameters)
        self._wire.sent += 1
        return self._connection.execute(statement, parameters).all()

    def row(self, statement: Executable | Prepared, **parameters: Any) -> Row[Any] | None:
        """The first row of a query, or None."""
        found = self.rows(statement, **parameters)
        return found[0] if found else None

    def value(self, statement: Executable | Prepared, **parameters: Any) -> Any:
        """The first column of the first row, or None."""
        found = self.rows(statement, **parameters)
        return found[0][0] if found else None

    def write(self, statement: Executable | Prepared, parameters: Mapping[str, Any] | None = None) -> int:
        """Send a statement that changes rows; how many it matched."""
        self._may_write()
        if isinstance(statement, Prepared):
            matched = self._wire.write(self._connection, statement, parameters or {})
        else:
            self._wire.sent += 1
            matched = int(self._connection.execute(statement, parameters or {}).rowcount)
        self.changed = self.changed or matched != 0
        return matched

    def write_many(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """The same statement for many rows, in as few round trips as the driver has for it; no row, no trip."""
        if rows:
            self._may_write()
            self._wire.sent += 1
            self._connection.execute(statement, rows)
            self.changed = True

    def add_rows(self, table: Table, rows: Sequence[Mapping[str, Any]], **every: Any) -> None:
        """Insert rows; `every` are times of the database's clock that all of them get, or one moment given as a value."""
        if len(rows) == 1:
            row, clocks = _timed(fit(table, rows[0]), every)
            self.write(_insert(table, tuple(row), clocks), row)
            return
        self.write_many(table.insert().values(every) if every else table.insert(), [fit(table, row) for row in rows])

    def add_row(self, table: Table, row: Mapping[str, Any], **every: Any) -> bool:
        """Insert a row unless there is one with its id, in one statement; True when it was inserted. `every` as in `add_rows`."""
        columns, clocks = _timed(fit(table, row), every)
        given = {f"b_{name}": value for name, value in columns.items()}
        return self.write(_insert_new(table, tuple(columns), clocks), given) == 1

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """What fails inside is taken back alone. (SQLite and MariaDB take back single statements by themselves.)"""
        if self.dialect == "postgresql":
            with self._connection.begin_nested():
                yield
        else:
            yield

    def _may_write(self) -> None:
        if not self._writes:
            raise RuntimeError("a read must not change anything: use Storage.transaction")


Clocks = tuple[tuple[str, type[FunctionElement[Any]]], ...]


def _timed(row: Mapping[str, Any], every: Mapping[str, Any]) -> tuple[dict[str, Any], Clocks]:
    """The row with the moments that are given as values, and those which the database knows."""
    clocks = tuple((name, type(value)) for name, value in every.items() if isinstance(value, FunctionElement))
    moments = {name: value for name, value in every.items() if not isinstance(value, FunctionElement)}
    return {**row, **moments}, clocks


@functools.cache
def _insert_new(table: Table, columns: tuple[str, ...], clocks: Clocks) -> Prepared:
    given = [bindparam(f"b_{name}", type_=table.c[name].type) for name in columns]
    there = exists(select(table.c.id).where(table.c.id == bindparam("b_id", type_=table.c.id.type)))
    source = select(*given, *(clock() for _, clock in clocks)).where(~there)
    return Prepared(table.insert().from_select([*columns, *(name for name, _ in clocks)], source))


@functools.cache
def _insert(table: Table, columns: tuple[str, ...], clocks: Clocks) -> Prepared:
    """One row with these columns; building it takes longer than running it."""
    statement = table.insert()
    return Prepared(statement.values({name: clock() for name, clock in clocks}) if clocks else statement, columns)


def chunks(values: Collection[T], size: int = _CHUNK) -> Iterator[list[T]]:
    """The values in lists that fit into one IN."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def is_plain(ids: Iterable[str]) -> bool:
    """Whether all of them may stand between quotes in a statement as they are. False where there are none."""
    return _PLAIN.fullmatch(" ".join(ids)) is not None


def fit(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as plain values that every one of the databases takes, also where SQLite would take more.

    Raises:
        BadRequest: text that is too long or holds characters that cannot be stored, a number out of range, or nothing
            where something is needed.
    """
    limits = _limits(table)
    return {name: _fit(table.name, name, limits[name], value) for name, value in row.items()}


@functools.cache
def _limits(table: Table) -> Mapping[str, tuple[bool, int | None, int | None]]:
    """Of each column: may it be NULL, how many characters it holds, how many bits its number has."""
    limits: dict[str, tuple[bool, int | None, int | None]] = {}
    for column in table.c:
        kind = column.type
        length = kind.length if isinstance(kind, String) else None
        bits = 63 if isinstance(kind, BigInteger) else 31 if isinstance(kind, Integer) else None
        limits[column.name] = (bool(column.nullable), length, bits)
    return limits


def _fit(table: str, name: str, limits: tuple[bool, int | None, int | None], value: Any) -> Any:
    nullable, length, bits = limits
    if value is None or isinstance(value, bool):
        if value is None and not nullable:
            raise BadRequest(f"{table}.{name} must not be empty")
        return value
    if isinstance(value, str):
        text = str(value)  # an enum of words becomes its word
        if length is not None and len(text) > length:
            raise BadRequest(f"{table}.{name} holds {length} characters at most, not {len(text)}")
        if not text.isascii() or "\0" in text:
            _storable(table, name, text)
        return text
    if bits is not None and isinstance(value, int) and not -(1 << bits) <= value < 1 << bits:
        raise BadRequest(f"{table}.{name} cannot hold {value}")
    return value


def _storable(table: str, name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{table}.{name} holds half of a character") from None
    if "\0" in text:
        raise BadRequest(f"{table}.{name} holds a NUL character")
