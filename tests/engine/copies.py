"""Copies of prepared folders: files are copied, and the rows of a database on a server are put back as they were."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine as Connections
from sqlalchemy import Table, create_engine, select

from octavia_core.db.tables import metadata
from octavia_core.db.tables.seeds import own_rows, upstream_rows
from tests.engine.outside import DATABASE, SCENARIOS, prepared
from tests.support.servers import VARIABLE

__all__ = ["BY_NAME", "copy_of", "copy_on", "forget"]

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
Rows = dict[str, list[dict[str, Any]]]


@functools.cache
def template(name: str) -> Path:
    """A prepared folder of a scenario with an SQLite file, made once per process."""
    directory = Path(tempfile.mkdtemp(prefix="matrix-", dir=os.environ[VARIABLE]))
    prepared(BY_NAME[name], directory)
    return directory


def copy_of(name: str, to: Path) -> Path:
    """A folder at the scenario's start, with its SQLite file."""
    shutil.copytree(template(name), to)
    return to


@functools.cache
def template_on(name: str, url: str) -> tuple[Path, Rows]:
    """The same on a server: the folder, and the rows of its database."""
    directory = Path(tempfile.mkdtemp(prefix="matrix-", dir=os.environ[VARIABLE]))
    (directory / DATABASE).write_text(url, encoding="utf-8")
    clear(url)
    prepared(BY_NAME[name], directory)
    return directory, dump(url)


def copy_on(name: str, url: str, to: Path) -> Path:
    """A folder at the scenario's start; that database holds the rows it had then, and no others."""
    directory, rows = template_on(name, url)
    restore(url, rows)
    shutil.copytree(directory, to)
    return to


@functools.cache
def connections(url: str) -> Connections:
    return create_engine(url, pool_size=1)


def forget(url: str) -> None:
    """Give the connection back, before that database is dropped."""
    connections(url).dispose()


def clear(url: str) -> None:
    """Remove what operations left behind, where there are tables already."""
    with connections(url).connect() as connection:
        there = connection.dialect.has_table(connection, "oc_operation")
    if there:
        restore(url, {})


def dump(url: str) -> Rows:
    """The rows of our and upstream's tables, but for those that are there from the start."""
    with connections(url).connect() as connection:
        return {table.name: [dict(row._mapping) for row in connection.execute(select(table))] for table in changing()}


def restore(url: str, rows: Rows) -> None:
    """Make these the rows, in one transaction."""
    with connections(url).begin() as connection:
        for table in reversed(changing()):
            connection.execute(table.delete())
        for table in changing():
            if rows.get(table.name):
                connection.execute(table.insert(), rows[table.name])


@functools.cache
def changing() -> list[Table]:
    """Tables whose rows come from operations. (The counter of events is left to grow.)"""
    seeded = {table.name for table, _ in (*upstream_rows(), *own_rows())}
    return [table for table in metadata.sorted_tables if table.name not in seeded]
