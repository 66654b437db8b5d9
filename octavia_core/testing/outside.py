"""The simulated outside: a cloud that remembers what exists and every call that was made to it.

It lives in an SQLite file of its own, so it goes on existing when the worker that uses it is killed, and several processes
see the same one; that makes it the judge of "nothing twice, nothing leaked". Each call is one transaction: the cloud has
done it, or has not. Faults are told to it beforehand, by the name of the call.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import attrs

from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, PermanentError, SecretMissing, TransientError
from octavia_core.ports.clock import Clock, SystemClock

__all__ = ["Call", "Fault", "FaultKind", "SimulatedCloud", "Things"]

T = TypeVar("T")

_PATIENCE = 60.0
"""Seconds that a call waits for those of other processes."""
_LOOK = 0.0005
"""Seconds between two looks. SQLite's own pauses grow to a tenth of a second, and hold up every thread of this process."""
_TABLES = """
CREATE TABLE IF NOT EXISTS call (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, process INTEGER NOT NULL,
    name TEXT NOT NULL, subject TEXT NOT NULL, outcome TEXT NOT NULL, made TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS call_by_name ON call (name, subject);
CREATE TABLE IF NOT EXISTS thing (
    kind TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (kind, name));
CREATE INDEX IF NOT EXISTS thing_by_id ON thing (kind, id);
CREATE TABLE IF NOT EXISTS fault (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, skip INTEGER NOT NULL, times INTEGER NOT NULL,
    late INTEGER NOT NULL, message TEXT NOT NULL);
"""


