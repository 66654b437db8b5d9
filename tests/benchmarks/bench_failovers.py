"""A mass failover: 500 amphorae die at once on the simulator; how many replacements serve per second, and how soon each.

Every server is stopped, and the health manager is told of each as a compute driver would tell it. Its governor decides, and
spends a token on each; worker processes under their supervisor, woken by it, rebuild them all. Each load balancer has served
before, with a listener, a pool and two members. `--rounds` is the number of amphorae; further words choose databases
(`sqlite mariadb postgresql`; the first two unless named). A few of the replacements fail to boot several times over, and
nobody waits for these.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from octavia_core.controller.health import HealthManager, bind_receiver
from octavia_core.controller.knock import Knocker
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Operating, PoolProtocol, Provisioning
from octavia_core.flows.catalogue import claimable
from octavia_core.flows.common import vip_request
from octavia_core.flows.runner import Runner
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.compute import Death
from octavia_core.ports.storage import Transaction
from octavia_core.testing.outside import FaultKind
from octavia_core.testing.simulator import SimulatedCompute
from tests.benchmarks.harness import Aim, Figure, Options, Report
from tests.benchmarks.meter import Meter, Spent
from tests.benchmarks.workers import configured, workers
from tests.db.values import new_id
from tests.health.rig import Rig
from tests.support import servers

DATABASES = ("sqlite", "mariadb", "postgresql")
PROCESSES = (1, 2)
PATIENCE = 300.0
SLOW = 20
"""Attempts to boot that fail, one after the other, at the beginning."""


class Serving(Rig):
    """Load balancers that have served before."""

    _number = 0

    def balancer(self, listener: Listener) -> LoadBalancer:
        self._number += 1
        members = tuple(
            Member(id=new_id(), address=f"10.9.{n}.{self._number % 250 + 1}", protocol_port=80) for n in range(2)
        )
        pool = Pool(id=new_id(), protocol=PoolProtocol.HTTP, members=members)
        vip = Vip(
            ip_address=f"10.128.{self._number // 250}.{self._number % 250 + 1}",
            port_id=f"00000000-0000-4000-8000-{self._number:012}",
            subnet_id="00000000-0000-4000-9000-000000000001",
            network_id="00000000-0000-4000-9000-000000000002",
            octavia_owned=False,
        )
        tree = LoadBalancer(
            id=new_id(),
            vip=vip,
            listeners=(listener,),
            pools=(pool,),
            provisioning_status=Provisioning.ACTIVE,
            operating_status=Operating.ONLINE,
        )
        self.world.network.reserve_vip(vip_request(tree))
        return tree

    def accepted(self) -> None:
        """All of them have a revision that every amphora took."""

        def good(tx: Transaction, id: str) -> None:
            tree = tx.tree(id)
            assert tree is not None
            tx.mark_good(id, tx.store_revision(id, tree, None))

        for amphora in self.amphorae:
            self.storage.transaction(lambda tx, of=str(amphora.load_balancer_id): good(tx, of))  # type: ignore[misc]


class _Unwatched(SimulatedCompute):
    """The simulator's own watch looks at every server a hundred times a second, which no driver of a real place does."""

    def watch(self, on_death: Callable[[Death], None]) -> None:  # type: ignore[override]
        return None


def run(options: Options) -> Report:
    """Once for each database and number of processes."""
    logging.getLogger("octavia_core").setLevel(logging.ERROR)  # a line for each that is lost
    chosen = [name for name in DATABASES if name in options.rest] or ["sqlite", "mariadb"]
    figures: list[Figure] = []
    aims: list[Aim] = []
    home = servers.open_run()
    try:
        for kind in chosen:
            with _database(kind) as place:
                _one_at_a_time(kind, place, figures, aims)
            for processes in PROCESSES:
                options.say(f"{kind}, {processes} worker process(es)")
                with _database(kind) as place:
                    _once(kind, processes, options.rounds or 500, place, figures, aims)
    finally:
        servers.close_run(home)
    return Report(name="failovers", figures=figures, aims=aims)


@contextlib.contextmanager
def _database(kind: str) -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory(prefix="octavia-bench-") as name:
        folder = Path(name)
        if kind == "sqlite":
            yield folder, f"sqlite:///{folder}/octavia.db"
            return
        with servers.server(kind, durable=True).new_database() as url:
            yield folder, url


def _rig(place: tuple[Path, str], count: int) -> Serving:
    folder, url = place
    rig = Serving(
        folder,
        count,
        clock=SystemClock(),
        database=url,
        cloud=folder / "simulator.db",
        heartbeat_timeout=60.0,
        heartbeat_key="key",
        bind_port=0,
    )
    rig.accepted()
    return rig


