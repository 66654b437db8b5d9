"""A controller's engine on a simulated cloud in one folder: what crash tests prepare, copy, kill and recover."""

from __future__ import annotations

import functools
import os
import re
import signal
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.controller.waiter import Waiter
from octavia_core.controller.wiring import build_world
from octavia_core.db.prepared import Wire
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import AdditionalVip, LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, ListenerProtocol, Provisioning, Topology
from octavia_core.domain.wishes import NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.flows.catalogue import claimable
from octavia_core.flows.run import Probe
from octavia_core.flows.runner import Ending, Runner
from octavia_core.flows.world import World
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.storage import Transaction
from octavia_core.testing.outside import FaultKind, SimulatedCloud
from octavia_core.testing.plugin import Simulator
from octavia_core.testing.simulator import SimulatedAmphorae, SimulatedCompute
from tests.support.simulated import on_simulator

__all__ = ["DATABASE", "SCENARIOS", "Engine", "Scenario", "declared_dead", "die_at", "points_of", "prepared", "stop_at"]

DATABASE = "database.url"
"""File of a folder that names its database; without it, the folder has an SQLite file."""
TOGETHER = "together"
"""File of a folder whose pairs get no server group, so that spares may join them."""
LEASE = 0.2
"""Seconds: long enough for a step of the simulator, short enough to wait for in every case."""
PATIENCE = 60.0
"""Seconds until what does not come to an end is taken for stuck."""
CALL = 0.1
"""Seconds that a call of the simulator may take: the lease is made to outlive it, and recovery waits for the lease."""
WISH = NewLoadBalancer(
    name="web",
    additional_vips=[AdditionalVip()],
    listeners=[
        NewListener(
            protocol=ListenerProtocol.HTTP, protocol_port=80, default_pool=NewPool(members=[NewMember("192.0.2.1", 80)])
        )
    ],
)


def database_of(directory: Path) -> str:
    """The URL of a folder's database."""
    named = directory / DATABASE
    return named.read_text(encoding="utf-8") if named.exists() else f"sqlite:///{directory}/octavia.db"


@functools.cache
def _wires() -> dict[str, Wire]:
    """Statements are compiled once in a process, not once for each engine that it opens: that is half of its work."""
    return {}


