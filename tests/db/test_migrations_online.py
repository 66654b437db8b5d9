"""Migrations step by step, with rows in the tables, and while others work on the same database."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, inspect, text
from sqlalchemy.exc import OperationalError

from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.db import schema
from octavia_core.db.engine import make_engine
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables import OWN, UPSTREAM
from octavia_core.domain.operation import OperationState
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Topology
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import ConfigurationError
from octavia_core.settings import Database, Settings
from tests.db.values import operation


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(Database(connection=Secret(database_url)))
    yield made
    made.dispose()


def ours(engine: Engine) -> set[str]:
    return {name for name in inspect(engine).get_table_names() if name.startswith("oc_")} - {schema.VERSION_TABLE}


def settings(url: str) -> Settings:
    return Settings(database=Database(connection=Secret(url)))


def test_each_step_down_and_up_keeps_operations_and_load_balancers(engine: Engine, database_url: str) -> None:
    schema.upgrade(database_url)
    storage = SqlStorage.open(settings(database_url))
    operation = Acceptor(storage, Topology.SINGLE).create_load_balancer(NewLoadBalancer(name="web"), Asked())
    storage.close()
    every = ours(engine)
    for revision in reversed(schema.KNOWN[:-1]):
        schema.downgrade(database_url, revision)
        with pytest.raises(ConfigurationError, match=f"is at revision {revision}, .*; run: octavia-admin db upgrade"):
            schema.check(engine)
        assert ours(engine) <= every
    assert ours(engine) < every or len(schema.KNOWN) == 1
    schema.upgrade(database_url)
    assert ours(engine) == every == {table.name for table in OWN}
    storage = SqlStorage.open(settings(database_url))
    kept = storage.read(lambda tx: (tx.operation(operation.id), tx.tree(str(operation.load_balancer_id))))
    storage.close()
    assert kept[0] == operation
    assert kept[1] is not None
    assert kept[1].name == "web"


def test_what_operations_prove_of_a_rotation_is_taken_over(engine: Engine, database_url: str) -> None:
    schema.upgrade(database_url)
    storage = SqlStorage.open(settings(database_url))

    def told(amphora: str, mark: str, state: OperationState) -> None:
        arguments = {"tell": "heartbeat-key", "mark": mark}
        one = operation(flow="configure-agent", amphora_id=amphora, arguments=arguments)
        storage.transaction(lambda tx: tx.add_operation(one))
        if state.final:
            storage.transaction(lambda tx: tx.close_operation(one.id, state))

    has, other, failed, again = "has", "other", "failed", "again"
    for amphora in (has, other, failed, again):
        told(amphora, "one", OperationState.SUCCEEDED)
    told(other, "two", OperationState.SUCCEEDED)
    told(failed, "two", OperationState.FAILED)
    told(again, "two", OperationState.SUCCEEDED)
    told(again, "one", OperationState.QUEUED)
    storage.transaction(lambda tx: tx.add_operation(operation(flow="configure-agent", amphora_id=has)))
    storage.close()
    schema.downgrade(database_url, "oc0002")
    for _ in range(2):
        schema.upgrade(database_url)
    storage = SqlStorage.open(settings(database_url))
    found = storage.read(lambda tx: (tx.marked("heartbeat-key"), tx.rotations(), tx.marked("controllers")))
    storage.close()
    assert found == ({has: "one", other: "two"}, {"heartbeat-key": "one"}, {})


def test_others_read_and_write_upstreams_tables_meanwhile(engine: Engine, database_url: str) -> None:
    """As upstream's API does, which goes on while ours come and go."""
    schema.upgrade(database_url)
    stop, begun, written = threading.Event(), threading.Event(), []
    failures: list[BaseException] = []

    def api() -> None:
        other = make_engine(Database(connection=Secret(database_url)))
        try:
            while not stop.is_set():
                project = uuid.uuid4().hex
                try:
                    with other.begin() as connection:
                        connection.execute(text("INSERT INTO quotas (project_id) VALUES (:p)"), {"p": project})
                        assert connection.scalar(text("SELECT COUNT(*) FROM load_balancer")) == 0
                except OperationalError as busy:  # SQLite has one writer at a time, and says so after its patience
                    if "locked" not in str(busy):
                        raise
                    continue
                written.append(project)
                begun.set()
                stop.wait(0.005)  # SQLite queues nobody: who comes back at once would keep the other out
        except BaseException as error:  # shown by the test's own thread
            failures.append(error)
            begun.set()
        finally:
            other.dispose()

    thread = threading.Thread(target=api)
    thread.start()
    try:
        assert begun.wait(60)
        for _ in range(3):
            schema.downgrade(database_url)
            assert ours(engine) == set()
            schema.upgrade(database_url)
            assert ours(engine) == {table.name for table in OWN}
    finally:
        stop.set()
        thread.join(60)
    assert failures == []
    assert written
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM quotas")) == len(written)
    assert {table.name for table in UPSTREAM} <= set(inspect(engine).get_table_names())


def test_two_who_upgrade_at_once_do_it_once(engine: Engine, database_url: str, tmp_path: Path) -> None:
    both, failures = threading.Barrier(2), []

    def upgrade() -> None:
        try:
            both.wait(30)
            schema.prepare(Database(connection=Secret(database_url)))
        except BaseException as error:  # shown by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    schema.check(engine)


def test_who_waited_for_a_migrator_finds_what_it_did(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its COMMIT takes its time."""
    make, failures = schema.make_engine, list[BaseException]()
    about_to_commit = threading.Event()

    def late(*arguments: Any, **more: Any) -> Engine:
        made = make(*arguments, **more)

        def commit(_: object) -> None:
            about_to_commit.set()
            threading.Event().wait(0.5)

        event.listen(made, "commit", commit)
        return made

    def upgrade() -> None:
        try:
            schema.upgrade(database_url)
        except BaseException as error:  # shown by the test's own thread
            failures.append(error)

    monkeypatch.setattr(schema, "make_engine", late)
    first, second = threading.Thread(target=upgrade), threading.Thread(target=upgrade)
    first.start()
    assert about_to_commit.wait(60)
    second.start()
    for thread in (first, second):
        thread.join(60)
    assert failures == []
    schema.check(engine)


def test_who_looks_for_a_schema_that_another_one_makes_at_that_moment_finds_it(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = schema.inspect

    def after_it_is_made(on: Any) -> Any:
        monkeypatch.setattr(schema, "inspect", look)
        schema.upgrade(database_url)
        return look(on)

    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))  # a file is there by now
    monkeypatch.setattr(schema, "inspect", after_it_is_made)
    schema.check(engine)
