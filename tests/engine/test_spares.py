"""Spares: built, taken once, given up when they are silent, removed, and no more statements where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from octavia_core.controller.accept import Asked
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning, Role, Topology
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import NotFound, Refused
from octavia_core.flows.amphorae import Site
from octavia_core.flows.spares import wanted
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.testing.outside import FaultKind
from octavia_core.testing.simulator import SimulatedAmphorae, SimulatedCompute
from tests.engine.outside import DATABASE, WISH, Engine, create_spare, declared_dead

PAIR = attrs.evolve(WISH, topology=Topology.ACTIVE_STANDBY)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Nothing in it; pairs get no server group."""
    engine = Engine.open(tmp_path, apart=False)
    yield engine
    engine.close()


def spares(engine: Engine, count: int) -> list[str]:
    """Build so many; their ids, in the order in which they are taken."""
    for _ in range(count):
        create_spare(engine)
    engine.settle()
    found = [spare.id for spare in engine.storage.read(lambda tx: tx.spares())]
    assert len(found) == count
    return found


def create(engine: Engine, wish: NewLoadBalancer = WISH) -> list[Amphora]:
    """Create a load balancer; the amphorae that serve it."""
    engine.acceptor.create_load_balancer(wish, Asked())
    engine.settle()
    return serving(engine)


def serving(engine: Engine) -> list[Amphora]:
    rows = engine.storage.read(lambda tx: tx.amphorae(engine.load_balancer().id))
    return [row for row in rows if row.status is AmphoraStatus.ALLOCATED]


def row_of(engine: Engine, amphora_id: str) -> Amphora:
    row = engine.storage.read(lambda tx: tx.amphora(amphora_id))
    assert row is not None
    return row


def booted(engine: Engine) -> int:
    return len(engine.cloud.calls("compute.boot"))


def named(engine: Engine, name: str) -> list[str | None]:
    """The amphorae of the events of that name."""
    return [e.amphora_id for e in engine.storage.read(lambda tx: tx.events()) if e.name == name]


def well(engine: Engine) -> bool:
    assert engine.leaked() == []
    assert engine.unpaired() == []
    assert engine.cloud.made_twice() == []
    return engine.load_balancer().provisioning_status is Provisioning.ACTIVE


def test_a_spare_runs_and_belongs_to_nobody(engine: Engine) -> None:
    (spare,) = spares(engine, 1)
    row = row_of(engine, spare)
    assert (row.status, row.load_balancer_id, row.role) == (AmphoraStatus.READY, None, None)
    assert row.lb_network_ip is not None
    assert named(engine, "amphora.ready") == [spare]
    (server,) = engine.world.compute.list()
    assert server.name == f"amphora-{spare}"


def test_asking_twice_with_one_request_id_is_asking_once(engine: Engine) -> None:
    first = engine.acceptor.create_spare(Asked(request_id="one"))
    assert engine.acceptor.create_spare(Asked(request_id="one")).id == first.id
    engine.settle()
    assert len(engine.world.compute.list()) == 1


def test_a_spare_that_cannot_be_built_leaves_nothing(engine: Engine) -> None:
    engine.cloud.fail("compute.boot", kind=FaultKind.REFUSED, message="no quota")
    operation = engine.acceptor.create_spare(Asked())
    engine.settle()
    row = engine.storage.read(lambda tx: tx.operation(operation.id))
    assert row is not None
    assert (row.state, "no quota" in str(row.error)) == (OperationState.FAILED, True)
    assert row_of(engine, str(operation.amphora_id)).status is AmphoraStatus.DELETED
    assert list(engine.world.compute.list()) == []


def test_a_new_load_balancer_takes_the_oldest_spare(engine: Engine) -> None:
    first, second = spares(engine, 2)
    (amphora,) = create(engine)
    assert (amphora.id, amphora.role) == (first, Role.STANDALONE)
    assert booted(engine) == 2
    assert row_of(engine, second).status is AmphoraStatus.READY
    assert named(engine, "amphora.taken") == [first]
    assert well(engine)


def test_a_new_pair_takes_two_and_each_is_told_that_it_is_one_of_a_pair(engine: Engine) -> None:
    pool = spares(engine, 2)
    pair = create(engine, PAIR)
    assert {amphora.id for amphora in pair} == set(pool)
    assert {call.subject for call in engine.cloud.calls("amphora.update_agent")} == set(pool)
    assert booted(engine) == 2
    assert well(engine)


def test_a_new_pair_takes_one_and_builds_the_other(engine: Engine) -> None:
    (spare,) = spares(engine, 1)
    pair = create(engine, PAIR)
    assert spare in {amphora.id for amphora in pair}
    assert booted(engine) == 2
    assert well(engine)