@attrs.define(eq=False)
class Engine:
    """Storage, world and cloud of one folder. `lease`: seconds that what it claims is its own."""

    storage: SqlStorage
    world: World
    cloud: SimulatedCloud
    lease: float = LEASE

    @classmethod
    def open(cls, directory: Path, *, apart: bool = True, **engine: float) -> Engine:
        """Open a folder, making what is missing; `engine` are settings of that group that differ from the usual ones.
        `apart`: pairs are kept on different hosts by a server group.
        """
        settings = on_simulator(
            directory,
            database_of(directory),
            nova={"enable_anti_affinity": apart and not (directory / TOGETHER).exists()},
            engine={"lease": LEASE, "step_retry_first": 0.01, "step_retry_longest": 0.02} | engine,
        )
        cloud = SimulatedCloud(directory / "simulator.db")
        prepare(settings)
        world = build_world(settings, Plugins({"simulator": Simulator(cloud)}, installed=False))
        for driver in (world.compute, world.network, world.amphora):
            driver.time_limit = CALL
        storage = SqlStorage.open(settings)
        storage.wire = _wires().setdefault(storage._engine.dialect.name, storage.wire)
        return cls(storage, world, cloud)

    def close(self) -> None:
        self.storage.close()
        self.cloud.close()

    @property
    def acceptor(self) -> Acceptor:
        return Acceptor(self.storage, Topology.SINGLE)

    def run(self, holder: str, probe: Probe | None = None) -> Ending | None:
        """Claim one operation and run it once; None when nothing is due."""
        for operation, claim in self.storage.claim(holder, claimable(), lease=self.lease, limit=1):
            return Runner(self.storage, self.world, probe).run(operation, claim)
        return None

    def inherit(self) -> None:
        """End every lease: whoever held one is known to be dead, as a controller that opens its state directory knows.

        That recovery waits for a lease whose holder may live is shown where one stands still (test_takeover.py).
        """
        self.storage.end_leases(but="")

    def settle(self, holder: str = "recoverer", probe: Probe | None = None, patience: float = PATIENCE) -> None:
        """Run until nothing is open any more."""
        deadline = self.world.clock.monotonic() + patience
        while self.open_operations():
            if self.world.clock.monotonic() > deadline:
                raise AssertionError(f"still open: {self.open_operations()}")
            if self.run(holder, probe) is None:
                Waiter(self.storage, self.world, idle=1.0).look()
                due = self.storage.next_due()
                self.world.clock.sleep(0.005 if due is None else min(0.05, max(0.001, due)))

    def open_operations(self) -> list[Operation]:
        return list(self.storage.read(lambda tx: tx.operations(open_only=True)))

    def load_balancer(self) -> LoadBalancer:
        """The one that scenarios are about, DELETED or not."""
        rows = self.storage.read(lambda tx: tx.operations(limit=1000))
        first = [row.load_balancer_id for row in rows if row.load_balancer_id is not None][-1]
        tree = self.storage.read(lambda tx: tx.tree(first))
        assert tree is not None
        return tree

    def leaked(self) -> list[str]:
        """Servers and addresses that no row accounts for, and rows that claim a server which is not there."""
        rows = self.storage.read(lambda tx: tx.amphorae())
        serving = {f"amphora-{a.id}" for a in rows if a.status is AmphoraStatus.ALLOCATED}
        ready = {f"amphora-{a.id}" for a in rows if a.status is AmphoraStatus.READY}
        servers = {server.name for server in self.world.compute.list()}
        lb = self.load_balancer()
        kept = {name for _, name in self.world.network.list()}
        wanted = {lb.id, *(a.id for a in rows)}
        orphans = [name for name in kept if not any(id in name for id in wanted)]
        return sorted(servers ^ (serving | ready)) + orphans + self._ungrouped(serving)

    def _ungrouped(self, serving: set[str]) -> list[str]:
        """What is wrong with server groups: a pair that is kept apart has one that holds its servers, nobody else has any."""
        lb = self.load_balancer()
        found = {name: set(servers) for name, servers in SimulatedCompute(self.cloud).server_groups().items()}
        apart = self.world.settings.nova.enable_anti_affinity
        paired = apart and lb.topology is Topology.ACTIVE_STANDBY and lb.provisioning_status is not Provisioning.DELETED
        if paired and lb.provisioning_status is Provisioning.ERROR and not found:
            paired = lb.server_group_id is not None  # its creation was undone
        wanted = {f"octavia-lb-{lb.id}": serving} if paired else {}
        return [] if found == wanted else [f"server groups {found} instead of {wanted}"]

    def unpaired(self) -> list[str]:
        """What is wrong with the amphorae of a pair; nothing when each shares the VIP with all others, as its row says."""
        amphorae = SimulatedAmphorae(self.cloud)
        wrong = [f"split brain of {id}" for id in amphorae.split_brains()]
        lb = self.load_balancer()
        if lb.topology is Topology.SINGLE or lb.provisioning_status is not Provisioning.ACTIVE:
            return wrong
        rows = [a for a in self.storage.read(lambda tx: tx.amphorae(lb.id)) if a.status is AmphoraStatus.ALLOCATED]
        if sorted((str(a.role), a.vrrp_priority) for a in rows) != [("BACKUP", 90), ("MASTER", 100)]:
            wrong.append(f"roles {[(a.role, a.vrrp_priority) for a in rows]}")
        for row in rows:
            share, others = amphorae.shares(row.id) or {}, [a.vrrp_ip for a in rows if a is not row]
            expected = (others, row.vrrp_priority, "eth1", "eth1", 1, lb.id.replace("-", ""), True)
            found = tuple(share.get(name) for name in ("peers", "priority", "interface"))
            given = (*found, row.vrrp_interface, row.vrrp_id, share.get("group"), share.get("secret"))
            if given != expected:
                wrong.append(f"amphora {row.id} shares {share}, its row has {row}")
            if amphorae.configuration(row.id) != amphorae.configuration(rows[0].id):
                wrong.append(f"amphora {row.id} serves something else than {rows[0].id}")
        if amphorae.vip_holder(str(lb.vip.ip_address)) not in {row.id for row in rows}:
            wrong.append("nobody holds the VIP")
        return wrong


