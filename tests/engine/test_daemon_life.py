"""The worker daemon through what happens to daemons: told to end, told to read its settings, its database away for long."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core import NewLoadBalancer
from octavia_core.domain.operation import OperationState
from octavia_core.errors import OperationFailed
from tests.engine.test_killed_again import family
from tests.explain.stage import PATIENCE, Stage, until
from tests.support.databases import ready_on
from tests.support.servers import killed, server

ALWAYS = 1_000_000


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, f"sqlite:///{tmp_path}/octavia.db")


def said(stage: Stage) -> str:
    return (stage.folder / "worker.log").read_text(encoding="utf-8")


@contextlib.contextmanager
def cloud_hangs(stage: Stage) -> Iterator[None]:
    """Every call to the simulated cloud takes as long as this block."""
    connection = sqlite3.connect(stage.folder / "simulator.db", isolation_level=None, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_sigterm_parks_what_waits_and_another_worker_goes_on(stage: Stage) -> None:
    stage.make()
    stage.cloud.fail("compute.servers", times=ALWAYS)
    with stage.client() as client:
        operation = client.create_load_balancer(NewLoadBalancer(name="web"))
        with stage.worker() as worker:
            until(lambda: operation.state is OperationState.WAITING, "it waits for its server")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PATIENCE) == 0
        assert operation.state is OperationState.WAITING
        assert client.storage.read(lambda tx: tx.attendance()).workers == {}, "it has said that it ends"
        stage.cloud.heal()
        with stage.worker():
            operation.wait(PATIENCE)
    assert stage.cloud.made_twice() == []


def test_what_does_not_end_within_the_grace_is_left_and_taken_over(stage: Stage) -> None:
    stage.make(engine="grace = 0.5")
    with stage.client() as client:
        _ = stage.cloud  # its file is there
        with cloud_hangs(stage):
            operation = client.create_load_balancer(NewLoadBalancer(name="web"))
            with stage.worker() as worker:
                until(lambda: operation.state is OperationState.RUNNING, "a call hangs")
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(PATIENCE) == 0
            assert operation.state is OperationState.RUNNING
        with stage.worker():
            operation.wait(PATIENCE)
        assert operation.row.attempts >= 2
    assert stage.cloud.made_twice() == []


def test_sighup_gives_new_processes_the_new_settings(stage: Stage) -> None:
    stage.make()
    stage.cloud.fail("amphora.info", times=ALWAYS)
    with stage.client() as client, stage.worker() as worker:
        first = client.create_load_balancer(NewLoadBalancer(name="first"))
        until(lambda: first.state is OperationState.WAITING, "it waits with the long deadline")
        before = until(lambda: family(worker.pid), "it has a child")
        stage.write(engine="boot_deadline = 1")
        worker.send_signal(signal.SIGHUP)
        until(lambda: (now := family(worker.pid)) and not set(now) & set(before), "other processes work now")
        second = client.create_load_balancer(NewLoadBalancer(name="second"))
        with pytest.raises(OperationFailed, match="did not come true within 1 s"):
            second.wait(PATIENCE)
        assert "settings are read anew" in said(stage)
        stage.config.write_text("[engine]\nlease = 'long'\n")
        worker.send_signal(signal.SIGHUP)
        until(lambda: "the workers go on with those they have" in said(stage), "what cannot be read changes nothing")
        assert worker.poll() is None


@pytest.mark.external
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_database_that_is_away_for_long_loses_nothing_and_needs_nobody(kind: str, tmp_path: Path) -> None:
    """Away for many times what a transaction is patient for (made short here); a child even dies meanwhile."""
    real = server(kind, durable=True)
    with ready_on(real) as url:
        stage = Stage(tmp_path, url)
        stage.make(database="max_retries = 2\nretry_interval = 0.05")
        stage.cloud.fail("compute.servers", times=ALWAYS)
        with stage.client() as client, stage.worker() as worker:
            operations = [client.create_load_balancer(NewLoadBalancer(name=f"web-{n}")) for n in range(3)]
            until(lambda: all(o.state is OperationState.WAITING for o in operations), "all are under way")
            with killed(kind):
                until(lambda: "cannot be read, trying again" in said(stage), "it is noticed")
                (child,) = family(worker.pid)
                os.kill(child, signal.SIGKILL)
                until(lambda: "it cannot begin yet" in said(stage), "who replaces it waits for the database")
                assert worker.poll() is None
            stage.cloud.heal()
            for operation in operations:
                operation.wait(PATIENCE)
            assert worker.poll() is None
            until(lambda: "this is over" in said(stage), "that is said, too")
        assert stage.cloud.made_twice() == []
        assert [kind for kind, _ in stage.cloud.leftovers()].count("server") == 3
    gc.collect()  # PyMySQL leaves its socket open when nobody listens: said here, where it is known
