"""Requests that were lost, operations that nothing is left of, and the way out for those that cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from sqlalchemy import create_engine, update

from octavia_core.controller.accept import Asked
from octavia_core.controller.release import plan_release, release, retry
from octavia_core.controller.sweep import Sweep
from octavia_core.db.tables.balancer import load_balancer as lb_table
from octavia_core.db.tables.own import oc_operation
from octavia_core.domain.operation import OperationState
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.errors import NotFound, Refused
from octavia_core.policy.sweep import SweepMode
from tests.engine.copies import forget
from tests.engine.outside import DATABASE, WISH, Engine


@pytest.fixture
def engine(ready_database_url: str, tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / DATABASE).write_text(ready_database_url, encoding="utf-8")
    opened = Engine.open(tmp_path)
    yield opened
    opened.close()
    forget(ready_database_url)


def sweep(engine: Engine, mode: SweepMode = SweepMode.REPAIR, grace: float = 0.0, own: float = 0.0) -> Sweep:
    return Sweep(engine.storage, mode, every=60.0, grace=grace, own_grace=own)


def stored(engine: Engine, status: Provisioning, **more: object) -> LoadBalancer:
    """A row as upstream's API leaves it: no operation is about it."""
    from tests.db.values import balancer

    tree = attrs.evolve(balancer(), provisioning_status=Provisioning.PENDING_CREATE, **more)
    engine.storage.transaction(lambda tx: tx.insert(tree))
    set_status(engine, tree.id, status)
    return tree


def set_status(engine: Engine, lb_id: str, status: Provisioning, **more: object) -> None:
    engine_of = create_engine(engine.world.settings.database.connection.reveal().decode())
    with engine_of.begin() as connection:
        connection.execute(
            update(lb_table).where(lb_table.c.id == lb_id).values(provisioning_status=str(status), **more)
        )
    engine_of.dispose()


def status_of(engine: Engine, lb_id: str) -> Provisioning:
    tree = engine.storage.read(lambda tx: tx.tree(lb_id))
    assert tree is not None
    return tree.provisioning_status


def created(engine: Engine) -> str:
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    engine.settle()
    assert operation.load_balancer_id is not None
    return operation.load_balancer_id


def events(engine: Engine) -> list[str]:
    return [event.name for event in engine.storage.read(lambda tx: tx.events())]


def test_a_creation_whose_request_was_lost_is_built(engine: Engine) -> None:
    tree = stored(engine, Provisioning.PENDING_CREATE)
    assert sweep(engine).look() == 1
    engine.settle()
    assert status_of(engine, tree.id) is Provisioning.ACTIVE
    assert "operation.request_lost" in events(engine)
    assert sweep(engine).look() == 0


@pytest.mark.parametrize(
    ("status", "end"),
    [(Provisioning.PENDING_UPDATE, Provisioning.ACTIVE), (Provisioning.PENDING_DELETE, Provisioning.DELETED)],
)
def test_a_change_or_deletion_whose_request_was_lost_is_carried_out(
    engine: Engine, status: Provisioning, end: Provisioning
) -> None:
    lb_id = created(engine)
    set_status(engine, lb_id, status)
    assert sweep(engine).look() == 1
    engine.settle()
    assert status_of(engine, lb_id) is end
    assert engine.leaked() == []