class FaultKind(StrEnum):
    """What happens instead of an answer."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    KILL = "kill"
    """The process that made the call is killed, as by `kill -9`."""


@attrs.frozen(kw_only=True)
class Fault:
    """A fault to come.

    Attributes:
        call: name of the call, for example `compute.boot`.
        kind: what happens.
        skip: so many calls of that name go well first.
        times: so many then fail.
        late: the cloud does what was asked and only the answer is lost.
        message: in the error.
    """

    call: str
    kind: FaultKind = FaultKind.TRANSIENT
    skip: int = 0
    times: int = 1
    late: bool = False
    message: str = "the simulated cloud was told to fail"


@attrs.frozen(kw_only=True)
class Call:
    """A call that was made. `made` is (kind, name) of what it brought into being; `outcome` is `ok` or says the fault."""

    id: int
    at: float
    process: int
    name: str
    subject: str
    outcome: str
    made: tuple[tuple[str, str], ...]


class Things:
    """What exists, inside one transaction of the cloud. A kind is a word such as `server`; names are unique in a kind."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.made: list[tuple[str, str]] = []

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The content of a thing, or None."""
        row = self._connection.execute("SELECT content FROM thing WHERE kind=? AND name=?", (kind, name)).fetchone()
        return None if row is None else json.loads(row[0])

    def by_id(self, kind: str, id: str) -> tuple[str, dict[str, Any]] | None:
        """(name, content) of the thing with that id, or None."""
        row = self._connection.execute("SELECT name, content FROM thing WHERE kind=? AND id=?", (kind, id)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def every(self, kind: str, prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
        """(name, content) of all things of a kind whose names begin so, sorted by name."""
        rows = self._connection.execute(
            "SELECT name, content FROM thing WHERE kind=? AND substr(name, 1, ?)=? ORDER BY name",
            (kind, len(prefix), prefix),
        )
        return [(name, json.loads(content)) for name, content in rows]

    def put(self, kind: str, name: str, content: Mapping[str, Any], id: str = "") -> None:
        """Make a thing, or change it."""
        if self.get(kind, name) is None:
            self.made.append((kind, name))
        self._connection.execute(
            "INSERT INTO thing (kind, name, id, content) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (kind, name) DO UPDATE SET content=excluded.content",
            (kind, name, id or name, json.dumps(content)),
        )

    def remove(self, kind: str, name: str) -> None:
        """Remove a thing; absent is success."""
        self._connection.execute("DELETE FROM thing WHERE kind=? AND name=?", (kind, name))


class SimulatedCloud:
    """The outside, and the questions a test asks of it.

    Args:
        path: the file it lives in, made when missing; None keeps it in memory, for this process alone.
        clock: what its things age by. Processes that share a file give clocks that agree.
        boot_seconds: how long a server is BUILDING.
    """

    def __init__(
        self, path: str | Path | None = None, *, clock: Clock | None = None, boot_seconds: float = 0.0
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.boot_seconds = boot_seconds
        self.before: Callable[[str], object] | None = None
        """Called with the name of each call before it is made, by the process that makes it: where a test stops one."""
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            ":memory:" if path is None else path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        self._close = weakref.finalize(self, self._connection.close)
        self._close.atexit = False  # closing waits for a call under way, and the end of a process does not
        with self._lock:
            # what a killed process wrote is safe in the system's memory; only a dying machine would lose it
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=OFF")
            self._connection.executescript(_TABLES)
            self._connection.execute("PRAGMA busy_timeout=0")

    def close(self) -> None:
        """Let go of the file; happens by itself when nobody uses the cloud any more. Twice is harmless."""
        self._close()

    # -- for the drivers --------------------------------------------------------------------------------------------

    def call(self, name: str, subject: str, do: Callable[[Things], T]) -> T:
        """Make a call: write it down, do it (or not, when a fault says so), in one transaction.

        Args:
            name: such as `network.reserve_vip`.
            subject: the name or id that it is about.
            do: what the cloud does; an error it raises undoes it and is the outcome.
        """
        if self.before is not None:
            self.before(name)
        with self._transaction() as connection:
            fault = self._fault(connection, name)
            things = Things(connection)
            result: T | None = None
            error: Exception | None = None
            if fault is None or fault.late:
                connection.execute("SAVEPOINT doing")
                try:
                    result = do(things)
                except Exception as raised:  # it is the outcome of the call, and is raised again below
                    error = raised
                    connection.execute("ROLLBACK TO doing")
                    things.made.clear()
                connection.execute("RELEASE doing")
            outcome = fault.kind.value if fault else "ok" if error is None else type(error).__name__
            connection.execute(
                "INSERT INTO call (at, process, name, subject, outcome, made) VALUES (?, ?, ?, ?, ?, ?)",
                (self.clock.now(), os.getpid(), name, subject, outcome, json.dumps(things.made)),
            )
        if fault is not None:
            _strike(fault)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # `do` has run when there is neither fault nor error

    def look(self, see: Callable[[Things], T]) -> T:
        """Read, without writing a call down: for questions that a driver asks again and again."""
        with self._transaction() as connection:
            return see(Things(connection))

    # -- for tests: what is to come ---------------------------------------------------------------------------------

    def fail(self, call: str, **how: Any) -> Fault:
        """Tell it of a fault to come; the arguments are those of `Fault`."""
        fault = Fault(call=call, **how)
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO fault (name, kind, skip, times, late, message) VALUES (?, ?, ?, ?, ?, ?)",
                (fault.call, fault.kind.value, fault.skip, fault.times, fault.late, fault.message),
            )
        return fault

    def heal(self) -> None:
        """Forget all faults that have not struck yet."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM fault")

    # -- for tests: what was ----------------------------------------------------------------------------------------

    def calls(self, name: str | None = None, subject: str | None = None) -> Sequence[Call]:
        """The calls that were made, oldest first; `name` and `subject` choose."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT id, at, process, name, subject, outcome, made FROM call"
                " WHERE (?1 IS NULL OR name=?1) AND (?2 IS NULL OR subject=?2) ORDER BY id",
                (name, subject),
            ).fetchall()
        fields = ("id", "at", "process", "name", "subject", "outcome")
        return [
            Call(**dict(zip(fields, row[:-1], strict=True)), made=tuple((k, n) for k, n in json.loads(row[-1])))
            for row in rows
        ]

    def made_twice(self) -> list[tuple[str, str]]:
        """(kind, name) of everything that was brought into being more than once: what must never be."""
        counts = Counter(made for call in self.calls() for made in call.made)
        return sorted(thing for thing, count in counts.items() if count > 1)

    def leftovers(self) -> list[tuple[str, str]]:
        """(kind, name) of everything that exists in the cloud: what must be empty when all is deleted."""
        with self._transaction() as connection:
            return list(
                connection.execute(
                    "SELECT kind, name FROM thing WHERE kind NOT IN ('secret', 'counter', 'vip-holder') ORDER BY kind, name"
                )
            )

    # -- inside -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._begin()
            try:
                yield self._connection
            except BaseException:  # whatever ended it, nothing of it is kept
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _begin(self) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(_LOOK)

    @staticmethod
    def _fault(connection: sqlite3.Connection, name: str) -> Fault | None:
        """The fault that strikes this call, counted down; faults of one name strike one after the other."""
        row = connection.execute(
            "SELECT id, name, kind, skip, times, late, message FROM fault WHERE name=? ORDER BY id LIMIT 1", (name,)
        ).fetchone()
        if row is None:
            return None
        id, call, kind, skip, times, late, message = row
        if skip > 0:
            connection.execute("UPDATE fault SET skip=skip-1 WHERE id=?", (id,))
            return None
        if times > 1:
            connection.execute("UPDATE fault SET times=times-1 WHERE id=?", (id,))
        else:
            connection.execute("DELETE FROM fault WHERE id=?", (id,))
        return Fault(call=call, kind=FaultKind(kind), late=bool(late), message=message)


def _strike(fault: Fault) -> None:
    message = f"{fault.call}: {fault.message}"
    match fault.kind:
        case FaultKind.TRANSIENT:
            raise TransientError(message)
        case FaultKind.PERMANENT:
            raise PermanentError(message)
        case FaultKind.REFUSED:
            raise AmphoraRefused(message, status=400, details=fault.message)
        case FaultKind.UNREACHABLE:
            raise AmphoraUnreachable(message)
        case FaultKind.MISSING:
            raise SecretMissing(message)
        case FaultKind.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
