"""A pair of amphorae: one always serves, never do both hold the VIP, and what dies meanwhile holds nothing up."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from octavia_core.controller.accept import Asked
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning, Role, Topology
from octavia_core.domain.wishes import NewLoadBalancer, NewMember
from octavia_core.errors import BadRequest
from octavia_core.ports.network import NetworkPort
from octavia_core.ports.storage import Transaction
from octavia_core.testing.outside import FaultKind
from octavia_core.testing.simulator import SimulatedAmphorae, SimulatedCompute, SimulatedNetwork
from tests.engine.copies import copy_of
from tests.engine.outside import Engine, declared_dead

SERVING = "pair-configure"
"""A scenario whose folder has a pair that serves; its own wish, a member more, is stored."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A pair that serves, and nothing asked of it."""
    engine = Engine.open(copy_of(SERVING, tmp_path / "state"))
    engine.settle()
    yield engine
    engine.close()


def pair(engine: Engine) -> dict[Role | None, Amphora]:
    """The amphorae that serve, by role."""
    lb = engine.load_balancer()
    rows = engine.storage.read(lambda tx: tx.amphorae(lb.id))
    return {row.role: row for row in rows if row.status is AmphoraStatus.ALLOCATED}


def simulated(engine: Engine) -> SimulatedAmphorae:
    return SimulatedAmphorae(engine.cloud)


def holder(engine: Engine) -> str | None:
    """The amphora that holds the VIP."""
    return simulated(engine).vip_holder(str(engine.load_balancer().vip.ip_address))


def other(engine: Engine, than: str) -> Amphora:
    (found,) = [amphora for amphora in pair(engine).values() if amphora.id != than]
    return found


def kill(engine: Engine, amphora_id: str) -> None:
    """It dies, and nobody has noticed yet."""
    SimulatedCompute(engine.cloud).kill(f"amphora-{amphora_id}")


def add_member(engine: Engine) -> str:
    lb = engine.load_balancer()
    return engine.acceptor.create_member(lb.pools[0].id, NewMember("192.0.2.9", 80), Asked()).id


def state_of(engine: Engine, operation_id: str) -> OperationState:
    row = engine.storage.read(lambda tx: tx.operation(operation_id))
    assert row is not None
    return row.state


def well(engine: Engine) -> bool:
    """Two that serve the same and share the VIP, and nothing left over."""
    assert engine.unpaired() == []
    assert engine.leaked() == []
    assert engine.cloud.made_twice() == []
    return engine.load_balancer().provisioning_status is Provisioning.ACTIVE and set(pair(engine)) == {
        Role.MASTER,
        Role.BACKUP,
    }


def test_a_failover_of_all_begins_with_the_one_that_nobody_would_miss(engine: Engine) -> None:
    held = holder(engine)
    assert held is not None
    spare = other(engine, held).id
    seen: list[str | None] = []
    engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())
    engine.settle(probe=lambda point, path: seen.append(holder(engine)))
    assert well(engine)
    assert not {held, spare} & {amphora.id for amphora in pair(engine).values()}
    silenced = [call.subject for call in engine.cloud.calls("amphora.stop_vrrp")]
    assert silenced == [spare, held]
    assert None not in seen


def test_one_serves_at_every_moment_while_the_other_is_replaced(engine: Engine) -> None:
    held = holder(engine)
    assert held is not None
    stays, role = other(engine, held).id, next(r for r, a in pair(engine).items() if a.id == held)
    seen: list[str | None] = []
    engine.acceptor.failover_amphora(held, Asked())
    engine.settle(probe=lambda point, path: seen.append(holder(engine)))
    assert well(engine)
    assert list(dict.fromkeys(seen)) == [held, stays]
    new = pair(engine)[role].id
    calls = [(call.name, call.subject) for call in engine.cloud.calls() if new in call.subject or held in call.subject]
    order = [
        ("amphora.push", new),
        ("amphora.stop_vrrp", held),
        ("network.unplug_vip", f"octavia-lb-vrrp-{held}"),
        ("amphora.start_vrrp", new),
    ]
    assert sorted(order, key=calls.index) == order, calls


def test_the_one_that_stays_knows_the_new_one_before_that_takes_part(engine: Engine) -> None:
    lost = pair(engine)[Role.BACKUP].id
    engine.acceptor.failover_amphora(lost, Asked())
    engine.settle()
    started = [call.subject for call in engine.cloud.calls("amphora.start_vrrp")]
    assert started[-2:] == [pair(engine)[Role.MASTER].id, pair(engine)[Role.BACKUP].id]
    assert well(engine)


