"""Workers that die, stand still, race or lose their database, on the real databases; the late one changes nothing."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, update
from sqlalchemy.engine import make_url

from octavia_core.controller.accept import Asked
from octavia_core.db.tables.own import oc_operation
from octavia_core.domain.operation import OperationState
from octavia_core.domain.wishes import NewMember
from tests.engine.copies import BY_NAME, dump, forget
from tests.engine.cutting import cutter
from tests.engine.outside import DATABASE, PATIENCE, Engine, prepared
from tests.engine.test_crash_matrix import check
from tests.engine.victims import Victims
from tests.support.databases import ready_on
from tests.support.servers import server


@pytest.fixture
def folder(ready_database_url: str, tmp_path: Path) -> Iterator[Path]:
    """An engine's folder on one of the databases, with a creation that nobody has begun."""
    state = tmp_path / "state"
    state.mkdir()
    (state / DATABASE).write_text(ready_database_url, encoding="utf-8")
    prepared(BY_NAME["create"], state)
    yield state
    forget(ready_database_url)


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    opened = Engine.open(folder)
    yield opened
    opened.close()


def database(folder: Path) -> dict[str, list[dict[str, object]]]:
    return dump((folder / DATABASE).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("point", "path"),
    [("effect", "standalone/boot"), ("before", "standalone/push"), ("before", "finish"), ("entry", "store-vip")],
)
def test_a_worker_that_stood_still_for_longer_than_its_lease_changes_nothing(
    folder: Path, engine: Engine, killer: Victims, point: str, path: str
) -> None:
    with killer.sleeper(folder, point, path) as late:
        engine.settle()
        check(engine, BY_NAME["create"])
        before = database(folder)
        assert late.wake() == 0
        assert database(folder) == before
    check(engine, BY_NAME["create"])


def test_a_late_call_reaches_the_amphora_and_the_newest_configuration_stays(
    folder: Path, engine: Engine, killer: Victims
) -> None:
    with killer.sleeper(folder, "call", "amphora.push") as late:
        engine.settle()
        pool = engine.load_balancer().pools[0]
        engine.acceptor.create_member(pool.id, NewMember("192.0.2.77", 80), Asked())
        engine.settle()
        before = database(folder)
        assert late.wake() == 0
        assert database(folder) == before
    (amphora,) = engine.storage.read(lambda tx: tx.amphorae())
    assert "192.0.2.77" in json.dumps(engine.world.amphora.configuration(amphora.id))
    assert [c.outcome for c in engine.cloud.calls("amphora.push")][-1] == "AmphoraRefused"


def test_of_two_recoverers_one_does_the_work(folder: Path, engine: Engine, killer: Victims) -> None:
    with killer.sleeper(folder, "effect", "reserve-vip"):
        both = threading.Barrier(2)
        failures: list[BaseException] = []

        def recover(name: str) -> None:
            mine = Engine.open(folder)
            try:
                both.wait(30)
                mine.settle(name)
            except BaseException as error:  # shown by the test's own thread
                failures.append(error)
            finally:
                mine.close()

        threads = [threading.Thread(target=recover, args=(f"recoverer-{n}",)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE + 30)
        assert failures == []
    check(engine, BY_NAME["create"])


def test_a_clock_that_steps_back_delays_and_breaks_nothing(folder: Path, engine: Engine, killer: Victims) -> None:
    """To the rows, a database's clock that steps back by an hour is rows that lie an hour ahead; it goes on by most of that."""
    connections = create_engine((folder / DATABASE).read_text(encoding="utf-8"))

    def ahead(seconds: int) -> None:
        times = ("lease_until", "created_at", "updated_at")
        with connections.begin() as connection:
            moved = {name: oc_operation.c[name] + seconds * 1_000_000 for name in times}
            assert connection.execute(update(oc_operation).values(moved)).rowcount == 1

    with killer.sleeper(folder, "effect", "standalone/boot"):
        ahead(3600)
        assert engine.run("too early") is None
        ahead(2 - 3600)
        engine.settle()
    connections.dispose()
    check(engine, BY_NAME["create"])


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.external) for kind in ("mariadb", "postgresql")])
@pytest.mark.parametrize("fate", ["arrives", "lost"])
def test_commits_whose_answers_are_lost_are_applied_once(kind: str, fate: str, tmp_path: Path, killer: Victims) -> None:
    """Every second COMMIT is cut off by a proxy; a victim dies half-way, and its successor has the same bad line."""
    real = server(kind)
    state = tmp_path / "state"
    state.mkdir()
    with ready_on(real) as url, tempfile.TemporaryDirectory(prefix="oc-") as short:
        (state / DATABASE).write_text(url, encoding="utf-8")
        prepared(BY_NAME["create"], state)
        listen = Path(short) / (".s.PGSQL.5432" if kind == "postgresql" else "s")
        through = make_url(url).set(query={"unix_socket": str(listen)} if kind == "mariadb" else {"host": short})
        with cutter(listen, real.socket_file, lambda n: fate if n % 2 else "pass") as bad:
            (state / DATABASE).write_text(through.render_as_string(hide_password=False), encoding="utf-8")
            assert killer.kill(state, "effect", "standalone/boot") == -signal.SIGKILL
            engine = Engine.open(state)
            try:
                engine.settle(patience=60.0)
                check(engine, BY_NAME["create"])
                entries = engine.storage.read(lambda tx: tx.journal(tx.operations()[0].id))
                assert len({entry.sequence for entry in entries}) == len(entries)
                events = [event.name for event in engine.storage.read(lambda tx: tx.events())]
                assert events.count("load_balancer.active") == 1
            finally:
                engine.close()
            assert bad.cuts > 5


def test_cancelling_undoes_what_was_done_and_ends_as_cancelled(folder: Path, engine: Engine, killer: Victims) -> None:
    with killer.sleeper(folder, "effect", "standalone/boot") as held:
        (operation,) = engine.open_operations()
        assert engine.storage.transaction(lambda tx: tx.cancel_operation(operation.id, "cancelled by a test"))
        assert held.wake() == 0  # it has lost the fence; then it undoes, as anybody would
    row = engine.storage.read(lambda tx: tx.operation(operation.id))
    assert row is not None
    assert (row.state, row.error) == (OperationState.CANCELLED, "cancelled by a test")
    assert engine.load_balancer().provisioning_status == "ERROR"
    assert engine.cloud.leftovers() == []
    assert not engine.storage.transaction(lambda tx: tx.cancel_operation(operation.id, "again"))
