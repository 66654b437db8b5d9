"""Database servers that do not answer: said in one sentence, in bounded time; what was under way is done once or not at all."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from sqlalchemy import make_url, text

from octavia_core.db import schema
from octavia_core.db.engine import make_engine, parse_url
from octavia_core.db.silence import connect_arguments
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.db.tables import metadata
from octavia_core.domain.secret import Secret
from octavia_core.errors import TransientError
from octavia_core.settings import Database
from tests.db.conftest import settings_for
from tests.db.values import balancer, member, pool
from tests.support.databases import ready_on
from tests.support.servers import server
from tests.support.standstill import frozen, swallowing

T = TypeVar("T")

SERVERS = [pytest.param(kind, marks=pytest.mark.external) for kind in ("mariadb", "postgresql")]
SHORT: dict[str, Any] = {"connect_timeout": 2.0, "answer_timeout": 1.0, "max_retries": 2, "retry_interval": 0.01}
PATIENCE = 60.0

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str) -> Iterator[str]:
    with ready_on(server(kind, durable=True)) as made:
        yield made
    gc.collect()  # PyMySQL leaves its socket open when it gives up: said here, where it is known


def said(act: Callable[[], object]) -> str:
    with pytest.raises(TransientError, match="does not answer") as caught:
        act()
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)
    return str(caught.value)


def in_the_end(act: Callable[[], T]) -> T:
    """What it gives as soon as the server answers in time, which a busy machine may not at once."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(TransientError):
            return act()
    return act()


def test_a_server_that_stands_still_is_said_in_one_sentence_and_serves_on_later(kind: str, url: str) -> None:
    storage = in_the_end(lambda: SqlStorage.open(settings_for(url, **SHORT)))
    try:
        before = in_the_end(storage.now)
        with frozen(kind):
            assert make_url(url).database in said(storage.now)
            said(lambda: SqlStorage.open(settings_for(url, **SHORT)))
            said(lambda: prepare(settings_for(url, **SHORT)))
        assert in_the_end(storage.now) > before
    finally:
        storage.close()


def test_what_was_under_way_when_it_stood_still_is_applied_once(kind: str, url: str) -> None:
    """The server stops between the statements of a transaction, and goes on when the second attempt has begun."""
    patient = SqlStorage.open(settings_for(url))
    tree = balancer(pools=(pool(member(1)),))
    patient.transaction(lambda tx: tx.insert(tree))
    storage = in_the_end(
        lambda: SqlStorage.open(settings_for(url, **SHORT | {"max_retries": 1000, "answer_timeout": 2.0}))
    )
    of = metadata.tables["member"]
    runs: Counter[str] = Counter()
    stopped = frozen(kind)

    def add(tx: Any) -> None:
        runs["add"] += 1
        tx.write(of.update().where(of.c.id == tree.pools[0].members[0].id).values(weight=of.c.weight + 1))
        if runs["add"] == 1:
            stopped.__enter__()
            threading.Timer(3.0, stopped.__exit__, (None, None, None)).start()

    try:
        try:
            storage.transaction(add)
        except TransientError:  # its time was over before the server went on: then nothing has happened
            patient.transaction(add)
        found = patient.read(lambda tx: tx.tree(tree.id))
        assert found is not None
        assert found.pools[0].members[0].weight == 2
    finally:
        storage.close()
        patient.close()


def test_a_statement_that_takes_its_time_is_cut_only_beyond_the_limit(kind: str, url: str) -> None:
    pause = "SELECT SLEEP(0.8)" if kind == "mariadb" else "SELECT pg_sleep(0.8)"

    def run(limit: float, *, patient: bool = False) -> None:
        engine = make_engine(Database(connection=Secret(url), answer_timeout=limit), patient=patient)
        try:
            with engine.connect() as connection:
                connection.execute(text(pause))
        finally:
            engine.dispose()

    run(30.0)
    run(0.0)
    run(0.3, patient=True)  # as migrations are
    with pytest.raises(Exception, match=r"timed out|said nothing for 0.3 s"):
        run(0.3)
    schema.downgrade(settings_for(url).database)
    schema.upgrade(settings_for(url).database)


@pytest.mark.parametrize("driver", ["mysql+pymysql", "postgresql+psycopg"])
def test_a_network_that_swallows_everything_is_said_in_one_sentence(driver: str) -> None:
    with swallowing() as port:
        settings = settings_for(f"{driver}://root:hush@127.0.0.1:{port}/octavia", **SHORT)
        said(lambda: SqlStorage.open(settings))
        said(lambda: prepare(settings))
    gc.collect()


def test_what_the_url_says_counts_instead_of_the_settings() -> None:
    maria = parse_url("mysql://h/d?read_timeout=7&connect_timeout=3")
    assert connect_arguments(maria, connect=5.0, answer=60.0) == {"write_timeout": 60.0}
    assert connect_arguments(parse_url("mysql://h/d"), connect=5.0, answer=0.0) == {"connect_timeout": 5.0}
    postgres = connect_arguments(parse_url("postgresql://h/d?keepalives_idle=5"), connect=0.5, answer=60.0)
    assert (postgres["connect_timeout"], postgres["tcp_user_timeout"]) == (2, 60_000)
    assert "keepalives_idle" not in postgres