def test_a_change_does_not_wait_for_one_that_is_silent_and_that_one_is_replaced_next(engine: Engine) -> None:
    silent = pair(engine)[Role.MASTER].id
    kill(engine, silent)
    wish = add_member(engine)
    before = len(engine.load_balancer().pools[0].members)
    while not state_of(engine, wish).final:
        engine.run("worker")
    assert state_of(engine, wish) is OperationState.SUCCEEDED
    assert silent in {amphora.id for amphora in pair(engine).values()}
    engine.settle()
    assert well(engine)
    assert silent not in {amphora.id for amphora in pair(engine).values()}
    assert len(engine.load_balancer().pools[0].members) == before
    events = engine.storage.read(lambda tx: tx.events())
    assert [e.data["amphora_id"] for e in events if e.name == "amphora.silent"] == [silent]


def test_a_change_that_nobody_hears_fails_and_replaces_nobody(engine: Engine) -> None:
    """It may be the controller that is cut off: silence alone is no reason to take both away."""
    there = {amphora.id for amphora in pair(engine).values()}
    for id in there:
        kill(engine, id)
    wish = add_member(engine)
    while not state_of(engine, wish).final:
        if engine.run("worker") is None:
            engine.world.clock.sleep(0.005)
    assert state_of(engine, wish) is OperationState.FAILED
    assert {amphora.id for amphora in pair(engine).values()} == there
    assert "no amphora of the pair answers" in str(
        next(o.error for o in engine.storage.read(lambda tx: tx.operations()) if o.id == wish)
    )


def test_while_the_one_that_stays_is_silent_the_new_one_does_not_take_part(engine: Engine) -> None:
    """It may hold the VIP and know nothing of the new one; it is replaced next, and then both share."""
    lost = pair(engine)[Role.BACKUP].id
    stays = pair(engine)[Role.MASTER].id
    operation = engine.acceptor.failover_amphora(lost, Asked())
    died: list[str] = []

    def die(point: str, path: str) -> None:
        if not died and point == "before" and path.endswith("/push") and "staying" in path:
            died.append(path)
            kill(engine, stays)

    while not state_of(engine, operation.id).final:
        if engine.run("worker", die) is None:
            engine.world.clock.sleep(0.005)
    assert died
    new = pair(engine)[Role.BACKUP].id
    assert simulated(engine).shares(new) is None
    engine.settle()
    assert well(engine)
    assert pair(engine)[Role.BACKUP].id == new
    assert pair(engine)[Role.MASTER].id != stays


def test_an_amphora_in_error_is_made_to_give_the_vip_up(engine: Engine) -> None:
    """One that is bad but not dead: whatever is replaced next, it takes no part any more."""
    from octavia_core.lifecycle.amphora import AmphoraEvent

    bad, good = pair(engine)[Role.MASTER], pair(engine)[Role.BACKUP]
    engine.storage.transaction(lambda tx: tx.settle_amphora(bad.id, AmphoraEvent.FAIL))
    engine.acceptor.failover_amphora(good.id, Asked())
    engine.settle()
    assert simulated(engine).shares(bad.id) is None
    assert simulated(engine).split_brains() == []
    lb = engine.load_balancer().id
    engine.acceptor.failover_load_balancer(lb, Asked())
    engine.settle()
    assert well(engine)


def test_a_replacement_that_fails_leaves_the_pair_as_it_was(engine: Engine) -> None:
    there, held = {amphora.id for amphora in pair(engine).values()}, holder(engine)
    engine.cloud.fail("amphora.push", kind=FaultKind.REFUSED)
    assert held is not None
    engine.acceptor.failover_amphora(held, Asked())
    engine.settle()
    assert engine.load_balancer().provisioning_status is Provisioning.ERROR
    assert {amphora.id for amphora in pair(engine).values()} == there
    assert holder(engine) == held
    assert len(engine.world.compute.list()) == 2
    engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())
    engine.settle()
    assert well(engine)


