"""Statements that never change: built once, compiled once for each database, then sent with nothing but their values.

SQLAlchemy makes a statement anew for each execution: it looks its parts up in a cache, sets up a context and a result, and
that costs more than SQLite needs to carry it out. What the engine sends ten times for each operation goes this way
instead; everything else goes through `Connection.execute` as usual. Transactions, pooling and errors stay SQLAlchemy's.
"""

from __future__ import annotations

import json
import re
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy import Boolean, Connection, DateTime, Dialect, Float, Integer, Select, String, func
from sqlalchemy.sql.base import Executable

from octavia_core.db.trees import Members, Trees

__all__ = ["Prepared", "Wire", "send"]

Processor = Callable[[Any], Any]

_WIDE = 6
"""Columns from which on MariaDB sends a row as one array of JSON: PyMySQL reads the description of each column anew with each
result, which takes it 15 µs, and a wide row has thirty."""


_JSON = (String, Integer, Boolean, DateTime, Float)
"""Types whose values MariaDB writes as JSON without loss; bytes it does not."""
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*", re.ASCII)
"""Words that mean the same between quotes in every database and mode."""


class Prepared:
    """A statement with the names of what changes between two uses of it.

    Args:
        statement: its bind parameters are what changes; an IN over literals is fixed.
        columns: for an INSERT without values: the columns that it is given, as parameters of the same names.
    """

    __slots__ = ("columns", "statement")

    def __init__(self, statement: Executable, columns: Sequence[str] | None = None) -> None:
        self.statement, self.columns = statement, columns


