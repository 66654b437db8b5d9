"""What stands still and goes on later: a database server under daemons and commands, and one of the worker processes."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from octavia_core import NewLoadBalancer
from octavia_core.controller import duty
from octavia_core.controller.accept import Asked
from octavia_core.controller.explain import why
from octavia_core.controller.outbox import EVENTS, Outbox
from octavia_core.controller.waiter import WAITS
from octavia_core.db.tables.own import oc_meta
from octavia_core.domain.operation import Event, OperationState
from octavia_core.flows.catalogue import claimable
from tests.engine.outside import WISH, Engine
from tests.engine.test_killed_again import family
from tests.explain.stage import PATIENCE, Stage, until
from tests.support.databases import ready_on
from tests.support.servers import server
from tests.support.standstill import frozen, runs

ALWAYS = 1_000_000


@pytest.mark.external
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_database_that_stands_still_is_said_and_work_goes_on_when_it_does(kind: str, tmp_path: Path) -> None:
    with ready_on(server(kind, durable=True)) as url:
        stage = Stage(tmp_path, url)
        stage.make()
        stage.cloud.fail("compute.servers", times=ALWAYS)
        with contextlib.ExitStack() as open:
            client = open.enter_context(stage.client())  # is as patient as usual: it asks while the server answers
            operations = [client.create_load_balancer(NewLoadBalancer(name=f"web-{n}")) for n in range(3)]
            stage.write(database="connect_timeout = 2\nanswer_timeout = 2\nmax_retries = 2\nretry_interval = 0.05")
            worker = open.enter_context(stage.worker())
            until(lambda: all(o.state is OperationState.WAITING for o in operations), "all are under way")
            with frozen(kind):
                for words in (("why", "web-1"), ("operation", "list"), ("health", "show"), ("governor", "show")):
                    said = stage.admin(*words)
                    assert said.code == 1, words
                    assert "does not answer" in said.err.splitlines()[-1]
                    assert url.rpartition("/")[2].partition("?")[0] in said.err
                log = stage.folder / "worker.log"
                until(lambda: "cannot be read, trying again" in log.read_text(encoding="utf-8"), "it is noticed")
            stage.cloud.heal()
            for operation in operations:
                operation.wait(PATIENCE)
            assert worker.poll() is None
        assert stage.cloud.made_twice() == []
        assert [what for what, _ in stage.cloud.leftovers()].count("server") == 3
    gc.collect()  # PyMySQL leaves its socket open when it gives up: said here, where it is known


@contextmanager
def stopped(pid: int, folder: Path) -> Iterator[None]:
    """It stands still, but not in the middle of a transaction: nobody else could write to an SQLite file then."""
    deadline = time.monotonic() + PATIENCE
    while True:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: not runs(pid), "none of its threads runs")
        if all(map(writable, (folder / "octavia.db", folder / "simulator.db"))):
            break
        os.kill(pid, signal.SIGCONT)
        assert time.monotonic() < deadline, "it is never stopped between two transactions"
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def writable(file: Path) -> bool:
    """Whether nobody is in the middle of a transaction there."""
    with contextlib.closing(sqlite3.connect(file, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
    return True


@pytest.mark.parametrize("number", [0, 1])
def test_whichever_process_stands_still_the_other_looks_at_what_is_waited_for(number: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path, f"sqlite:///{tmp_path}/octavia.db")
    stage.make()
    stage.config.write_text(stage.config.read_text().replace("workers = 1", "workers = 2"))
    stage.cloud.fail("compute.servers", times=ALWAYS)
    with stage.client() as client, stage.worker() as worker:
        operation = client.create_load_balancer(NewLoadBalancer(name="web"))
        until(lambda: operation.state is OperationState.WAITING, "it waits for its server")
        pids = until(lambda: len(found := family(worker.pid)) == 2 and found, "both processes work")
        until(lambda: len(client.storage.read(lambda tx: tx.attendance()).workers) == 2, "both have said so")
        with stopped(pids[number], stage.folder):
            stage.cloud.heal()
            operation.wait(PATIENCE)
        again = client.create_load_balancer(NewLoadBalancer(name="again"))
        again.wait(PATIENCE)
    assert stage.cloud.made_twice() == []


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = Engine.open(tmp_path, boot_deadline=60.0)
    opened.cloud.boot_seconds = 3600.0
    opened.world.compute.poll_interval = 10.0
    yield opened
    opened.close()


def test_why_says_that_nobody_looks(engine: Engine) -> None:
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    while engine.run("parker") is not None:
        pass
    engine.storage.transaction(lambda tx: tx.attend("somebody", claimable(), seconds=60.0))

    def said() -> str:
        return why(engine.storage, engine.world.settings, operation.id, looks=10.0).next or ""

    assert "looks every 10 s" in said(), "nobody knows better"
    began = time.monotonic()
    assert engine.storage.turn(WAITS, 0.0)
    assert "looks every 10 s" in said()
    of = oc_meta.c
    engine.storage.write(
        lambda tx: tx.write(oc_meta.update().where(of.name == WAITS).values(number=of.number - 42_000_000))
    )
    silent = re.search(r"looks soon: nobody has for (\d+) s, and another process takes that over", said())
    assert silent is not None
    assert 42 <= int(silent[1]) <= 43 + time.monotonic() - began


def test_events_are_delivered_by_a_deputy_when_the_first_is_silent(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "SHARED", 600.0)  # whose turn it is has it for longer than this test lasts
    heard: dict[str, list[str]] = {"first": [], "deputy": []}

    def listener(name: str) -> Callable[..., None]:
        return lambda events: heard[name].extend(event.text for event in events)

    deputy = Outbox(engine.storage, [("plugin", listener("deputy"))], timeout=0.1, pause=0.05, deputy=True)
    first = Outbox(engine.storage, [("plugin", listener("first"))], timeout=0.1, pause=0.05, deputy=False)
    assert engine.storage.turn(EVENTS, 0.0), "somebody did it a moment ago"
    deputy.start()

    def tell(text: str) -> None:
        engine.storage.transaction(lambda tx: tx.emit(Event(name="test.event", text=text)))

    try:
        tell("one")
        until(lambda: heard["deputy"] == ["one"], "nobody else delivers, so the deputy does")
        first.start()
        tell("two")
        until(lambda: "two" in heard["first"] + heard["deputy"], "one of them delivers")
    finally:
        deputy.stop()
        first.stop()
    assert sorted(heard["first"] + heard["deputy"]) == ["one", "two"], "none is delivered twice while both run"
