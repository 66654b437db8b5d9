"""Databases with our tables in them: made once in each process of a run, and put back as they were after each use.

Migrations of a server take most of a second, and the tables of an SQLite file a tenth; that they come right is shown in
tests/db. Whoever changes tables takes an empty database instead (servers.py).
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, make_url

from octavia_core.db import schema
from octavia_core.db.engine import make_engine
from octavia_core.db.tables import metadata
from octavia_core.db.tables.seeds import own_rows, upstream_rows
from octavia_core.domain.secret import Secret
from octavia_core.settings import Database
from tests.support.servers import VARIABLE, Server, server

__all__ = ["copy_to", "ready", "ready_on"]

PATIENCE = 60.0


@contextlib.contextmanager
def ready(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a database that holds what it holds when it was just made; an SQLite file lies in `folder`."""
    if kind == "sqlite":
        yield copy_to(folder / "octavia.db")
    else:
        with ready_on(server(kind)) as url:
            yield url


def copy_to(file: Path) -> str:
    """Make an SQLite file with our tables, unless it is there; its URL."""
    if not file.exists():
        shutil.copyfile(_template(), file)
        file.chmod(0o600)
    return f"sqlite:///{file}"


@contextlib.contextmanager
def ready_on(at: Server) -> Iterator[str]:
    """The same on that server. Connections to it are ended afterwards."""
    free = _free(at)
    url = free.pop() if free else _made(at)
    yield url  # not put back when the block ends with an error: it may be anything
    _disconnected(at, str(make_url(url).database))
    _put_back(url)
    free.append(url)


@functools.cache
def _template() -> Path:
    file = Path(tempfile.mkdtemp(prefix="template-", dir=os.environ.get(VARIABLE)), "octavia.db")
    schema.prepare(Database(connection=Secret(f"sqlite:///{file}")))
    return file


@functools.cache
def _free(_: Server) -> list[str]:
    """Databases that nobody uses now. They go with their server."""
    return []


def _made(at: Server) -> str:
    url = at.url(at.create())
    schema.prepare(Database(connection=Secret(url)))
    return url


def _disconnected(at: Server, name: str) -> None:
    """End all connections and wait until they are gone: what they were about would be undone after we put it back."""
    deadline = time.monotonic() + PATIENCE
    while at.connections(name):
        assert time.monotonic() < deadline, f"connections to {name} do not end"
        at.disconnect(name)


@functools.cache
def _engine(url: str) -> Engine:
    return make_engine(Database(connection=Secret(url)))


def _put_back(url: str) -> None:
    engine = _engine(url)
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        for table, rows in (*upstream_rows(), *own_rows()):
            connection.execute(table.insert().values(rows))
    engine.dispose()
