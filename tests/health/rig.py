"""A lookout over simulated amphorae: time, agents, servers and heartbeats are the test's, the database is real."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from octavia_core.certs.authority import create_authorities
from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.ask import Inquiry
from octavia_core.controller.health.look import Evidence, Lookout
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.receive import Receiver
from octavia_core.controller.health.wall import Wall
from octavia_core.controller.health.write import Pace, Writer
from octavia_core.controller.wiring import build_world
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.heartbeat import Heartbeat, decode, encode
from octavia_core.domain.operation import Operation
from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, ListenerProtocol
from octavia_core.hooks.plugins import Plugins
from octavia_core.policy.governor import Agent
from octavia_core.ports.clock import Clock
from octavia_core.ports.compute import ServerSpec
from octavia_core.ports.hearts import TrafficDelta
from octavia_core.settings import Settings
from octavia_core.testing.clock import VirtualClock
from octavia_core.testing.outside import FaultKind, SimulatedCloud
from octavia_core.testing.plugin import Simulator
from tests.db.values import new_id
from tests.support.databases import copy_to

KEY = "key"
TIMEOUT = 1.0
PATIENCE = 60.0
"""Seconds after which what should come true is taken for not coming."""


def due(memory: Memory, now: float, traffic: float = 0.0) -> Sequence[TrafficDelta]:
    """What is to be counted once all that was heard is written; with sums that are so many seconds old."""
    batch = memory.take(now, traffic=traffic)
    memory.written(batch, dict.fromkeys(batch.beats, True), now)
    return memory.take_traffic(1_000_000)


class Rig:
    """`count` load balancers with one amphora each, every one heard just now; time is the test's unless a clock is given.

    `cloud` is the file of the simulated cloud, for several processes; without it, it is in memory.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        clock: Clock | None = None,
        engine: Mapping[str, Any] | None = None,
        storage: type[SqlStorage] = SqlStorage,
        database: str | None = None,
        cloud: Path | None = None,
        **health: Any,
    ) -> None:
        create_authorities(str(folder / "authority"))
        database = database or copy_to(folder / "octavia.db")
        authority = folder / "authority"
        noop = {"compute_driver": "noop", "network_driver": "noop", "amphora_driver": "noop"}
        self.settings = Settings.load(
            (
                "test",
                {
                    "controller_worker": noop | {"client_ca": str(authority / "controllers.pem")},
                    "certificates": {
                        "cert_manager": "noop",
                        "ca_certificate": str(authority / "agents.pem"),
                        "ca_private_key": str(authority / "agents.key"),
                    },
                    "database": {"connection": database},
                    "engine": dict(engine or {}),
                    "health_manager": {"heartbeat_timeout": TIMEOUT, "heartbeat_interval": 0.2} | health,
                },
            ),
            state_directory=str(folder),
        )
        prepare(self.settings)
        self.clock = VirtualClock()
        outside: Clock = clock or self.clock
        self.cloud = SimulatedCloud(cloud, clock=outside)
        world = build_world(self.settings, Plugins({"simulator": Simulator(self.cloud)}, installed=False), outside)
        self.world = world
        self.storage = storage.open(self.settings)
        self.memory, self.wall = Memory(2.0), Wall(self.storage, self.clock)
        self.ask = Inquiry(self.storage, world, TIMEOUT)
        actor = Actor(self.storage, lambda: None)
        self.lookout = Lookout(
            self.storage, self.settings, self.clock, self.wall, Evidence(self.memory, self.ask), actor
        )
        self.writer = Writer(
            self.storage,
            self.memory,
            self.wall,
            "here",
            Pace(traffic=0.0, timeout=self.settings.health_manager.heartbeat_timeout),
        )
        self.since = self.wall.now()
        self.sequence = 0
        self.listeners: dict[str, str] = {}
        self.amphorae = [self._amphora() for _ in range(count)]
        self.heard(*self.ids)
        self.writer.flush(self.clock)
        self.writer.count()

    def written(self) -> None:
        """All that was heard and counted is written."""
        self.writer.flush(self.clock, last=True)
        self.writer.count()

    @property
    def ids(self) -> list[str]:
        return [amphora.id for amphora in self.amphorae]

    def _amphora(self) -> Amphora:
        listener = Listener(id=new_id(), protocol=ListenerProtocol.HTTP, protocol_port=80)
        lb = self.balancer(listener)
        id = new_id()
        server = self.world.compute.boot(ServerSpec(name=f"amphora-{id}", amphora_id=id), dict)
        found = self.world.compute.find(server.name)
        assert found is not None
        amphora = Amphora(
            id=id,
            status=AmphoraStatus.ALLOCATED,
            load_balancer_id=lb.id,
            compute_id=server.id,
            lb_network_ip=found.management_ip,
            cached_zone=found.zone,
        )
        self.storage.transaction(lambda tx: (tx.insert(lb), tx.insert(amphora), tx.set_host(id, str(found.host))))
        self.listener = self.listeners[id] = listener.id
        return amphora

    def balancer(self, listener: Listener) -> LoadBalancer:
        """Whose amphora the next one is."""
        return LoadBalancer(id=new_id(), listeners=(listener,))

    def beat(self, id: str, listeners: Collection[str] | None = None, **stats: int) -> Heartbeat:
        """The next heartbeat of an amphora, with the listener that its load balancer has unless others are named."""
        if listeners is None:
            listeners = [self.listeners[id]]
        self.sequence += 1
        reports = {each: {"status": "OPEN", "stats": {"rx": 0, "tx": 0, **stats}} for each in listeners}
        document = {"id": id, "seq": self.sequence, "ver": 3, "listeners": reports, "pools": {}}
        return decode(encode(document, KEY), [KEY])

    def heard(self, *ids: str) -> None:
        self.memory.keep([self.beat(id) for id in ids], self.clock.monotonic())

    def pass_(self, seconds: float, *heard: str) -> None:
        """Let time pass, look after each tenth of a second, with heartbeats of these."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.heard(*heard)
            self.look()

    def look(self) -> None:
        self.lookout.look(self.since, "here")

    def answered(self, *ids: str) -> None:
        """Wait until there are answers about these."""
        until(lambda: all(self.ask.agent(id) is not Agent.UNASKED for id in ids))

    def mute(self) -> None:
        """No agent answers from now on; servers run as before."""
        self.cloud.fail("amphora.info", kind=FaultKind.UNREACHABLE, times=100_000)

    def failovers(self) -> list[str]:
        """Ids of amphorae that a failover was stored for."""
        return [str(o.amphora_id) for o in self.operations("failover")]

    def operations(self, flow: str) -> list[Operation]:
        return [o for o in self.storage.read(lambda tx: tx.operations(limit=1000)) if o.flow == flow]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(e.data) for e in self.storage.read(lambda tx: tx.events(limit=1000)) if e.name == name]

    def status(self, id: str) -> AmphoraStatus:
        amphora = self.storage.read(lambda tx: tx.amphora(id))
        assert amphora is not None
        return amphora.status

    def close(self) -> None:
        self.ask.close()
        self.storage.close()
        self.cloud.close()


def until_stamped(receiver: Receiver, sender: socket.socket) -> None:
    """The kernel notes when datagrams come from some moments after the first socket of the machine has asked for it."""

    def stamped() -> bool:
        sender.send(b"stamped?")
        sent = time.time()
        time.sleep(0.005)
        receiver.batch()
        return receiver.oldest <= sent

    until(stamped)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come true in time")
        threading.Event().wait(0.01)
