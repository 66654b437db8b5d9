"""The amphora: a member's change until HAProxy does it, reloads under load, interruption by a failover, rendering.

Times are of the wall, from the call that accepts the wish to the first answer of the member that the change is about, so
they hold everything between: database, worker, push over mutual TLS, agent, HAProxy. On a busy machine look at the CPU
seconds and the counts.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from octavia_core import Controller, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol
from tests.benchmarks import bench_render
from tests.benchmarks.harness import Aim, Figure, Options, Report, spread
from tests.support.members import ask_quietly, member

PATIENCE = 60.0
RELOADS = 100


def run(options: Options) -> Report:
    """`rounds` changes of each kind (30), 100 reloads under load, `rounds`/6 failovers."""
    rounds = options.rounds or 30
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavia-bench-"))) / "state"
        servers = [stack.enter_context(member(name)) for name in ("always", "changed")]
        bench = _Bench(stack.enter_context(Controller.open(state)), servers)
        try:
            runtime, runtime_cpu = bench.changes(rounds, idle={"weight": 0}, busy={"weight": 200})
            options.say(f"changed a weight {rounds} times")
            reload, reload_cpu = bench.changes(rounds, idle={"backup": True}, busy={"backup": False, "weight": 200})
            options.say(f"made a backup member a common one {rounds} times")
            failed, requests = bench.reloads(RELOADS)
            options.say(f"{RELOADS} reloads under {requests} requests")
            gaps, lost = bench.failovers(max(3, rounds // 6))
            options.say(f"{len(gaps)} failovers of a SINGLE load balancer under load")
        finally:
            bench.clean_up()
    rendering = bench_render.run(options)
    figures = [
        *spread("weight changed, to effect", runtime, note="the runtime API serves"),
        Figure("weight changed and back, CPU", runtime_cpu, note="controller, both members and who asks: one process"),
        *spread("backup changed, to effect", reload, note="needs a reload"),
        Figure("backup changed and back, CPU", reload_cpu, note="controller, both members and who asks: one process"),
        Figure(f"requests lost in {RELOADS} reloads", failed, "", f"of {requests}, each over a new connection"),
        *spread("failover SINGLE, longest time without an answer", gaps, note="graceful, under load"),
        Figure("failover SINGLE, failed requests", lost / len(gaps), "", "a failover"),
        *rendering.figures,
    ]
    aims = [
        Aim("member update to effect, runtime API", statistics.median(runtime), 0.02),
        Aim("member update to effect, reload", statistics.median(reload), 0.05),
        Aim(f"requests lost in {RELOADS} reloads", failed, 0, ""),
        *rendering.aims,
    ]
    return Report(name="amphora", figures=figures, aims=aims)


class _Bench:
    def __init__(self, controller: Controller, servers: list[NewMember]) -> None:
        self.controller = controller
        pool = NewPool(members=tuple(servers))
        listener = NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool=pool)
        controller.create_load_balancer(NewLoadBalancer(name="bench", listeners=[listener])).wait(PATIENCE)
        lb = controller.load_balancer("bench")
        self.changed = next(m.id for m in lb.pools[0].members if m.name == "changed")
        reach = controller.reachable_at(lb, lb.listeners[0])
        assert reach is not None
        self.host, _, port = reach.rpartition(":")
        self.port = int(port)

    def ask(self) -> str | None:
        return ask_quietly(self.host, self.port, timeout=3.0)

    def update(self, **values: Any) -> None:
        self.controller.update(Kind.MEMBER, self.changed, **values).wait(PATIENCE)

    def changes(self, rounds: int, *, idle: Mapping[str, Any], busy: Mapping[str, Any]) -> tuple[list[float], float]:
        """Times from the wish to the first answer of a member that is called, and CPU seconds of a round."""
        times = []
        before = time.process_time()
        for _ in range(rounds):
            self.update(**idle)
            while self.ask() != "always":
                pass
            began = time.monotonic()
            operation = self.controller.update(Kind.MEMBER, self.changed, **busy)
            while self.ask() != "changed":
                if time.monotonic() - began > PATIENCE:
                    raise RuntimeError("a changed member was never asked")
            times.append(time.monotonic() - began)
            operation.wait(PATIENCE)
        return times, (time.process_time() - before) / rounds

    @contextlib.contextmanager
    def load(self) -> Iterator[list[float | None]]:
        """Requests over new connections from two threads: time of each answer, None for each failure."""
        stop, results = threading.Event(), list[float | None]()

        def client() -> None:
            while not stop.is_set():
                results.append(time.monotonic() if self.ask() else None)
                stop.wait(0.002)

        clients = [threading.Thread(target=client) for _ in range(2)]
        for thread in clients:
            thread.start()
        try:
            yield results
        finally:
            stop.set()
            for thread in clients:
                thread.join()

    def reloads(self, count: int) -> tuple[int, int]:
        """Failed requests, and all, while every change needs a reload."""
        with self.load() as results:
            for number in range(count):
                self.update(backup=number % 2 == 0)
        return sum(result is None for result in results), len(results)

    def failovers(self, count: int) -> tuple[list[float], int]:
        """The longest time between two answers during each failover, and failed requests of all."""
        gaps, lost = [], 0
        for _ in range(count):
            with self.load() as results:
                self.controller.failover_load_balancer(self.controller.load_balancer("bench").id).wait(PATIENCE)
                deadline = time.monotonic() + PATIENCE
                while not self.ask() and time.monotonic() < deadline:
                    pass
            answered = sorted(result for result in results if result is not None)
            gaps.append(max((b - a for a, b in itertools.pairwise(answered)), default=0.0))
            lost += sum(result is None for result in results)
        return gaps, lost

    def clean_up(self) -> None:
        """Leave nothing that runs."""
        for row in self.controller.load_balancers():
            self.controller.delete_load_balancer(row.id, wait=PATIENCE).wait(PATIENCE)