def _one_at_a_time(kind: str, place: tuple[Path, str], figures: list[Figure], aims: list[Aim]) -> None:
    """What one costs where nobody else is at work: statements, transactions, CPU of this process."""
    first, many = 3, 20
    rig = _rig(place, first + many)
    runner = Runner(rig.storage, rig.world)
    before = (0, 0.0)
    for number, amphora in enumerate(rig.amphorae):
        if number == first:
            before = (rig.storage.wire.sent, time.process_time())
        rig.lookout.died(str(amphora.compute_id), "it was stopped")
        for operation, claim in rig.storage.claim("bench", claimable(), lease=10.0, limit=1):
            runner.run(operation, claim)
    statements, cpu = rig.storage.wire.sent - before[0], time.process_time() - before[1]
    ended = sum(one.state is OperationState.SUCCEEDED for one in rig.operations("failover"))
    rig.close()
    figures.append(Figure(f"{kind}: CPU of a failover", cpu / many, note="one process, warm, one after the other"))
    figures.append(
        Figure(
            f"{kind}: statements of a failover", statements / many, "", "its declaration, and looking for it, with it"
        )
    )
    aims.append(Aim(f"{kind}: failovers that did not end at once", first + many - ended, 0, ""))


def _once(
    kind: str, processes: int, count: int, place: tuple[Path, str], figures: list[Figure], aims: list[Aim]
) -> None:
    file = configured(*place, processes=processes)
    rig = _rig(place, count)
    rig.cloud.fail("compute.boot", kind=FaultKind.TRANSIENT, times=SLOW)
    world = attrs.evolve(rig.world, compute=_Unwatched(rig.cloud))
    health = HealthManager(rig.storage, rig.settings, world, bind_receiver(rig.settings), Knocker(rig.settings))
    programs: dict[str, int] = {}
    with workers(file) as pid:
        try:
            health.start()
            time.sleep(3.0)  # the processes are there, and quiet
            for amphora in rig.amphorae:
                rig.world.compute.kill(str(amphora.compute_id))  # type: ignore[attr-defined]
            programs |= {"workers": pid} | (
                {} if kind == "sqlite" else {"database": servers.guard_of(kind, durable=True)}
            )
            meter, sent = Meter(programs), rig.storage.wire.sent
            died = rig.storage.now()
            for amphora in rig.amphorae:
                health.died(Death(server_id=str(amphora.compute_id), at=time.time(), evidence="it was stopped"))
            while health.undecided:
                time.sleep(0.005)
            declared = meter.spent().seconds
            statements = rig.storage.wire.sent - sent
            rows = _until_over(rig, count)
            spent = meter.spent()
        finally:
            health.stop()
    found = rig.storage.read(lambda tx: tx.amphorae())
    serving = sum(a.status is AmphoraStatus.ALLOCATED and a.id not in rig.ids for a in found)
    rig.close()
    took = sorted(((row.finished_at or died) - died) / 1e6 for row in rows)
    last = max(took) if took else spent.seconds
    label = f"{kind}, {processes} process(es)"
    figures += [
        Figure(f"{label}: declared dead, all", declared, note=f"{statements} statements, some dozens in a transaction"),
        Figure(f"{label}: from death to serving", statistics.median(took), note="median"),
        Figure(f"{label}: the same, p99", took[int(len(took) * 0.99)]),
        Figure(f"{label}: the last", last, note=f"{serving} of {count} serve; {SLOW} attempts to boot failed"),
        *_explained(label, count, spent),
    ]
    aims += [
        Aim(f"{label}: amphorae without a replacement", count - serving, 0, ""),
        Aim(f"{label}: CPU of a failover, the database's with it", spent.total / count, 0.08),
    ]
    if processes == max(PROCESSES):
        rate = 0.99 * count / took[int(len(took) * 0.99)]
        aims.append(Aim(f"{label}: failovers per second", rate, 20, "/s", at_least=True))


def _explained(label: str, many: int, spent: Spent) -> Iterator[Figure]:
    """What each of them cost, and what the machine did meanwhile."""
    database = spent.programs.get("database", 0.0)
    yield Figure(f"{label}: CPU of a failover, workers", spent.programs["workers"] / many, note="with the simulator")
    yield Figure(f"{label}: CPU of a failover, health", spent.ours / many)
    if "database" in spent.programs:
        yield Figure(f"{label}: CPU of a failover, database", database / many, note="its server's processes")
    yield Figure(f"{label}: cores that lay idle", spent.idle_share, "%", spent.words())
    yield Figure(f"{label}: what that CPU allows", many * spent.cores / spent.total, "/s", "by all cores, ours alone")


def _until_over(rig: Rig, count: int) -> list[Operation]:
    """The failovers, when all have ended. Counted by the database: reading them all would be most of the work."""
    from sqlalchemy import func, select

    from octavia_core.db.tables.own import oc_operation

    query = select(func.count()).where(oc_operation.c.finished_at.is_not(None), oc_operation.c.flow == "failover")
    deadline = time.monotonic() + PATIENCE
    while int(rig.storage.look(lambda tx: tx.value(query))) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    rows = rig.storage.read(lambda tx: tx.operations(limit=10 * count))
    return [row for row in rows if row.flow == "failover" and row.finished_at is not None]