def test_a_dead_one_is_replaced_by_a_spare_without_a_server_being_built(engine: Engine) -> None:
    (old,) = create(engine)
    (spare,) = spares(engine, 1)
    SimulatedCompute(engine.cloud).kill(f"amphora-{old.id}")
    declared_dead(engine, old)
    engine.settle()
    (new,) = serving(engine)
    assert new.id == spare
    assert booted(engine) == 2
    assert SimulatedAmphorae(engine.cloud).configuration(spare) is not None
    finished = [e.data for e in engine.storage.read(lambda tx: tx.events()) if e.name == "failover.finished"]
    assert [one["new"] for one in finished] == [[spare]]
    assert well(engine)


def test_half_of_a_pair_is_replaced_by_a_spare(engine: Engine) -> None:
    pair = create(engine, PAIR)
    (spare,) = spares(engine, 1)
    (lost,) = [amphora for amphora in pair if amphora.role is Role.MASTER]
    SimulatedCompute(engine.cloud).kill(f"amphora-{lost.id}")
    declared_dead(engine, lost)
    engine.settle()
    assert {a.id: a.role for a in serving(engine)}[spare] is Role.MASTER
    assert booted(engine) == 3
    assert well(engine)


def test_a_change_replaces_the_dead_by_a_spare(engine: Engine) -> None:
    (old,) = create(engine)
    (spare,) = spares(engine, 1)
    engine.acceptor.change_load_balancer(engine.load_balancer().id, {"description": "changed"}, Asked())
    SimulatedCompute(engine.cloud).kill(f"amphora-{old.id}")
    engine.storage.transaction(lambda tx: tx.declare_dead(old.id))
    engine.settle()
    assert [amphora.id for amphora in serving(engine)] == [spare]
    assert well(engine)


def test_a_pair_that_a_server_group_keeps_apart_takes_no_spare(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path)
    try:
        pool = spares(engine, 2)
        pair = create(engine, PAIR)
        assert not {amphora.id for amphora in pair} & set(pool)
        assert well(engine)
    finally:
        engine.close()


def test_who_asks_for_a_zone_takes_no_spare(engine: Engine) -> None:
    """Spares are built as settings say; nobody knows in which zone that is."""
    spares(engine, 1)
    site = Site(load_balancer_id="a", amphora_id="b", role=Role.STANDALONE, topology=Topology.SINGLE)
    looks = [site, attrs.evolve(site, zone="east"), attrs.evolve(site, flavor="large")]
    assert [engine.storage.read(lambda tx, of=of: wanted(tx, of)).look for of in looks] == [True, False, False]  # type: ignore[misc]


def test_a_spare_that_does_not_answer_is_removed_and_a_new_amphora_is_built(engine: Engine) -> None:
    (spare,) = spares(engine, 1)
    SimulatedCompute(engine.cloud).kill(f"amphora-{spare}")
    (amphora,) = create(engine)
    assert amphora.id != spare
    assert row_of(engine, spare).status is AmphoraStatus.DELETED
    assert named(engine, "amphora.given_up") == [spare]
    assert well(engine)


def test_who_is_too_slow_takes_the_next_one(engine: Engine) -> None:
    """Between the look and the taking, somebody else takes it."""
    first, second = spares(engine, 2)
    engine.acceptor.create_load_balancer(WISH, Asked())

    def take_it_first(point: str, path: str) -> None:
        if point == "before" and path.endswith("/place"):
            engine.storage.transaction(
                lambda tx: (
                    tx.settle_amphora(first, AmphoraEvent.DELETE)
                    if row_of(engine, first).status is AmphoraStatus.READY
                    else None
                )
            )

    engine.settle(probe=take_it_first)
    assert [amphora.id for amphora in serving(engine)] == [second]
    assert booted(engine) == 2


def test_the_last_one_is_taken_meanwhile_so_a_new_one_is_built(engine: Engine) -> None:
    (only,) = spares(engine, 1)
    engine.acceptor.create_load_balancer(WISH, Asked())

    def take_it_first(point: str, path: str) -> None:
        if point == "before" and path.endswith("/place") and row_of(engine, only).status is AmphoraStatus.READY:
            engine.storage.transaction(lambda tx: tx.settle_amphora(only, AmphoraEvent.DELETE))

    engine.settle(probe=take_it_first)
    (amphora,) = serving(engine)
    assert amphora.id != only
    assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE


def test_what_a_failed_creation_took_is_removed_and_never_a_spare_again(engine: Engine) -> None:
    (spare,) = spares(engine, 1)
    engine.cloud.fail("amphora.push", kind=FaultKind.REFUSED, message="no")
    assert create(engine) == []
    assert engine.load_balancer().provisioning_status is Provisioning.ERROR
    assert row_of(engine, spare).status is AmphoraStatus.DELETED
    assert list(engine.world.compute.list()) == []