Act = Callable[[Engine], object]


@attrs.frozen
class Scenario:
    """Something that happens to an engine, and what must be true when all is over.

    Attributes:
        name: for the test's id.
        before: brings the folder to its start; everything is settled afterwards.
        act: stores the wish (and faults) whose operation is killed.
        status: of the load balancer in the end.
        servers: how many serve in the end.
        spares: how many wait beside them.
        apart: pairs are kept on different hosts by a server group.
    """

    name: str
    before: tuple[Act, ...]
    act: Act
    status: str
    servers: int
    spares: int = 0
    apart: bool = True


def _create(engine: Engine) -> None:
    engine.acceptor.create_load_balancer(WISH, Asked())


def _create_pair(engine: Engine) -> None:
    engine.acceptor.create_load_balancer(attrs.evolve(WISH, topology=Topology.ACTIVE_STANDBY), Asked())


def _add_member(engine: Engine) -> None:
    engine.acceptor.create_member(engine.load_balancer().pools[0].id, NewMember("192.0.2.2", 80), Asked())


def _add_remote_member(engine: Engine) -> None:
    """One on a subnet that the amphora is not plugged into yet."""
    member = NewMember("192.0.2.3", 80, subnet_id="11111111-aaaa-4aaa-8aaa-111111111111")
    engine.acceptor.create_member(engine.load_balancer().pools[0].id, member, Asked())


def _delete(engine: Engine) -> None:
    engine.acceptor.delete_load_balancer(engine.load_balancer().id, Asked(), cascade=True)


def _delete_listener(engine: Engine) -> None:
    engine.acceptor.delete(Kind.LISTENER, engine.load_balancer().listeners[0].id, Asked())


def _failover(engine: Engine) -> None:
    engine.acceptor.failover_load_balancer(engine.load_balancer().id, Asked())


def _amphora_dies(engine: Engine) -> None:
    (amphora,) = engine.storage.read(lambda tx: tx.amphorae())
    engine.world.compute.destroy(f"amphora-{amphora.id}")
    engine.storage.transaction(lambda tx: tx.declare_dead(amphora.id))


def _lost(engine: Engine) -> None:
    """The only one dies, and health asks for its failover as it does."""
    (amphora,) = engine.storage.read(lambda tx: tx.amphorae())
    engine.world.compute.destroy(f"amphora-{amphora.id}")
    declared_dead(engine, amphora)


def _one_dies(engine: Engine) -> None:
    """The one that holds the VIP, and health asks for its failover as it does."""
    pair, vip = _pair(engine)
    (lost,) = [a for a in pair if a.id == vip]
    engine.world.compute.destroy(f"amphora-{lost.id}")
    declared_dead(engine, lost)


def _both_die(engine: Engine) -> None:
    for amphora in _pair(engine)[0]:
        engine.world.compute.destroy(f"amphora-{amphora.id}")
        declared_dead(engine, amphora)


def _pair(engine: Engine) -> tuple[Sequence[Amphora], str | None]:
    """The amphorae of the pair, and which of them holds the VIP."""
    lb = engine.load_balancer()
    holder = SimulatedAmphorae(engine.cloud).vip_holder(str(lb.vip.ip_address))
    return engine.storage.read(lambda tx: tx.amphorae(lb.id)), holder