def test_a_second_turn_that_fails_keeps_what_the_first_one_made(engine: Engine) -> None:
    held = holder(engine)
    engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())

    def refuse(point: str, path: str) -> None:
        if (point, path) == ("before", "second/push"):
            engine.cloud.fail("amphora.push", kind=FaultKind.REFUSED)

    engine.settle(probe=refuse)
    assert engine.load_balancer().provisioning_status is Provisioning.ERROR
    rows = pair(engine)
    assert held in {amphora.id for amphora in rows.values()}
    assert len(rows) == 2
    assert len(engine.world.compute.list()) == 2
    assert holder(engine) == held
    assert engine.unpaired() == []


def test_one_that_dies_while_the_pair_is_made_is_replaced_right_after(tmp_path: Path) -> None:
    engine = Engine.open(copy_of("pair-create", tmp_path / "state"))
    declared: list[str] = []

    def declare(point: str, path: str) -> None:
        if not declared and (point, path) == ("before", "master/push"):
            master = pair(engine)[Role.MASTER]
            declared.append(master.id)
            engine.world.compute.destroy(f"amphora-{master.id}")
            assert engine.storage.transaction(lambda tx: tx.declare_dead(master.id))

    try:
        engine.settle(probe=declare)
        assert declared
        assert well(engine)
        assert declared[0] not in {amphora.id for amphora in pair(engine).values()}
    finally:
        engine.close()


def test_a_pair_without_listeners_is_complete_and_serves_when_it_gets_one(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path)
    try:
        engine.acceptor.create_load_balancer(NewLoadBalancer(topology=Topology.ACTIVE_STANDBY), Asked())
        engine.settle()
        assert well(engine)
        assert engine.cloud.calls("amphora.push") == []
    finally:
        engine.close()


def test_what_a_pair_agrees_on_is_made_once_and_is_written_nowhere_else(engine: Engine, tmp_path: Path) -> None:
    lb = engine.load_balancer()
    group = engine.storage.read(lambda tx: tx.vrrp_group(lb.id))
    assert group is not None
    assert (group.name, group.auth_type, group.advert_int) == (lb.id.replace("-", ""), "PASS", 1)
    secret = group.auth_pass.reveal().decode()
    assert len(secret) == 7
    engine.acceptor.failover_load_balancer(lb.id, Asked())
    engine.settle()
    assert engine.storage.read(lambda tx: tx.vrrp_group(lb.id)) == group
    for file in ("octavia.db", "simulator.db"):
        with sqlite3.connect(next(tmp_path.rglob(file))) as database:
            whole = re.compile(rf"(?<![0-9a-f]){secret}(?![0-9a-f])")  # not by chance a part of something longer
            dump = [line for line in database.iterdump() if whole.search(line)]
            database.rollback()
        assert all(line.startswith('INSERT INTO "vrrp_group"') for line in dump)
    assert secret not in repr(group)


def test_a_single_one_is_asked_nothing_of_all_this(tmp_path: Path) -> None:
    engine = Engine.open(copy_of("failover", tmp_path / "state"))
    try:
        engine.settle()
        calls = {call.name for call in engine.cloud.calls()}
        assert not calls & {"amphora.interface", "amphora.start_vrrp", "amphora.stop_vrrp"}
        assert engine.storage.read(lambda tx: tx.vrrp_group(engine.load_balancer().id)) is None
    finally:
        engine.close()


class Loopback(SimulatedNetwork):
    """A network on which no pair can be."""

    def objection(self, topology: Topology) -> str | None:
        return "no pair here; network namespaces are needed" if topology is Topology.ACTIVE_STANDBY else None


def test_a_topology_that_the_network_cannot_carry_is_refused_by_who_accepts(engine: Engine) -> None:
    network: NetworkPort = Loopback(engine.cloud)
    acceptor = attrs.evolve(engine.acceptor, objection=network.objection)
    before = len(engine.storage.read(lambda tx: tx.load_balancers()))
    with pytest.raises(BadRequest, match="network namespaces are needed"):
        acceptor.create_load_balancer(NewLoadBalancer(topology=Topology.ACTIVE_STANDBY), Asked())
    with pytest.raises(BadRequest, match="network namespaces are needed"):
        attrs.evolve(acceptor, topology=Topology.ACTIVE_STANDBY).create_load_balancer(NewLoadBalancer(), Asked())
    assert len(engine.storage.read(lambda tx: tx.load_balancers())) == before


