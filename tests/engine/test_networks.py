"""Amphorae are plugged into what their members need before anything is pushed, and out of it after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from octavia_core.controller.accept import Asked
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.domain.wishes import NewMember
from octavia_core.testing.outside import FaultKind
from octavia_core.testing.simulator import SimulatedNetwork
from tests.engine.outside import WISH, Engine

ONE, TWO = "11111111-aaaa-4aaa-8aaa-111111111111", "22222222-aaaa-4aaa-8aaa-222222222222"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine.open(tmp_path)
    yield made
    made.close()


def created(engine: Engine, *subnets: str) -> None:
    """A load balancer with one member on each of these subnets."""
    (listener, *_) = WISH.listeners
    pool = listener.default_pool
    assert pool is not None
    members = [NewMember(f"192.0.2.{n}", 80, subnet_id=subnet) for n, subnet in enumerate(subnets, 1)]
    wish = attrs.evolve(WISH, listeners=[attrs.evolve(listener, default_pool=attrs.evolve(pool, members=members))])
    engine.acceptor.create_load_balancer(wish, Asked())
    engine.settle()


def amphora(engine: Engine) -> Amphora:
    (row,) = engine.storage.read(lambda tx: tx.amphorae())
    return row


def plugged(engine: Engine) -> set[str]:
    """The networks of members that the amphora has, by the network."""
    found = engine.world.network.plugged(amphora(engine))
    return {network.network_id for network in found if network.port_id != amphora(engine).vrrp_port_id}


def asked(engine: Engine, name: str) -> int:
    """How often the cloud was asked for that."""
    return sum(call.name == name for call in engine.cloud.calls())


def add(engine: Engine, subnet: str | None) -> None:
    lb = engine.load_balancer()
    engine.acceptor.create_member(lb.pools[0].id, NewMember("192.0.2.77", 80, subnet_id=subnet), Asked())
    engine.settle()


def last_error(engine: Engine) -> str:
    return str(engine.storage.read(lambda tx: tx.operations(limit=1))[0].error)


def test_a_creation_without_member_subnets_asks_nothing_about_networks(engine):
    created(engine)
    assert asked(engine, "network.plugged") == asked(engine, "network.plug_member_networks") == 0


def test_a_creation_plugs_what_its_members_are_on_and_tells_the_agent(engine):
    created(engine, ONE, TWO, ONE)
    assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
    assert plugged(engine) == {ONE, TWO}
    assert asked(engine, "amphora.plug_network") == 2
    at = amphora(engine).agent
    for network in engine.world.network.plugged(amphora(engine)):
        assert engine.world.amphora.interface(at, network.fixed_ips[0]["ip_address"]) is not None


def test_a_member_on_another_subnet_is_plugged_before_the_push_and_said_so(engine):
    created(engine, ONE)
    add(engine, TWO)
    assert plugged(engine) == {ONE, TWO}
    names = [call.name for call in engine.cloud.calls()]
    assert names.index("amphora.push") < len(names) - 1 - names[::-1].index("amphora.plug_network")
    assert names[::-1].index("amphora.push") < names[::-1].index("amphora.plug_network")
    said = [e for e in engine.storage.read(lambda tx: tx.events(limit=100)) if e.name == "amphora.plugged"]
    assert len(said) == 2
    assert any(TWO in event.text for event in said)


def test_a_subnet_that_nobody_needs_any_more_is_unplugged_after_the_push(engine):
    created(engine, ONE, TWO)
    member = next(m for m in engine.load_balancer().pools[0].members if m.subnet_id == TWO)
    engine.acceptor.delete(Kind.MEMBER, member.id, Asked())
    engine.settle()
    assert plugged(engine) == {ONE}
    names = [call.name for call in engine.cloud.calls()]
    assert names[::-1].index("network.plug_member_networks") < names[::-1].index("amphora.push")


def test_a_plug_that_was_lost_behind_our_back_is_made_again_with_the_next_change(engine):
    created(engine, ONE)
    network = engine.world.network
    assert isinstance(network, SimulatedNetwork)
    network.lose(amphora(engine), ONE)
    assert plugged(engine) == set()
    add(engine, None)
    assert plugged(engine) == {ONE}


def test_an_amphora_that_lost_its_vip_is_named_and_nothing_is_pushed(engine):
    created(engine, ONE)
    network = engine.world.network
    assert isinstance(network, SimulatedNetwork)
    network.lose(amphora(engine))
    before = asked(engine, "amphora.push")
    add(engine, None)
    assert f"amphora {amphora(engine).id} is not on the network of VIP" in last_error(engine)
    assert f"octavia-admin amphora failover {amphora(engine).id}" in last_error(engine)
    pushes = [call for call in engine.cloud.calls() if call.name == "amphora.push"]
    assert len(pushes) <= before + 1  # the last good configuration, put back: it was there, so nothing changes
    assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE


def test_a_subnet_that_cannot_be_plugged_refuses_the_change_before_the_push(engine):
    created(engine, ONE)
    engine.cloud.fail("network.plug_member_networks", kind=FaultKind.REFUSED, message="no such subnet")
    add(engine, TWO)
    assert "no such subnet" in last_error(engine)
    lb = engine.load_balancer()
    assert [m.provisioning_status for m in lb.pools[0].members if m.subnet_id == TWO] == [Provisioning.ERROR]
    assert lb.provisioning_status is Provisioning.ACTIVE
    assert plugged(engine) == {ONE}


def test_a_failover_plugs_the_new_amphora_into_everything(engine):
    created(engine, ONE, TWO)
    engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())
    engine.settle()
    assert plugged(engine) == {ONE, TWO}
    assert engine.leaked() == []


def test_a_failover_that_fails_leaves_no_port_of_the_new_amphora(engine):
    created(engine, ONE)
    engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())
    engine.cloud.fail("amphora.push", kind=FaultKind.REFUSED, message="no")
    engine.settle()
    assert engine.leaked() == []