def declared_dead(engine: Engine, amphora: Amphora) -> None:
    lb = str(amphora.load_balancer_id)
    failover = Operation(
        id=str(uuid.uuid4()),
        flow="failover",
        load_balancer_id=lb,
        amphora_id=amphora.id,
        subjects=(Subject(Kind.LOAD_BALANCER, lb),),
        internal=True,
        actor="health",
    )

    def declare(tx: Transaction) -> None:
        tx.declare_dead(amphora.id)
        tx.add_operation(failover)

    engine.storage.transaction(declare)


def _replace_holder(engine: Engine) -> None:
    """Somebody wants a healthy amphora replaced, and it is the one that holds the VIP."""
    holder = _pair(engine)[1]
    assert holder is not None
    engine.acceptor.failover_amphora(holder, Asked())


def _about_its_amphora(flow: str) -> Act:
    """An operation as a message of upstream's API asks for it: about one amphora, whatever serves."""

    def act(engine: Engine) -> None:
        (amphora,) = engine.storage.read(lambda tx: tx.amphorae())
        lb = amphora.load_balancer_id
        asked = Operation(
            id=str(uuid.uuid4()), flow=flow, load_balancer_id=lb, amphora_id=amphora.id, internal=True, actor="test"
        )
        engine.storage.transaction(lambda tx: tx.add_operation(asked))

    return act


def create_spare(engine: Engine) -> None:
    engine.acceptor.create_spare(Asked())


def _spare_vanishes(engine: Engine) -> None:
    (spare,) = engine.storage.read(lambda tx: tx.spares())
    engine.world.compute.destroy(f"amphora-{spare.id}")


def _refuse_pushes(engine: Engine) -> None:
    engine.cloud.fail("amphora.push", kind=FaultKind.REFUSED, message="no")


def _refuse_both(engine: Engine) -> None:
    """Both of a pair are asked at the same time: a refusal that is lost with its worker is given again."""
    engine.cloud.fail("amphora.push", kind=FaultKind.REFUSED, times=2, message="no")


def _both(*acts: Act) -> Act:
    def act(engine: Engine) -> None:
        for one in acts:
            one(engine)

    return act


SCENARIOS = (
    Scenario("create", (), _create, "ACTIVE", 1),
    Scenario("configure", (_create,), _add_member, "ACTIVE", 1),
    Scenario("configure-network", (_create,), _add_remote_member, "ACTIVE", 1),
    Scenario("configure-delete", (_create,), _delete_listener, "ACTIVE", 1),
    Scenario("delete", (_create,), _delete, "DELETED", 0),
    Scenario("failover", (_create,), _failover, "ACTIVE", 1),
    Scenario("create-refused", (), _both(_create, _refuse_pushes), "ERROR", 0),
    Scenario("configure-refused", (_create,), _both(_add_member, _refuse_pushes), "ACTIVE", 1),
    Scenario("configure-amphora-dead", (_create,), _both(_add_member, _amphora_dies), "ACTIVE", 1),
    Scenario("failover-refused", (_create,), _both(_failover, _refuse_pushes), "ERROR", 1),
    Scenario("failover-dead", (_create,), _lost, "ACTIVE", 1),
    Scenario("failover-dead-refused", (_create,), _both(_lost, _refuse_pushes), "ERROR", 0),
    Scenario("delete-amphora", (_create,), _about_its_amphora("delete-amphora"), "ACTIVE", 0),
    Scenario("configure-agent", (_create,), _about_its_amphora("configure-agent"), "ACTIVE", 1),
    Scenario("spare", (_create,), create_spare, "ACTIVE", 1, spares=1),
    Scenario("spare-serves-new", (create_spare,), _create, "ACTIVE", 1),
    Scenario("spare-replaces", (_create, create_spare), _failover, "ACTIVE", 1),
    Scenario("spare-silent", (_create, create_spare), _both(_failover, _spare_vanishes), "ACTIVE", 1),
    Scenario("spare-refused", (create_spare,), _both(_create, _refuse_pushes), "ERROR", 0),
    Scenario("spare-joins-pair", (_create_pair, create_spare), _one_dies, "ACTIVE", 2, apart=False),
    Scenario("pair-create", (), _create_pair, "ACTIVE", 2),
    Scenario("pair-configure", (_create_pair,), _add_member, "ACTIVE", 2),
    Scenario("pair-delete", (_create_pair,), _delete, "DELETED", 0),
    Scenario("pair-failover", (_create_pair,), _failover, "ACTIVE", 2),
    Scenario("pair-replace-holder", (_create_pair,), _replace_holder, "ACTIVE", 2),
    Scenario("pair-configure-one-dead", (_create_pair,), _both(_add_member, _one_dies), "ACTIVE", 2),
    Scenario("pair-configure-both-dead", (_create_pair,), _both(_add_member, _both_die), "ACTIVE", 2),
    Scenario("pair-create-refused", (), _both(_create_pair, _refuse_both), "ERROR", 0),
    Scenario("pair-configure-refused", (_create_pair,), _both(_add_member, _refuse_both), "ACTIVE", 2),
    Scenario("pair-failover-refused", (_create_pair,), _both(_failover, _refuse_pushes), "ERROR", 2),
)


