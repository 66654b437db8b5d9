"""Accepting a wish is one transaction: whatever becomes of its COMMIT, there is a status with its operation, or neither."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from sqlalchemy import make_url

from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.controller.offer import Offer, Offers
from octavia_core.controller.worker import Worker
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Kind, Provisioning, Topology
from octavia_core.domain.wishes import NewMember
from octavia_core.errors import LoadBalancerBusy, TransientError
from octavia_core.flows.runner import Runner
from tests.engine.cutting import cutter
from tests.engine.outside import DATABASE, WISH, Engine
from tests.support.databases import ready_on
from tests.support.servers import server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Engine]:
    """With a load balancer that is ACTIVE; what its workers hold is theirs for as long as a test lasts."""
    engine = Engine.open(tmp_path, lease=600.0)
    engine.acceptor.create_load_balancer(WISH, Asked())
    engine.settle()
    yield engine
    engine.close()


def test_a_change_that_is_offered_a_thread_is_claimed_as_it_is_stored(served: Engine) -> None:
    pool, free = served.load_balancer().pools[0].id, threading.Semaphore(1)
    offers = Offers(free)
    first = served.acceptor.create_member(pool, NewMember("192.0.2.4", 80), Asked(offer=Offer("here", 60.0, offers)))
    assert (first.state, first.holder, first.fence, first.attempts) == (OperationState.RUNNING, "here", 1, 1)
    assert first.lease_until - first.created_at == 60_000_000
    assert served.open_operations() == [first]
    assert served.run("somebody else") is None
    assert not free.acquire(blocking=False)  # it is kept for what was stored

    served.inherit()  # its worker has died before it began
    served.settle()
    assert served.load_balancer().provisioning_status is Provisioning.ACTIVE
    second = served.acceptor.create_member(pool, NewMember("192.0.2.5", 80), Asked(offer=Offer("here", 60.0, offers)))
    assert (second.state, second.holder, second.fence) == (OperationState.QUEUED, None, 0)  # no thread is free
    served.settle()


def test_a_worker_carries_out_what_was_stored_by_its_offer_and_keeps_no_thread_for_anything_else(
    served: Engine,
) -> None:
    worker, pool = Worker(Runner(served.storage, served.world), threads=1), served.load_balancer().pools[0].id
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    worker.on_ended = lambda operation, ending: ended.put(operation.id)

    def ask(address: str, id: str) -> Operation | None:
        def accept(offer: Offer) -> Operation:
            asked = Asked(request_id=id, offer=offer)
            return served.acceptor.create_member(pool, NewMember(address, 80), asked)

        return worker.accepted(accept)

    first = ask("192.0.2.4", "one")
    again = ask("192.0.2.4", "one")  # the same request: nothing is to be carried out twice
    with pytest.raises(LoadBalancerBusy):
        ask("192.0.2.5", "two")
    assert first is not None
    assert again is not None
    assert again.id == first.id
    worker.start()
    try:
        assert ended.get(timeout=20) == first.id
        third = ask("192.0.2.6", "three")
        assert third is not None
        assert ended.get(timeout=20) == third.id
    finally:
        worker.stop(20)
    assert ended.empty()
    assert worker.accepted(lambda offer: None) is None
    fourth = ask("192.0.2.7", "four")
    assert fourth is not None
    assert (fourth.state, fourth.holder) == (OperationState.QUEUED, None), "a worker that has stopped takes nothing"
    served.settle()
    assert {member.address for member in served.load_balancer().pools[0].members} >= {"192.0.2.4", "192.0.2.6"}


@pytest.mark.parametrize("error", [TransientError("the database does not answer"), KeyboardInterrupt()])
def test_what_was_stored_though_nobody_heard_of_it_is_carried_out_at_once(served: Engine, error: BaseException) -> None:
    worker, pool = Worker(Runner(served.storage, served.world), threads=2), served.load_balancer().pools[0].id
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    worker.on_ended = lambda operation, ending: ended.put(operation.id)
    stored: list[str] = []

    def arrives(offer: Offer) -> Operation:
        stored.append(served.acceptor.create_member(pool, NewMember("192.0.2.4", 80), Asked(offer=offer)).id)
        raise error

    def is_lost(offer: Offer) -> Operation:
        assert offer.take("e8a4c1de-0000-4000-8000-000000000000")
        raise error

    for accept in (is_lost, arrives):
        with pytest.raises(type(error)):
            worker.accepted(accept)
    worker.start()
    try:
        assert [ended.get(timeout=20)] == stored
    finally:
        worker.stop(20)
    row = served.storage.read(lambda tx: tx.operation(stored[0]))
    assert row is not None
    assert (row.state, row.fence, row.attempts) == (OperationState.SUCCEEDED, 1, 1)


def test_what_is_being_stored_while_a_worker_stops_is_carried_out_before_it_has_stopped(served: Engine) -> None:
    worker, pool = Worker(Runner(served.storage, served.world), threads=1), served.load_balancer().pools[0].id
    stored, go_on = threading.Event(), threading.Event()
    found: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()

    def accept(offer: Offer) -> Operation:
        operation = served.acceptor.create_member(pool, NewMember("192.0.2.4", 80), Asked(offer=offer))
        stored.set()
        assert go_on.wait(20)
        return operation

    wish = threading.Thread(target=lambda: found.put(worker.accepted(accept)))
    wish.start()
    assert stored.wait(20)
    worker.start()
    assert not worker.stop(0.2)
    go_on.set()
    wish.join(20)
    operation = found.get(timeout=20)
    assert operation is not None
    assert worker.stop(20)
    ended = served.storage.read(lambda tx: tx.operation(operation.id))
    assert ended is not None
    assert ended.state is OperationState.SUCCEEDED


@pytest.mark.external
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
@pytest.mark.parametrize("fate", ["arrives", "lost"])
def test_a_wish_whose_commit_has_no_answer_is_stored_whole_or_not_at_all(kind: str, fate: str, tmp_path: Path) -> None:
    real = server(kind)
    with ready_on(real) as url, tempfile.TemporaryDirectory(prefix="oc-") as short:
        (tmp_path / DATABASE).write_text(url, encoding="utf-8")
        engine = Engine.open(tmp_path)
        engine.acceptor.create_load_balancer(WISH, Asked())
        engine.settle()
        pool = engine.load_balancer().pools[0].id
        listen = Path(short) / (".s.PGSQL.5432" if kind == "postgresql" else "s")
        through = make_url(url).set(query={"unix_socket": str(listen)} if kind == "mariadb" else {"host": short})
        ends = [0]  # the number of the COMMIT that is cut: reads have one, too

        with cutter(listen, real.socket_file, lambda n: fate if n == ends[0] else "pass") as line:
            connection = Secret(through.render_as_string(hide_password=False))
            database = attrs.evolve(engine.world.settings.database, connection=connection, max_retries=1)
            storage = SqlStorage.open(attrs.evolve(engine.world.settings, database=database))
            acceptor = Acceptor(storage, Topology.SINGLE)
            try:
                before = line.commits
                acceptor.create_member(pool, NewMember("192.0.2.4", 80), Asked())
                engine.settle()
                ends[0] = 2 * line.commits - before
                with pytest.raises(
                    TransientError, match="does not answer"
                ):  # nobody tries again: the outcome is unknown
                    acceptor.create_member(pool, NewMember("192.0.2.5", 80), Asked())
            finally:
                storage.close()
            assert line.cuts == 1
        tree, rows = engine.load_balancer(), engine.open_operations()
        members = {m.address: m.provisioning_status for m in tree.pools[0].members}
        if fate == "arrives":
            assert tree.provisioning_status is Provisioning.PENDING_UPDATE
            assert members.get("192.0.2.5") is Provisioning.PENDING_CREATE
            assert [(row.flow, row.subjects[0].kind) for row in rows] == [("configure", Kind.MEMBER)]
        else:
            assert tree.provisioning_status is Provisioning.ACTIVE
            assert "192.0.2.5" not in members
            assert rows == []
        engine.settle()
        assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
        engine.close()