class Wire:
    """How prepared statements are sent to one database; compiles each of them once. Thread-safe.

    Attributes:
        sent: statements so far, for benchmarks; two threads may count as one now and then.
        trees: those of revisions that were stored or read lately.
        members: those that were read lately.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.trees, self.members = Trees(), Members()
        self._plans: dict[Prepared, _Plan] = {}
        self.sent = 0

    def rows(self, connection: Connection, prepared: Prepared, parameters: Mapping[str, Any]) -> list[Any]:
        """All rows, as named tuples that have `_mapping` too."""
        plan = self._plans.get(prepared) or self._plan(prepared)
        cursor = self._execute(connection, plan, parameters)
        try:
            found = cursor.fetchall()
            make = plan.make or plan.read(cursor.description, self._dialect)
        except self._dialect.loaded_dbapi.Error as error:
            _raise(connection, error, plan.text, cursor)
        finally:
            cursor.close()
        return [make(row) for row in found]

    def write(self, connection: Connection, prepared: Prepared, parameters: Mapping[str, Any]) -> int:
        """How many rows it matched."""
        plan = self._plans.get(prepared) or self._plan(prepared)
        cursor = self._execute(connection, plan, parameters)
        matched = int(cursor.rowcount)
        cursor.close()
        return matched

    def _execute(self, connection: Connection, plan: _Plan, parameters: Mapping[str, Any]) -> Any:
        self.sent += 1
        raw = connection.connection.dbapi_connection
        assert raw is not None
        cursor = raw.cursor()
        try:
            plan.execute(raw, cursor, parameters)
        except self._dialect.loaded_dbapi.Error as error:
            _raise(connection, error, plan.text, cursor)
        return cursor

    def _plan(self, prepared: Prepared) -> _Plan:
        plan = self._plans[prepared] = _Plan(prepared, self._dialect)
        return plan


def send(connection: Connection, text: str) -> None:
    """Send a statement without parameters and results, such as BEGIN; without what SQLAlchemy does around one."""
    raw = connection.connection.dbapi_connection
    assert raw is not None
    cursor = raw.cursor()
    try:
        cursor.execute(text)
    except connection.dialect.loaded_dbapi.Error as error:
        _raise(connection, error, text, cursor)
    finally:
        cursor.close()


def _raise(connection: Connection, error: BaseException, text: str, cursor: Any) -> NoReturn:
    # What SQLAlchemy does with a driver's error: is the connection lost, and its pool with it; and which class is it.
    # There is no public way to hand it one.
    connection._handle_dbapi_exception(error, text, {}, cursor, None)


class _Plan:
    """One prepared statement on one database."""

    __slots__ = ("_constants", "_driver", "_given", "_names", "_order", "_types", "make", "text")

    def __init__(self, prepared: Prepared, dialect: Dialect) -> None:
        columns = list(getattr(prepared.statement, "exported_columns", ()))
        self._types = [column.type for column in columns]
        self._names: list[str] | None = None
        statement: Any = prepared.statement
        wide = isinstance(statement, Select) and len(columns) >= _WIDE
        if wide and dialect.name in ("mysql", "mariadb") and all(isinstance(type_, _JSON) for type_ in self._types):
            self._names = [column.name for column in columns]
            array = func.json_array(*statement.inner_columns)
            statement = statement.with_only_columns(array, maintain_column_froms=True)
        compiled: Any = statement.compile(
            dialect=dialect, column_keys=None if prepared.columns is None else list(prepared.columns)
        )
        if getattr(compiled, "insert_prefetch", ()) or getattr(compiled, "update_prefetch", ()):
            raise RuntimeError("a prepared statement cannot compute values of columns")
        given = {name for name, bind in compiled.binds.items() if bind.required}
        state = compiled.construct_expanded_state(dict.fromkeys(given))
        self.text: str = state.statement
        processors: Mapping[str, Processor] = state.processors
        self._given = {name: processors.get(name) for name in given}
        self._constants = {
            name: processors[name](value) if name in processors else value
            for name, value in state.parameters.items()
            if name not in given
        }
        self._driver = dialect.driver
        if state.positiontup is None:
            self._settle_constants()
        self._order = None if state.positiontup is None else tuple(state.positiontup)
        self.make: Callable[[Any], Any] | None = None

    def _settle_constants(self) -> None:
        """Write what never changes into the text, where it means the same everywhere; planners see it, drivers need not."""
        for name, value in list(self._constants.items()):
            if type(value) is str and _PLAIN.fullmatch(value):
                literal = f"'{value}'"
            elif type(value) is int:
                literal = f"({value})" if value < 0 else str(value)
            else:
                continue
            self.text = self.text.replace(f"%({name})s", literal)
            del self._constants[name]

    def execute(self, raw: Any, cursor: Any, parameters: Mapping[str, Any]) -> None:
        """Give it to the driver, each in its quickest way."""
        bound = self.bound(parameters)
        if (
            self._driver == "pymysql"
        ):  # what its cursor does with arguments, but for the detours of those that need none
            escape = raw.escape
            given = {
                name: "NULL" if value is None else str(value) if type(value) is int else escape(value)
                for name, value in bound.items()
            }
            cursor.execute(self.text % given)
        elif self._driver == "psycopg" and raw.prepare_threshold is not None:
            cursor.execute(
                self.text, bound, prepare=True
            )  # it will be sent again: parse it once, from the first time on
        else:
            cursor.execute(self.text, bound)

    def bound(self, parameters: Mapping[str, Any]) -> Any:
        """What the driver is given."""
        values = dict(self._constants)
        for name, process in self._given.items():
            value = parameters[name]
            values[name] = value if process is None else process(value)
        return values if self._order is None else [values[name] for name in self._order]

    def read(self, description: Sequence[Sequence[Any]], dialect: Dialect) -> Callable[[Any], Any]:
        """How a row of the driver becomes ours, known from the first result on."""
        packed = self._names is not None
        named: Any = namedtuple  # noqa: PYI024 - the names come from the database
        row = named("row", self._names or [column[0] for column in description])
        row._mapping = property(row._asdict)
        codes = [None] * len(self._types) if packed else [column[1] for column in description]
        processors = [
            _moment
            if packed and isinstance(type_, DateTime)
            else type_.dialect_impl(dialect).result_processor(dialect, code)
            for type_, code in zip(self._types, codes, strict=True)
        ]
        several = [(place, process) for place, process in enumerate(processors) if process is not None]

        def processed(found: Sequence[Any]) -> Any:
            values = json.loads(found[0]) if packed else list(found)
            for place, process in several:
                values[place] = process(values[place])
            return row._make(values)

        self.make = processed if several or packed else row._make
        return self.make


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