def prepared(scenario: Scenario, directory: Path) -> None:
    """Bring a folder to where the scenario's operation is stored and nobody has begun it."""
    if not scenario.apart:
        (directory / TOGETHER).touch()
    engine = Engine.open(directory)
    for act in scenario.before:
        act(engine)
        engine.settle("before")
    scenario.act(engine)
    engine.close()


def nameless(path: str) -> str:
    """A path without the random ids in it, so that the same step has the same name in every run."""
    return _UUID.sub("#", path)


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def points_of(scenario: Scenario, directory: Path) -> list[tuple[str, str]]:
    """Every point at which a run of the scenario passes, in order: (point, path). Spends the folder."""
    seen: list[tuple[str, str]] = []

    def note(point: str, path: str) -> None:
        if (point, nameless(path)) not in seen:
            seen.append((point, nameless(path)))

    engine = Engine.open(directory)
    engine.settle("enumerator", note)
    engine.close()
    return seen


def die_at(directory: str, point: str, path: str) -> None:
    """Run in a process of its own: it is killed, as by `kill -9`, when the run comes to that point."""

    def probe(at: str, where: str) -> None:
        if (at, nameless(where)) == (point, path):
            os.kill(os.getpid(), signal.SIGKILL)

    engine = Engine.open(Path(directory))
    engine.inherit()
    engine.settle(f"victim-{os.getpid()}", probe)


def stop_at(directory: str, point: str, path: str) -> None:
    """Run in a process of its own: it stands still, as by `kill -STOP`, at that point (or at the call of that name, for
    the point "call"); continued, it goes on as if nothing had been, and ends when nothing is open any more.
    """
    stopped: list[str] = []

    def stand_still() -> None:
        stopped.append(path)
        os.kill(os.getpid(), signal.SIGSTOP)

    def probe(at: str, where: str) -> None:
        if not stopped and (at, nameless(where)) == (point, path):
            stand_still()

    engine = Engine.open(Path(directory))
    if point == "call":
        engine.cloud.before = lambda name: stand_still() if name == path and not stopped else None
    engine.settle(f"sleeper-{os.getpid()}", probe)


def facts(engine: Engine) -> dict[str, Any]:
    """What a failing test shows."""
    return {
        "calls": [(c.name, c.subject, c.outcome) for c in engine.cloud.calls()],
        "events": [e.text for e in engine.storage.read(lambda tx: tx.events())],
    }
