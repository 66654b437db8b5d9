"""Statements that never change: built once, compiled once for each database, then sent with nothing but their values.

SQLAlchemy makes a statement anew for each execution: it looks its parts up in a cache, sets up a context and a result, and
that costs more than SQLite needs to carry it out. What the engine sends ten times for each operation goes this way
instead; everything else goes through `Connection.execute` as usual. Transactions, pooling and errors stay SQLAlchemy's.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from sqlalchemy import Connection, Dialect
from sqlalchemy.sql.base import Executable

__all__ = ["Prepared", "Wire"]

Processor = Callable[[Any], Any]


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
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
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
            _raise(connection, error, plan, cursor)
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
            cursor.execute(plan.text, plan.bound(parameters))
        except self._dialect.loaded_dbapi.Error as error:
            _raise(connection, error, plan, cursor)
        return cursor

    def _plan(self, prepared: Prepared) -> _Plan:
        plan = self._plans[prepared] = _Plan(prepared, self._dialect)
        return plan


def _raise(connection: Connection, error: BaseException, plan: _Plan, cursor: Any) -> NoReturn:
    # What SQLAlchemy does with a driver's error: is the connection lost, and its pool with it; and which class is it.
    # There is no public way to hand it one.
    connection._handle_dbapi_exception(error, plan.text, {}, cursor, None)


class _Plan:
    """One prepared statement on one database."""

    __slots__ = ("_constants", "_given", "_order", "_types", "make", "text")

    def __init__(self, prepared: Prepared, dialect: Dialect) -> None:
        compiled: Any = prepared.statement.compile(  # type: ignore[attr-defined]  # every executable clause has it
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
        self._order = None if state.positiontup is None else tuple(state.positiontup)
        self._types = [column.type for column in getattr(prepared.statement, "exported_columns", ())]
        self.make: Callable[[Any], Any] | None = None

    def bound(self, parameters: Mapping[str, Any]) -> Any:
        """What the driver is given."""
        values = dict(self._constants)
        for name, process in self._given.items():
            value = parameters[name]
            values[name] = value if process is None else process(value)
        return values if self._order is None else [values[name] for name in self._order]

    def read(self, description: Sequence[Sequence[Any]], dialect: Dialect) -> Callable[[Any], Any]:
        """How a row of the driver becomes ours, known from the first result on."""
        named: Any = namedtuple  # noqa: PYI024 - the names come from the database
        row = named("row", [column[0] for column in description])
        row._mapping = property(row._asdict)
        processors = [
            type_.dialect_impl(dialect).result_processor(dialect, column[1])
            for type_, column in zip(self._types, description, strict=True)
        ]
        several = [(place, process) for place, process in enumerate(processors) if process is not None]

        def processed(found: Sequence[Any]) -> Any:
            values = list(found)
            for place, process in several:
                values[place] = process(values[place])
            return row._make(values)

        self.make = processed if several else row._make
        return self.make