def test_reporting_only_changes_nothing(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    tree = stored(engine, Provisioning.PENDING_CREATE)
    reporting = sweep(engine, SweepMode.REPORT)
    assert reporting.look() == 1
    assert reporting.look() == 1
    said = [record.message for record in caplog.records if record.name == "octavia_core.sweep"]
    assert [tree.id in message for message in said] == [True]  # said once
    assert engine.open_operations() == []
    assert events(engine) == []


@pytest.mark.parametrize(
    ("more", "grace", "own"),
    [({"provider": "ovn"}, 0.0, 0.0), ({"provider": None}, 0.0, 0.0), ({}, 300.0, 10.0)],
    ids=["another provider", "no provider", "too young"],
)
def test_what_is_not_ours_or_too_young_is_left_alone(engine: Engine, more: dict, grace: float, own: float) -> None:
    stored(engine, Provisioning.PENDING_CREATE, **more)
    assert sweep(engine, grace=grace, own=own).look() == 0


def test_where_we_accepted_it_the_grace_is_short(engine: Engine) -> None:
    lb_id = created(engine)
    set_status(engine, lb_id, Provisioning.PENDING_UPDATE)
    assert sweep(engine, grace=300.0, own=300.0).look() == 0
    assert sweep(engine, grace=300.0, own=0.0).look() == 1


def test_what_an_operation_is_about_is_never_touched(engine: Engine) -> None:
    engine.acceptor.create_load_balancer(WISH, Asked())
    assert sweep(engine).look() == 0
    ((operation, _),) = engine.storage.claim("holder", {"create": [1]}, lease=30.0, limit=1)
    assert sweep(engine).look() == 0
    assert engine.storage.read(lambda tx: tx.operation(operation.id)).fence == operation.fence


def vanish(engine: Engine, lb_id: str) -> None:
    def work(tx) -> None:
        tree = tx.tree(lb_id)
        for kind, node in tree.nodes():
            tx.delete(kind, node.id)
        tx.delete(Kind.LOAD_BALANCER, lb_id)

    engine.storage.transaction(work)


def test_an_operation_whose_load_balancer_vanished_is_closed(engine: Engine) -> None:
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    vanish(engine, operation.load_balancer_id)
    assert sweep(engine).look() == 1
    engine.settle()
    row = engine.storage.read(lambda tx: tx.operation(operation.id))
    assert (row.state, row.error) == (OperationState.CANCELLED, "its load balancer is gone")


def test_a_young_operation_may_wait_for_rows_that_are_not_committed_yet(engine: Engine) -> None:
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    vanish(engine, operation.load_balancer_id)
    assert sweep(engine, grace=300.0, own=300.0).look() == 0
    assert [row.id for row in engine.open_operations()] == [operation.id]


def test_a_held_operation_is_left_to_its_holder_even_when_its_subject_vanished(engine: Engine) -> None:
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    engine.storage.claim("holder", {"create": [1]}, lease=30.0, limit=1)
    vanish(engine, operation.load_balancer_id)
    assert sweep(engine).look() == 0


def unknown_version(engine: Engine, operation_id: str) -> None:
    engine_of = create_engine(engine.world.settings.database.connection.reveal().decode())
    with engine_of.begin() as connection:
        connection.execute(update(oc_operation).where(oc_operation.c.id == operation_id).values(flow_version=99))
    engine_of.dispose()


def test_release_rebuilds_what_no_worker_knows_how_to_carry_on(engine: Engine) -> None:
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    engine.cloud.fail("amphora.push", times=1)
    engine.run("first")  # a server was booted; the push is to be tried again
    unknown_version(engine, operation.id)
    engine.world.clock.sleep(0.05)
    assert engine.run("nobody knows it") is None
    plan = plan_release(engine.storage, operation.id)
    assert "ends as CANCELLED" in plan.words[0]
    assert "it is built from its row, by a new operation" in plan.words[-1]
    assert engine.storage.read(lambda tx: tx.operation(operation.id)).state is OperationState.WAITING
    done = release(engine.storage, operation.id, actor="ann")
    assert done.words == plan.words
    engine.settle()
    assert status_of(engine, operation.load_balancer_id) is Provisioning.ACTIVE
    assert engine.leaked() == []
    assert engine.cloud.made_twice() == []
    row = engine.storage.read(lambda tx: tx.operation(operation.id))
    assert (row.state, row.error) == (OperationState.CANCELLED, "released by ann")
    audit = [e for e in engine.storage.read(lambda tx: tx.events()) if e.name == "operation.released"]
    assert [e.data["actor"] for e in audit] == ["ann"]


def test_bad_releases_and_retries_change_nothing(engine: Engine) -> None:
    operation = engine.acceptor.create_load_balancer(WISH, Asked())
    with pytest.raises(Refused, match="QUEUED, not parked"):
        retry(engine.storage, operation.id, actor="ann")
    release(engine.storage, operation.id, actor="ann")
    before = events(engine)
    for act in (release, retry):
        with pytest.raises(Refused, match=r"is over \(CANCELLED\)"):
            act(engine.storage, operation.id, actor="ann")
        with pytest.raises(NotFound):
            act(engine.storage, "no-such-thing", actor="ann")
    assert events(engine) == before


def test_a_retry_does_not_wait_for_the_pause(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path, step_retry_first=3600.0, step_retry_longest=3600.0)
    try:
        operation = engine.acceptor.create_load_balancer(WISH, Asked())
        engine.cloud.fail("network.reserve_vip")
        engine.run("first")
        assert engine.run("not yet") is None
        retry(engine.storage, operation.id, actor="ann")
        engine.settle()
        assert status_of(engine, operation.load_balancer_id) is Provisioning.ACTIVE
    finally:
        engine.close()
