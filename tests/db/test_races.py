"""Many at once: threads, processes, deadlocks, lost connections, lost commits."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, event, func, make_url, select, text
from sqlalchemy.exc import OperationalError

from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables import metadata
from octavia_core.db.tables.own import oc_commit
from octavia_core.domain.operation import Event, OperationState
from octavia_core.errors import LoadBalancerBusy, TransientError
from octavia_core.ports.storage import FenceLost
from tests.db.conftest import settings_for
from tests.db.values import balancer, member, new_id, operation, pool

FLOWS = {"flow": [1]}
THREADS = 5


def together(work, number=THREADS):
    barrier = threading.Barrier(number)

    def run(index):
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(run, range(number)))


def test_threads_that_race_for_operations_get_each_exactly_once(storage):
    ops = [storage.transaction(lambda tx, op=op: tx.add_operation(op)) for op in (operation() for _ in range(12))]

    def take(index):
        mine = []
        while taken := storage.claim(f"w{index}", FLOWS, lease=60, limit=2):
            mine += [op.id for op, _ in taken]
        return mine

    won = Counter(id for mine in together(take) for id in mine)
    while missed := storage.claim("last", FLOWS, lease=60, limit=20):  # who lost every race of a look stops looking
        won.update(op.id for op, _ in missed)
    assert won == Counter(op.id for op in ops)


def test_threads_that_race_for_one_load_balancer_get_one_operation(storage):
    for _ in range(6):
        storage.transaction(lambda tx: tx.add_operation(operation("lb", internal=True)))
    assert sum(len(got) for got in together(lambda i: storage.claim(f"w{i}", FLOWS, lease=60, limit=3))) == 1


def test_threads_that_wish_for_one_load_balancer_get_it_once(storage):
    def wish(_):
        try:
            return storage.transaction(lambda tx: tx.add_operation(operation("lb"))).id
        except LoadBalancerBusy as busy:
            return busy

    found = together(wish)
    (winner,) = [each for each in found if isinstance(each, str)]
    assert {each.operation_id for each in found if not isinstance(each, str)} == {winner}


def test_threads_that_send_one_request_get_one_operation(storage):
    found = together(lambda _: storage.transaction(lambda tx: tx.add_operation(operation("lb", request_id="r"))).id)
    assert len(set(found)) == 1
    assert len(storage.read(lambda tx: tx.operations())) == 1


def test_a_takeover_ends_the_old_holder_whoever_comes_first(storage):
    storage.transaction(lambda tx: tx.add_operation(operation("lb")))
    ((op, old),) = storage.claim("old", FLOWS, lease=0, limit=1)

    def act(index):
        if index == 0:
            try:
                storage.transaction(lambda tx: tx.set_undoing(op.id, "old"), claim=old)
            except FenceLost:
                return "lost"
            return "acted"
        return len(storage.claim("new", FLOWS, lease=60, limit=1))

    acted, taken = together(act, 2)
    found = storage.read(lambda tx: tx.operation(op.id))
    assert (acted == "acted") == (found.error == "old")
    assert taken == (found.holder == "new")
    assert found.fence == (2 if taken else 1)


CLAIMER = """
import json, sys
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.secret import Secret
from octavia_core.settings import Database, Settings
storage = SqlStorage.open(Settings(database=Database(connection=Secret(sys.argv[1]))))
print("ready", flush=True)
sys.stdin.readline()
mine = []
for _ in range(200):
    taken = storage.claim(sys.argv[2], {"flow": [1]}, lease=60, limit=1)
    mine += [op.id for op, _ in taken]
    if not taken and storage.next_due() != 0:
        break
