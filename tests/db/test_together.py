"""Threads that write to one SQLite file share commits; each is told its own outcome, after the commit."""

from __future__ import annotations

import functools
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event

from octavia_core.db import turn
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.db.turn import Turn
from octavia_core.domain.operation import Operation
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import NotFound
from octavia_core.ports.storage import Claim, FenceLost
from tests.db.conftest import settings_for
from tests.db.values import balancer

COMPANY = 8


@pytest.fixture
def path(tmp_path):
    return tmp_path / "octavia.db"


@pytest.fixture
def storage(path):
    settings = settings_for(f"sqlite:///{path}")
    prepare(settings)
    storage = SqlStorage.open(settings)
    yield storage
    storage.close()


class Crowd:
    """Holds the first work until all the others wait behind it, so that they make one group."""

    def __init__(self, storage):
        self.storage, self.commits = storage, 0
        event.listen(storage._engine, "commit", self._count)
        self.begun, self.go = threading.Event(), threading.Event()

    def _count(self, _):
        self.commits += 1

    def _first(self, tx):
        self.begun.set()
        assert self.go.wait(30)

    def together(self, works, beside=()):
        """What each of them ended with, as results or errors, in their order; `beside` are calls of their own."""

        def one(call):
            try:
                return call()
            except Exception as error:  # what each call raised is what the test looks at
                return error

        calls = [*(functools.partial(self.storage.transaction, work) for work in works), *beside]
        with ThreadPoolExecutor(len(calls) + 1) as threads:
            leader = threads.submit(self.storage.transaction, self._first)
            assert self.begun.wait(30)
            waiting = [threads.submit(one, call) for call in calls]
            together = self.storage._together
            while len(together._queue) < len(calls):
                threading.Event().wait(0.001)
            self.go.set()
            leader.result(30)
            return [each.result(30) for each in waiting]


def test_many_that_come_at_the_same_time_are_committed_at_once(storage):
    crowd = Crowd(storage)
    wishes = [balancer() for _ in range(COMPANY)]
    ended = crowd.together([lambda tx, wish=wish: tx.insert(wish) or wish.id for wish in wishes])
    assert ended == [wish.id for wish in wishes]
    assert crowd.commits == 1
    assert {each.id for each in storage.read(lambda tx: tx.load_balancers())} == set(ended)


def test_what_one_of_them_did_wrong_is_taken_back_and_told_to_it_alone(storage):
    def fails(tx):
        tx.insert(balancer(name="half"))
        tx.change(Kind.LOAD_BALANCER, "not there", {"name": "x"})

    crowd = Crowd(storage)
    works = [lambda tx, n=n: tx.insert(balancer(name=f"lb{n}")) for n in range(3)]
    ended = crowd.together([works[0], fails, works[1], works[2]])
    assert [type(each) for each in ended] == [type(None), NotFound, type(None), type(None)]
    assert {each.name for each in storage.read(lambda tx: tx.load_balancers())} == {"lb0", "lb1", "lb2"}


def test_each_of_them_shows_its_own_claim(storage):
    operation = storage.transaction(lambda tx: tx.add_operation(Operation(id="op", flow="create")))
    ((_, claim),) = storage.claim("here", {"create": [1]}, lease=10.0, limit=1)
    lost = Claim(operation_id=operation.id, holder="there", fence=claim.fence, lease=10.0)
    crowd = Crowd(storage)

    def shown(claim, name):
        return lambda: storage.transaction(lambda tx: tx.insert(balancer(name=name)), claim=claim)

    ended = crowd.together(
        [lambda tx: tx.insert(balancer(name="free"))], beside=[shown(lost, "lost"), shown(claim, "mine")]
    )
    assert [type(each) for each in ended] == [type(None), FenceLost, type(None)]
    assert {each.name for each in storage.read(lambda tx: tx.load_balancers())} == {"free", "mine"}


def test_a_transaction_within_another_is_refused_instead_of_waited_for(storage):
    with pytest.raises(RuntimeError, match="transactions do not nest"):
        storage.transaction(lambda _: storage.transaction(lambda tx: None))
    storage.transaction(lambda tx: tx.insert(balancer()))


def test_a_commit_that_fails_is_everybodys_and_all_of_them_try_again(storage):
    crowd = Crowd(storage)
    refused = []

    def refuse(connection):
        if not refused:
            refused.append(True)
            busy = sqlite3.OperationalError("database is locked")
            busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
            connection._handle_dbapi_exception(busy, "COMMIT", {}, None, None)

    event.listen(storage._engine, "commit", refuse)
    ended = crowd.together([lambda tx, n=n: tx.insert(balancer(name=f"lb{n}")) for n in range(3)])
    assert ended == [None] * 3
    assert {each.name for each in storage.read(lambda tx: tx.load_balancers())} == {"lb0", "lb1", "lb2"}
    assert refused


class Interrupted(BaseException):
    """What a signal raises in the main thread."""


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_who_is_interrupted_while_it_waits_holds_up_nobody(storage):
    begun, go = threading.Event(), threading.Event()

    def first(tx):
        begun.set()
        assert go.wait(30)

    interrupted = []

    def interrupt(signum, frame):
        if not interrupted:
            interrupted.append(signum)
            raise Interrupted

    def when_it_waits():
        while not storage._together._queue:
            time.sleep(0.001)
        while not interrupted:  # one that comes just before Python falls asleep is not seen before it wakes up
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            time.sleep(0.01)

    before = signal.signal(signal.SIGUSR1, interrupt)
    touched = []
    try:
        with ThreadPoolExecutor(3) as pool:
            holder = pool.submit(storage.transaction, first)
            assert begun.wait(30)
            pool.submit(when_it_waits)
            with pytest.raises(Interrupted):
                storage.transaction(touched.append)
            behind = pool.submit(storage.transaction, lambda tx: "carried out")
            go.set()
            holder.result(30)
            assert behind.result(30) == "carried out"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert storage.transaction(lambda tx: "and the next") == "and the next"
    assert touched == []


def test_who_has_just_written_lets_another_process_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(turn, "_PATIENCE", 30.0)  # nobody leaves the courtesy while this machine is busy
    path, order = tmp_path / "turn", []
    ours, theirs = Turn(path, courtesy=30.0), Turn(path)
    waits = threading.Event()

    def other():
        waits.set()
        with theirs:
            order.append("theirs")

    thread = threading.Thread(target=other)
    with ours:
        thread.start()
        assert waits.wait(30)
        while not ours._held(1):
            threading.Event().wait(0.001)
    with ours:
        order.append("ours")
    thread.join(30)
    assert order == ["theirs", "ours"]
    ours.close()
    theirs.close()


def test_without_a_place_for_its_lock_writing_goes_on(tmp_path):
    turn = Turn(tmp_path / "not there" / "turn")
    with turn:
        pass
    turn.close()


def test_a_turn_that_is_closed_while_it_is_used_holds_up_nobody(tmp_path: Path):
    ours, theirs = Turn(tmp_path / "turn"), Turn(tmp_path / "turn")
    with ours:
        ours.close()
    with theirs, ours:
        theirs.close()
    ours.close()


def test_a_holder_that_stands_still_is_waited_for_no_longer_than_a_moment(tmp_path: Path):
    still, other = Turn(tmp_path / "turn"), Turn(tmp_path / "turn")
    with still, other:
        pass  # the second did not get its turn, and went on all the same
    still.close()
    other.close()
