"""Creating, changing and deleting load balancers on each database: operations a second, waiting, CPU, statements, memory.

Worker processes under their supervisor, the simulator's drivers, servers that force their data to the disk; this process
stores the wishes, by several threads. All of them, and the database, share the machine's cores. Further words choose databases
(`sqlite mariadb postgresql`), `parked` only parks; `--rounds` is the number of load balancers.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import event

from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.controller.sources import load_settings
from octavia_core.controller.waiter import Waiter
from octavia_core.controller.wiring import build_world
from octavia_core.controller.worker import Worker
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.vocabulary import Topology
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.flows.catalogue import claimable
from octavia_core.flows.runner import Runner
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.storage import Claim, Transaction
from octavia_core.settings import Settings
from tests.benchmarks.harness import Aim, Figure, Options, Report
from tests.benchmarks.meter import Meter, Spent, descendants
from tests.benchmarks.workers import configured, workers
from tests.support import servers

DATABASES = ("sqlite", "mariadb", "postgresql")
RATE = {"sqlite": 100.0, "mariadb": 60.0, "postgresql": 60.0}
IDLE = {"sqlite": 0.05, "mariadb": 0.1, "postgresql": 0.1}
PROCESSES = (1, 2, 4)
PARKED = 10_000
ASKING = 4
"""Wishes are stored by so many threads, as an API does it."""
NEWER = 100
"""Operations that something else may have stored meanwhile, at most."""


def run(options: Options) -> Report:
    """Measure what was asked for; see the module."""
    chosen = [name for name in DATABASES if name in options.rest] or list(DATABASES)
    figures: list[Figure] = []
    aims: list[Aim] = []
    home = servers.open_run()
    try:
        for kind in chosen:
            with _database(kind) as place:
                if "parked" not in options.rest:
                    _one_at_a_time(kind, place(), figures, aims)
                    for count in PROCESSES:
                        options.say(f"{kind}, {count} worker process(es)")
                        _under_load(kind, place(), count, options.rounds or 200, figures, aims)
                options.say(f"{kind}, {PARKED} parked operations")
                _parked(kind, place(), figures, aims)
    finally:
        servers.close_run(home)
    return Report(name="flows", figures=figures, aims=aims)


# -- places ------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _database(kind: str) -> Iterator[Callable[[], tuple[Path, str]]]:
    """What gives fresh folders with a fresh database of that kind."""
    with contextlib.ExitStack() as stack:

        def place() -> tuple[Path, str]:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavia-bench-")))
            if kind == "sqlite":
                return folder, f"sqlite:///{folder}/octavia.db"
            return folder, stack.enter_context(servers.server(kind, durable=True).new_database())

        yield place


def _configured(place: tuple[Path, str], processes: int = 1, poll: float = 0.05) -> tuple[Path, Settings]:
    folder, url = place
    file = configured(folder, url, processes=processes, poll=poll)
    settings = load_settings([str(file)], state_directory=str(folder))
    prepare(settings)
    return file, settings


def _wish(number: int) -> NewLoadBalancer:
    """SINGLE, VIP given, no children."""
    return NewLoadBalancer(
        name=f"lb{number}",
        vip_address=f"10.128.{number // 250 % 250}.{number % 250 + 1}",
        vip_port_id=f"00000000-0000-4000-8000-{number:012}",
        vip_subnet_id="00000000-0000-4000-9000-000000000001",
        vip_network_id="00000000-0000-4000-9000-000000000002",
    )


# -- one at a time: statements, and what nobody else delays ----------------------------------------------------------
def _one_at_a_time(kind: str, place: tuple[Path, str], figures: list[Figure], aims: list[Aim]) -> None:
    _, settings = _configured(place)
    storage = SqlStorage.open(settings)
    world = build_world(settings, Plugins())
    acceptor = Acceptor(storage, Topology.SINGLE)
    counted = _Counted(storage)
    runner = Runner(storage, world)

    def one(number: int) -> None:
        acceptor.create_load_balancer(_wish(number), Asked())
        for operation, claim in storage.claim("bench", claimable(), lease=10.0, limit=1):
            runner.run(operation, claim)

    for number in range(5):
        one(number)
    counted.reset()
    cpu, rounds = time.process_time(), 20
    for number in range(5, 5 + rounds):
        one(number)
    figures.append(Figure(f"{kind}: CPU of a creation", (time.process_time() - cpu) / rounds, note="one process, warm"))
    aims.append(Aim(f"{kind}: statements of a creation", counted.statements / rounds, 40, ""))
    aims.append(Aim(f"{kind}: transactions of a creation", counted.transactions / rounds, 12, ""))
    worker = Worker(runner, threads=2)
    worker.start()
    waits = []
    for number in range(1000, 1030):
        operation = acceptor.create_load_balancer(_wish(number), Asked())
        worker.nudge()
        _until_over(storage, [operation])
        row = storage.read(lambda tx, of=operation.id: tx.operation(of))  # type: ignore[misc]
        waits.append((row.finished_at - row.created_at) / 1e6)
    worker.stop(10.0)
    figures.append(Figure(f"{kind}: one fsync of 4 KiB at that time", _fsync(), note="median, beside the idle figure"))
    aims.append(Aim(f"{kind}: idle, acceptance to ACTIVE (median)", statistics.median(waits), IDLE[kind]))
    storage.close()


class _Counted:
    """Statements and transactions of a storage; BEGIN, COMMIT, savepoints and pings are not counted."""

    def __init__(self, storage: SqlStorage) -> None:
        self._wire, self.transactions = storage.wire, 0
        self.reset()
        event.listen(storage._engine, "begin", self._begin)

    @property
    def statements(self) -> int:
        return self._wire.sent - self._before

    def reset(self) -> None:
        self._before, self.transactions = self._wire.sent, 0

    def _begin(self, _: Any) -> None:
        self.transactions += 1


# -- under load --------------------------------------------------------------------------------------------------------
def _under_load(
    kind: str, place: tuple[Path, str], processes: int, many: int, figures: list[Figure], aims: list[Aim]
) -> None:
    file, settings = _configured(place, processes)
    storage = SqlStorage.open(settings)
    acceptor = Acceptor(storage, Topology.SINGLE)
    with workers(file) as pid:
        first = [acceptor.create_load_balancer(_wish(n), Asked()) for n in range(4 * processes)]
        _until_over(storage, first)  # every process is there, and warm
        ids: list[str] = []
        for what in ("create", "update", "delete"):
            meter = Meter({"workers": pid} | ({} if kind == "sqlite" else {"database": _server(kind)}))
            if what == "create":
                operations = _asked(lambda n: acceptor.create_load_balancer(_wish(n), Asked()), range(100, 100 + many))
                ids = [str(operation.load_balancer_id) for operation in operations]
            elif what == "update":
                operations = _asked(lambda one: acceptor.change_load_balancer(one, {"description": "x"}, Asked()), ids)
            else:
                operations = _asked(lambda one: acceptor.delete_load_balancer(one, Asked(), cascade=True), ids)
            rows = _until_over(storage, operations)
            spent = meter.spent()
            failed = [row.error for row in rows if row.state is not OperationState.SUCCEEDED]
            if failed:
                raise RuntimeError(f"{len(failed)} operations failed, the first: {failed[0]}")
            took = sorted(((row.finished_at or 0) - row.created_at) / 1e6 for row in rows)
            # by the database's clock, from the first acceptance to the last end: this process looks at the end only now and then
            seconds = (max(row.finished_at or 0 for row in rows) - min(row.created_at for row in rows)) / 1e6
            label = f"{kind}, {processes} process(es), {what}"
            figures.append(Figure(f"{label}: operations a second", many / seconds, "/s"))
            figures.append(Figure(f"{label}: acceptance to end", statistics.median(took), note="median, under load"))
            figures.append(Figure(f"{label}: the same, p99", took[int(len(took) * 0.99)]))
            figures += _explained(label, many, spent)
            if what == "create" and processes == 2:
                aims.append(
                    Aim(f"{kind}: creations a second, 2 processes", many / seconds, RATE[kind], "/s", at_least=True)
                )
        memory = max(_memory(child) for child in descendants(pid))
        figures.append(Figure(f"{kind}, {processes} process(es): memory of a worker process", memory, "MB"))
    storage.close()


def _explained(label: str, many: int, spent: Spent) -> Iterator[Figure]:
    """Why the rate is what it is: whose the cores were."""
    database = spent.programs.get("database", 0.0)
    note = "the database's is in it" if "database" not in spent.programs else "without the database's"
    yield Figure(f"{label}: CPU of an operation", (spent.total - database) / many, note=note)
    if "database" in spent.programs:
        yield Figure(f"{label}: the database's CPU of it", database / many, note="its server's processes")
    yield Figure(f"{label}: cores that lay idle", spent.idle_share, "%", spent.words())
    rate = many * spent.cores / spent.total if spent.total else 0.0
    yield Figure(f"{label}: what that CPU allows", rate, "/s", "by all cores, ours alone and never idle")


def _server(kind: str) -> int:
    return servers.guard_of(kind, durable=True)


def _asked(ask: Callable[[Any], Operation], about: Sequence[Any]) -> list[Operation]:
    """Wishes of several people at once."""
    with ThreadPoolExecutor(ASKING) as people:
        return list(people.map(ask, about))


def _until_over(storage: SqlStorage, operations: Sequence[Operation]) -> list[Operation]:
    deadline = time.monotonic() + 300
    last, wanted = operations[-1].id, {each.id for each in operations}
    while True:
        row = storage.read(lambda tx: tx.operation(last))
        if row is not None and row.state.final:
            rows = storage.read(lambda tx: tx.operations(limit=len(wanted) + NEWER))
            found = [each for each in rows if each.id in wanted and each.state.final]
            if len(found) == len(operations):
                return found
        if time.monotonic() > deadline:
            raise RuntimeError("operations did not come to their end within 300 s")
        time.sleep(0.003 if len(operations) == 1 else 0.05)


def _memory(pid: int) -> float:
    """Resident memory in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