print(json.dumps(mine))
storage.close()
"""


def test_processes_that_race_get_each_operation_exactly_once(storage, ready_url):
    ops = [storage.transaction(lambda tx, op=op: tx.add_operation(op)) for op in (operation() for _ in range(20))]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, ready_url, f"p{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = Counter(id for racer in racers for id in json.loads(racer.communicate(timeout=60)[0]))
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert won == Counter(op.id for op in ops)


# -- what the database asks to be run again --------------------------------------------------------------------------


def is_sqlite(url):
    return url.startswith("sqlite")


def test_a_deadlock_is_run_again_and_both_succeed(storage, ready_url):
    """Two transactions lock two rows in opposite order; on SQLite, where writers take turns, there is no deadlock."""
    tree = balancer(pools=(pool(member(1), member(2)),))
    storage.transaction(lambda tx: tx.insert(tree))
    ids = [each.id for each in tree.pools[0].members]
    of = metadata.tables["member"]
    first_time = [threading.Event(), threading.Event()]
    runs = Counter()

    def work(index):
        def cross(tx):
            runs[index] += 1
            mine, other = ids[index], ids[1 - index]
            tx.write(of.update().where(of.c.id == mine).values(weight=of.c.weight + 1))
            first_time[index].set()
            if runs[index] == 1 and not is_sqlite(ready_url):
                assert first_time[1 - index].wait(30)
            tx.write(of.update().where(of.c.id == other).values(weight=of.c.weight + 1))

        storage.transaction(cross)

    together(work, 2)
    # the one that gave way may be quicker than the other, and meet it again
    assert runs.total() == 2 if is_sqlite(ready_url) else runs.total() >= 3
    found = storage.read(lambda tx: tx.tree(tree.id))
    assert {each.weight for each in found.pools[0].members} == {3}


class Cut:
    """Breaks the connection at COMMIT: before it is sent, or after it has arrived, as a network does."""

    def __init__(self, storage, *, arrived, times=1):
        self.storage, self.arrived, self.left = storage, arrived, times

    def __enter__(self):
        event.listen(self.storage._engine, "commit", self.cut)

    def __exit__(self, *_):
        event.remove(self.storage._engine, "commit", self.cut)

    def cut(self, connection):
        if self.left:
            self.left -= 1
            raw = connection.connection.dbapi_connection
            if self.arrived:
                raw.commit()
            kill(self.storage, raw)


def kill(storage, raw):
    """End that session from another one, as an operator or a restart would."""
    other = create_engine(storage._engine.url, isolation_level="AUTOCOMMIT")
    try:
        with other.connect() as connection:
            if storage._engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_terminate_backend({raw.info.backend_pid}, 10000)"))
            else:
                connection.execute(text(f"KILL {raw.thread_id()}"))
    finally:
        other.dispose()


@pytest.fixture
def served(storage, ready_url):
    if is_sqlite(ready_url):
        return None
    return storage


@pytest.mark.parametrize("arrived", [True, False], ids=["arrived", "lost"])
@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "plain"])
def test_a_commit_whose_answer_is_lost_is_applied_exactly_once(served, arrived, claimed):
    if served is None:
        return  # SQLite has no connection to lose
    tree = balancer(pools=(pool(member(1)),))
    served.transaction(lambda tx: tx.insert(tree))
    id = tree.pools[0].members[0].id
    of = metadata.tables["member"]
    op = served.transaction(lambda tx: tx.add_operation(operation(tree.id)))
    ((_, right),) = served.claim("w", FLOWS, lease=60, limit=1)
    runs = Counter()

    def add(tx):
        runs["add"] += 1
        tx.write(of.update().where(of.c.id == id).values(weight=of.c.weight + 1))
        if claimed:
            tx.close_operation(op.id, OperationState.SUCCEEDED)
        return f"result {runs['add']}"

    with Cut(served, arrived=arrived):
        result = served.write(add, claim=right if claimed else None)
    assert served.read(lambda tx: tx.tree(tree.id)).pools[0].members[0].weight == 2
    # what has arrived is not run again; what has not is run until it does, however often the database wants
    assert runs["add"] == 1 if arrived else runs["add"] >= 2
    assert result == f"result {runs['add']}"
    if claimed:
        assert served.read(lambda tx: tx.operation(op.id)).state is OperationState.SUCCEEDED


@pytest.mark.parametrize("arrived", [True, False], ids=["arrived", "lost"])
def test_an_operation_that_is_its_own_proof_is_stored_once_with_all_beside_it(served, arrived):
    if served is None:
        return
    asked = operation("lb")
    before = served.look(lambda tx: tx.value(select(func.count()).select_from(oc_commit)))

    def ask(tx):
        stored = tx.add_operation(asked, proof=True)
        tx.emit(Event(name="asked", text="asked", operation_id=stored.id))
        return stored.id

    with Cut(served, arrived=arrived):
        assert served.transaction(ask) == asked.id
    assert [e.name for e in served.read(lambda tx: tx.events(operation_id=asked.id))] == ["asked"]
    assert (
        served.look(lambda tx: tx.value(select(func.count()).select_from(oc_commit))) == before
    )  # no other trace of it


def test_a_claim_whose_commit_is_lost_is_still_the_claimers(served):
    if served is None:
        return
    op = served.transaction(lambda tx: tx.add_operation(operation("lb")))
    with Cut(served, arrived=True):
        ((found, right),) = served.claim("w", FLOWS, lease=60, limit=1)
    assert (found.id, right.fence, found.attempts) == (op.id, 1, 1)
    served.renew(right, 60)


def test_connections_that_died_in_the_pool_are_replaced(served):
    if served is None:
        return
    with served._engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        kill(served, raw)
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
    together(lambda _: served.now())
    assert served.now()


def test_tokens_of_commits_are_pruned(served, monkeypatch):
    if served is None:
        return
    from octavia_core.db import storage as module

    monkeypatch.setattr(module, "_PRUNE_EVERY", 1)
    monkeypatch.setattr(module, "_TOKENS_LIVE", -1_000_000)
    for _ in range(3):
        served.transaction(lambda tx: tx.insert(balancer()))
    assert served.look(lambda tx: tx.rows(select(oc_commit))) == []


def test_a_database_that_is_away_is_said_in_one_sentence(ready_url):
    url = make_url(ready_url)
    if is_sqlite(ready_url):
        return
    nobody = url.set(query={}, host="127.0.0.1", port=1, password="hush")  # port 1: nobody listens
    away = nobody.render_as_string(hide_password=False)
    with pytest.raises(TransientError, match="does not answer") as caught:
        SqlStorage.open(settings_for(away, max_retries=2, retry_interval=0.01))
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lock_that_is_never_given_up_is_said_in_one_sentence(storage, ready_url):
    if ready_url.startswith("postgresql"):
        return  # waits as long as it takes
    engine = create_engine(ready_url)
    impatient = SqlStorage.open(settings_for(ready_url, max_retries=2, retry_interval=0.01))
    seen = "PRAGMA busy_timeout = 10" if is_sqlite(ready_url) else "SET innodb_lock_wait_timeout = 1"
    event.listen(impatient._engine, "connect", lambda raw, _: raw.cursor().execute(seen))
    impatient._engine.dispose()
    op = storage.transaction(lambda tx: tx.add_operation(operation(new_id())))
    try:
        with engine.connect() as other:
            if is_sqlite(ready_url):
                other.connection.dbapi_connection.isolation_level = None
                other.exec_driver_sql("BEGIN IMMEDIATE")
            other.execute(text("UPDATE oc_operation SET attempts = 9"))
            with pytest.raises(TransientError, match="is busy"):
                impatient.transaction(lambda tx: tx.set_undoing(op.id, "x"))
            other.rollback()
        impatient.transaction(lambda tx: tx.set_undoing(op.id, "x"))
    finally:
        impatient.close()
        engine.dispose()
