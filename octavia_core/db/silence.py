"""Servers that say nothing: how long a driver waits for one, so that a stopped server or a dead network holds nobody for ever.

What is limited is silence, not work: a statement that returns rows for minutes is read to its end, and one that the server
needs longer for than the limit is cut, with its connection, and run again on another one. PyMySQL has limits of its own
for each read and write of its socket. psycopg has none once it is connected (what libpq offers ends with the kernel: TCP
alone knows it, and a machine that answers for a stopped server is alive to it), so its connection is given one here.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Generator, Mapping
from typing import Any

from sqlalchemy import URL, Engine, event

__all__ = ["connect_arguments", "limit_silence"]

_KEEPALIVE: Mapping[str, Any] = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Of libpq, in seconds and probes: what ends a connection that has no limit of its own when the other machine is gone."""


def connect_arguments(url: URL, *, connect: float, answer: float) -> dict[str, Any]:
    """What the driver of a database server is told about time; what the URL itself says counts instead.

    Args:
        url: of MariaDB/MySQL or PostgreSQL.
        connect: seconds until the server is reached.
        answer: seconds that it may say nothing; 0 for as long as it takes.
    """
    told: dict[str, Any] = {}
    if url.get_driver_name() == "pymysql":
        told["connect_timeout"] = max(connect, 0.001)
        if answer:
            told |= {"read_timeout": answer, "write_timeout": answer}
    elif url.get_driver_name() == "psycopg":
        told["connect_timeout"] = max(2, math.ceil(connect))  # whole seconds, two at least: libpq's own rule
        told |= _KEEPALIVE
        if answer:
            told["tcp_user_timeout"] = round(1000 * answer)
    return {name: value for name, value in told.items() if name not in url.query}


def limit_silence(engine: Engine, answer: float) -> None:
    """Have connections of psycopg end themselves when the server says nothing for so many seconds."""
    if engine.dialect.driver != "psycopg" or not answer:
        return

    @event.listens_for(engine, "do_connect")
    def connect(_: Any, __: Any, arguments: Any, keywords: Any) -> Any:
        return _impatient(answer).connect(*arguments, **keywords)


@functools.cache
def _impatient(limit: float) -> Any:
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        """A connection that is closed, with an error, by who waits for it in vain."""

        def wait(self, gen: Any, *arguments: Any, **keywords: Any) -> Any:
            return super().wait(_bounded(gen, limit, self), *arguments, **keywords)

    return Impatient


def _bounded(gen: Generator[Any, Any, Any], limit: float, connection: Any) -> Generator[Any, Any, Any]:
    """The same conversation with psycopg's way of waiting, which asks now and then although nothing has come."""
    import psycopg

    ready: Any = None
    heard = time.monotonic()
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as done:
            return done.value
        ready = yield wanted
        if ready:
            heard = time.monotonic()
        elif time.monotonic() - heard > limit:
            connection.close()
            raise psycopg.OperationalError(f"the server said nothing for {limit:g} s")