# -- ten thousand that wait --------------------------------------------------------------------------------------------
def _parked(kind: str, place: tuple[Path, str], figures: list[Figure], aims: list[Aim]) -> None:
    """A worker whose ten thousand operations all wait for servers that do not come: what looking at them costs."""
    _, settings = _configured(place, poll=1.0)
    storage = SqlStorage.open(settings)
    world = build_world(settings, Plugins())
    ids = [f"{number:08}-0000-4000-8000-000000000000" for number in range(PARKED)]

    def park(claim: Claim) -> None:
        wait = {"kind": "server-active", "value": {"server_id": claim.operation_id}}
        storage.park(claim, wake_in=3600.0, wait=wait)

    def store(tx: Transaction, some: Sequence[str]) -> None:
        for each in some:
            tx.add_operation(Operation(id=each, flow="create", load_balancer_id=each))

    # as flows leave them: stored, claimed once, parked for long
    with ThreadPoolExecutor(16) as several:
        for first in range(0, PARKED, 500):
            storage.transaction(lambda tx, some=ids[first : first + 500]: store(tx, some))  # type: ignore[misc]
            claimed = storage.claim("bench", {"create": [1]}, lease=600.0, limit=500)
            list(several.map(park, [claim for _, claim in claimed]))
    waiter = Waiter(storage, _Building(world), idle=1.0)  # type: ignore[arg-type]
    waiter.look()
    cpu, looks = time.process_time(), 5
    for _ in range(looks):
        if waiter.look() != PARKED:
            raise RuntimeError("they do not all wait")
    a_look = (time.process_time() - cpu) / looks
    worker = Worker(Runner(storage, world), threads=4, chores=False)
    cpu, began = time.process_time(), time.monotonic()
    worker.start()
    time.sleep(5.0)
    idle = (time.process_time() - cpu) / (time.monotonic() - began) * 60
    worker.stop(10.0)
    figures.append(Figure(f"{kind}: one look at {PARKED} waits", a_look, note="CPU"))
    aims.append(Aim(f"{kind}: {PARKED} parked, polled every 10 s, CPU a minute", 6 * a_look + idle, 6.0))
    aims.append(Aim(f"{kind}: {PARKED} parked, none due, CPU a minute", idle, 1.0))
    aims.append(Aim(f"{kind}: {PARKED} parked, memory of the process", _memory(os.getpid()), 150, "MB"))
    storage.close()


class _Building:
    """A world in which every server is being built, for ever, and saying so costs next to nothing."""

    def __init__(self, world: Any) -> None:
        from octavia_core.ports.compute import Server, ServerState

        class Compute:
            poll_interval = 10.0

            @staticmethod
            def servers(ids: Sequence[str]) -> dict[str, Server]:
                return {id: Server(id=id, name=id, state=ServerState.BUILDING) for id in ids}

        self.compute = Compute()
        self.amphora, self.clock = world.amphora, world.clock


def _fsync() -> float:
    with tempfile.NamedTemporaryFile() as file:
        times = []
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)