def test_a_creation_that_is_cancelled_as_it_took_a_spare_leaves_nothing(engine: Engine) -> None:
    (spare,) = spares(engine, 1)
    operation = engine.acceptor.create_load_balancer(WISH, Asked())

    def cancel(point: str, path: str) -> None:
        if (point, path) == ("entry", "standalone/place"):
            engine.storage.transaction(lambda tx: tx.cancel_operation(operation.id, "changed my mind"))

    engine.settle(probe=cancel)
    row = engine.storage.read(lambda tx: tx.operation(operation.id))
    assert row is not None
    assert row.state is OperationState.CANCELLED
    assert row_of(engine, spare).status is AmphoraStatus.DELETED
    assert list(engine.world.compute.list()) == []


def test_a_creation_that_fails_before_it_needs_an_amphora_leaves_the_spare_alone(engine: Engine) -> None:
    (spare,) = spares(engine, 1)
    engine.cloud.fail("network.reserve_vip", kind=FaultKind.REFUSED, message="no address is left")
    create(engine)
    assert engine.load_balancer().provisioning_status is Provisioning.ERROR
    assert row_of(engine, spare).status is AmphoraStatus.READY


def test_a_spare_is_deleted_with_its_server_when_somebody_wants_that(engine: Engine) -> None:
    (spare,) = spares(engine, 1)
    engine.acceptor.delete_amphora(spare, Asked())
    assert row_of(engine, spare).status is AmphoraStatus.PENDING_DELETE
    engine.settle()
    assert row_of(engine, spare).status is AmphoraStatus.DELETED
    assert list(engine.world.compute.list()) == []
    with pytest.raises(NotFound):
        engine.acceptor.delete_amphora(spare, Asked())


def test_one_that_serves_is_not_deleted(engine: Engine) -> None:
    (amphora,) = create(engine)
    with pytest.raises(Refused, match="amphora failover"):
        engine.acceptor.delete_amphora(amphora.id, Asked())
    assert row_of(engine, amphora.id).status is AmphoraStatus.ALLOCATED


def test_one_that_is_being_built_is_not_deleted_under_its_builder(engine: Engine) -> None:
    operation: Operation = engine.acceptor.create_spare(Asked())
    engine.storage.transaction(
        lambda tx: tx.insert(Amphora(id=str(operation.amphora_id), status=AmphoraStatus.PENDING_CREATE))
    )
    with pytest.raises(Refused, match=operation.id):
        engine.acceptor.delete_amphora(str(operation.amphora_id), Asked())
    engine.settle()
    assert row_of(engine, str(operation.amphora_id)).status is AmphoraStatus.READY


def test_one_that_dies_as_it_becomes_ready_is_no_spare(engine: Engine) -> None:
    operation = engine.acceptor.create_spare(Asked())
    id = str(operation.amphora_id)

    def die(point: str, path: str) -> None:
        if (point, path) == ("before", "finish"):
            engine.storage.transaction(lambda tx: tx.declare_dead(id))

    engine.settle(probe=die)
    assert row_of(engine, id).status is AmphoraStatus.DELETED
    assert list(engine.world.compute.list()) == []


def test_without_spares_nobody_asks_for_them(engine: Engine) -> None:
    """A tree that was read says whether there is any, so a creation has no statement more."""
    engine.acceptor.create_load_balancer(WISH, Asked())
    wire = engine.storage.wire

    def sent(count: int) -> int:
        lb = engine.load_balancer().id

        def work(tx: object) -> int:
            tx.tree(lb)  # type: ignore[attr-defined]
            before = wire.sent
            assert len(tx.spares()) == count  # type: ignore[attr-defined]
            return wire.sent - before

        return engine.storage.read(work)

    assert sent(0) == 0
    engine.settle()
    spares(engine, 1)
    assert sent(1) == 1


def test_several_workers_never_take_the_same(ready_database_url: str, tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text(ready_database_url, encoding="utf-8")
    engine = Engine.open(tmp_path, apart=False)
    engine.lease = 600.0  # nobody dies, so nothing is done again by somebody else
    try:
        pool = spares(engine, 3)
        wanted = [engine.acceptor.create_load_balancer(WISH, Asked()).load_balancer_id for _ in range(5)]

        def work(holder: str) -> None:
            engine.settle(holder)

        with ThreadPoolExecutor(3) as workers:
            list(workers.map(work, ("one", "two", "three")))
        rows = engine.storage.read(lambda tx: tx.amphorae())
        assert sorted(str(row.load_balancer_id) for row in rows) == sorted(map(str, wanted))
        assert set(pool) < {row.id for row in rows}
        assert booted(engine) == 5
        taken = named(engine, "amphora.taken")
        assert sorted(map(str, taken)) == sorted(pool)
    finally:
        engine.close()
