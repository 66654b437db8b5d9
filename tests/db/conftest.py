"""A storage on each database; its tables are made once for all tests of a worker, and emptied after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octavia_core.db import schema
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables import metadata
from octavia_core.db.tables.seeds import own_rows, upstream_rows
from octavia_core.db.transaction import SqlTransaction
from octavia_core.domain.secret import Secret
from octavia_core.settings import Database, Settings
from tests.conftest import DATABASES
from tests.conftest import _database as database


def settings_for(url: str, **more: object) -> Settings:
    return Settings(database=Database(connection=Secret(url), **more))


@pytest.fixture(scope="session", params=DATABASES)
def ready_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for url in database(request.param, tmp_path_factory):
        schema.prepare(Database(connection=Secret(url)))
        yield url


@pytest.fixture(scope="session")
def opened(ready_url: str) -> Iterator[SqlStorage]:
    storage = SqlStorage.open(settings_for(ready_url))
    yield storage
    storage.close()


@pytest.fixture
def storage(opened: SqlStorage) -> Iterator[SqlStorage]:
    yield opened
    opened.write(empty)


def empty(tx: SqlTransaction) -> None:
    kept = {table.name for table, _ in (*upstream_rows(), *own_rows())}
    for table in reversed(metadata.sorted_tables):
        if table.name not in kept:
            tx.write(table.delete())