def test_one_that_an_api_has_accepted_all_the_same_ends_in_error_with_the_reason(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path)
    engine.world = attrs.evolve(engine.world, network=Loopback(engine.cloud))
    try:
        operation = engine.acceptor.create_load_balancer(NewLoadBalancer(topology=Topology.ACTIVE_STANDBY), Asked())
        engine.settle()
        assert engine.load_balancer().provisioning_status is Provisioning.ERROR
        row = engine.storage.read(lambda tx: tx.operation(operation.id))
        assert row is not None
        assert row.error == "no pair here; network namespaces are needed"
        assert engine.world.compute.list() == []
    finally:
        engine.close()


def test_a_pair_that_never_worked_is_built_by_a_failover(tmp_path: Path) -> None:
    engine = Engine.open(copy_of("pair-create-refused", tmp_path / "state"))
    try:
        engine.settle()
        assert engine.load_balancer().provisioning_status is Provisioning.ERROR
        assert engine.world.compute.list() == []
        engine.cloud.heal()  # of the two that are refused at the same time, one may have come too late to ask
        engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())
        engine.settle()
        assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
        assert (engine.unpaired(), engine.leaked()) == ([], [])
    finally:
        engine.close()


@pytest.mark.parametrize("missing", [Role.MASTER, Role.BACKUP])
def test_one_that_is_missing_is_built_and_the_other_replaced(engine: Engine, missing: Role) -> None:
    from octavia_core.lifecycle.amphora import AmphoraEvent

    lost = pair(engine)[missing]
    kept = other(engine, lost.id)

    def lose(tx: Transaction) -> None:
        tx.settle_amphora(lost.id, AmphoraEvent.DELETE)
        tx.settle_amphora(lost.id, AmphoraEvent.DELETED)

    engine.world.compute.destroy(f"amphora-{lost.id}")
    engine.world.network.unplug_vip(engine.load_balancer(), lost)
    engine.storage.transaction(lose)
    seen: list[str | None] = []
    engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())
    engine.settle(probe=lambda point, path: seen.append(holder(engine)))
    assert well(engine)
    assert kept.id not in {amphora.id for amphora in pair(engine).values()}
    assert None not in seen


def test_a_creation_whose_request_was_lost_is_carried_out_again(tmp_path: Path) -> None:
    """Rows of a pair, one amphora of which was half made, and nobody at work: what the sweep repairs."""
    engine = Engine.open(copy_of("pair-create", tmp_path / "state"))
    try:
        while engine.run("worker", _die_at_boot) is not None:
            pass
    except _Died:
        pass
    try:
        (operation,) = engine.open_operations()
        left = engine.storage.read(lambda tx: tx.amphorae(engine.load_balancer().id))
        assert len(left) == 2
        engine.storage.transaction(lambda tx: tx.abandon_operation(operation.id, "lost"))
        again = attrs.evolve(operation, id=str(uuid.uuid4()), arguments={"again": True}, request_id=None)
        engine.storage.transaction(lambda tx: tx.add_operation(again))
        engine.settle()
        assert well(engine)
        assert not {amphora.id for amphora in left} & {amphora.id for amphora in pair(engine).values()}
    finally:
        engine.close()


class _Died(Exception):
    """The worker is gone."""


def _die_at_boot(point: str, path: str) -> None:
    if (point, path) == ("effect", "master/boot"):
        raise _Died


def test_one_that_was_declared_dead_goes_at_once_and_the_other_has_the_vip_while_the_new_one_is_built(
    engine: Engine,
) -> None:
    """It may be half dead, and hold the VIP all the same."""
    held = holder(engine)
    assert held is not None
    declared_dead(engine, pair_by_id(engine, held))
    seen: dict[str, str | None] = {}
    engine.settle(probe=lambda point, path: seen.setdefault(f"{point} {path.rpartition('/')[2]}", holder(engine)))
    assert well(engine)
    assert seen["before boot"] == held
    assert seen["before server-active"] == other_than(engine, held, seen)
    assert engine.cloud.calls("amphora.stop_vrrp") == []


def pair_by_id(engine: Engine, amphora_id: str) -> Amphora:
    return next(amphora for amphora in pair(engine).values() if amphora.id == amphora_id)


def other_than(engine: Engine, amphora_id: str, seen: dict[str, str | None]) -> str:
    """The one that stayed."""
    (found,) = {id for id in seen.values() if id is not None} - {amphora_id}
    assert found in {amphora.id for amphora in pair(engine).values()}
    return found
