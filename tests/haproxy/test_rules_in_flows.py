"""Whole flows for a VIP on a virtual function (SR-IOV): which rules stand on each agent after each of them.

Cloud and network are the simulator; each of its servers has an agent of these tests behind it, which the driver drives.
"""

from __future__ import annotations

import json
from contextlib import ExitStack

import attrs
import pytest
import trustme

from octavia_core.controller.accept import Asked
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning, Role, Topology
from octavia_haproxy.driver import HaproxyDriver
from tests.engine.outside import WISH, Engine
from tests.haproxy.agent import PATIENCE, Agent, controller_settings


class Behind:
    """The amphora driver; who was booted is an agent of these tests."""

    time_limit = 5.0

    def __init__(self, folder, stack):
        self._stack = stack
        self._authorities = {"agents": trustme.CA(), "controllers": trustme.CA()}
        self._driver = HaproxyDriver(controller_settings(Agent(**self._authorities), folder))
        self.agents = {}
        stack.callback(self._driver.close)

    def boot_files(self, identity):
        made = Agent(identity=identity.amphora_id, **self._authorities)
        self.agents[identity.amphora_id] = self._stack.enter_context(made)
        return self._driver.boot_files(identity)

    def plug_vip(self, at, plug):
        self.agents[at.amphora_id].interfaces[plug.vrrp_ip] = "eth1"
        self._driver.plug_vip(self._place(at), plug)

    def __getattr__(self, name):
        call = getattr(self._driver, name)
        return lambda at, *arguments, **options: call(self._place(at), *arguments, **options)

    def _place(self, at):
        there = self.agents[at.amphora_id].at
        return attrs.evolve(at, host=there.host, port=there.port)

    def rules(self, amphora):
        """What the agent of an amphora was told last to let in; None when it was told nothing."""
        sent = [asked for asked in self.agents[amphora.id].asked if asked.path.endswith("/rules")]
        if not sent:
            return None
        assert sent[-1].path == f"/1.0/interface/{amphora.vrrp_ip}/rules"
        return [(rule["protocol"], rule["port"], rule["cidr"]) for rule in json.loads(sent[-1].body)]


@pytest.fixture
def engine(tmp_path):
    with ExitStack() as stack:
        made = Engine.open(tmp_path)
        stack.callback(made.close)
        made.world = attrs.evolve(made.world, amphora=Behind(tmp_path / "driver", stack))
        yield made


def build(engine, topology):
    """As upstream's API leaves it: the port of the VIP was made as a virtual function, and the row says so."""
    engine.acceptor.create_load_balancer(attrs.evolve(WISH, topology=topology), Asked())
    made = engine.load_balancer()
    engine.storage.transaction(lambda tx: tx.set_vip(made.id, attrs.evolve(made.vip, vnic_type="direct")))
    return settled(engine)


def settled(engine):
    engine.settle(patience=PATIENCE)
    found = engine.load_balancer()
    assert found.provisioning_status is Provisioning.ACTIVE
    return found


def serving(engine, role):
    rows = engine.storage.read(lambda tx: tx.amphorae())
    return next(a for a in rows if a.status is AmphoraStatus.ALLOCATED and a.role is role)


def test_rules_follow_the_listeners_and_the_amphora(engine):
    lb = build(engine, Topology.SINGLE)
    outside = engine.world.amphora
    first = serving(engine, Role.STANDALONE)
    assert outside.rules(first) == [("TCP", 80, None)]

    engine.acceptor.change(Kind.LISTENER, lb.listeners[0].id, {"allowed_cidrs": ("192.0.2.0/24",)}, Asked())
    settled(engine)
    assert outside.rules(first) == [("TCP", 80, "192.0.2.0/24")]

    engine.acceptor.failover_load_balancer(lb.id, Asked())
    settled(engine)
    second = serving(engine, Role.STANDALONE)
    assert second.id != first.id
    assert outside.rules(second) == [("TCP", 80, "192.0.2.0/24")]
    told = [str(asked) for asked in outside.agents[second.id].asked]
    plugged = next(n for n, request in enumerate(told) if request.startswith("POST /1.0/plug/vip/"))
    assert plugged < told.index(f"PUT /1.0/interface/{second.vrrp_ip}/rules")


def test_the_two_of_a_pair_let_each_other_s_vrrp_in_and_a_new_one_s(engine):
    lb = build(engine, Topology.ACTIVE_STANDBY)
    outside = engine.world.amphora

    def expected(other):
        return [("TCP", 80, None), ("vrrp", 112, f"{other.vrrp_ip}/32")]

    master, backup = serving(engine, Role.MASTER), serving(engine, Role.BACKUP)
    assert (outside.rules(master), outside.rules(backup)) == (expected(backup), expected(master))

    engine.acceptor.failover_amphora(backup.id, Asked())
    engine.settle(patience=PATIENCE)
    new = serving(engine, Role.BACKUP)
    assert new.id != backup.id
    assert (outside.rules(master), outside.rules(new)) == (expected(new), expected(master))
    assert lb.id == engine.load_balancer().id
