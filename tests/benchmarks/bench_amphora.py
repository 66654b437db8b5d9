"""The amphora: a member's change until HAProxy does it, reloads under load, interruption by a failover, rendering.

Times of changes are of the wall, from when the wish is accepted (the call has returned) to the first answer of the member
that the change is about, so they hold everything between: database, worker, push over mutual TLS, agent, HAProxy. The
members and who asks are a process of their own. An amphora that dies, agent and HAProxy at once, is replaced in turn by a spare
and by a new one. Their parts: until the driver is called, and the driver's push. On a busy
machine look at CPU and counts. The word `quick` leaves out the pair of amphorae (`bench_pair`), `changes` all but the
changes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from octavia_core import Controller, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, ListenerProtocol
from octavia_core.ports.amphora import Pushed
from octavia_core.settings import Settings
from octavia_local.form import form_of, keepalived
from tests.benchmarks import bench_pair, bench_render
from tests.benchmarks.amphora_client import Outside
from tests.benchmarks.harness import Aim, Figure, Options, Report, spread
from tests.support.members import ask_quietly

PATIENCE = 60.0
RELOADS = 100
MEMBERS = ("always", "changed")


def run(options: Options) -> Report:
    """`rounds` changes of each kind (60), 100 reloads under load, `rounds`/12 failovers and deaths, the pair's three of each."""
    rounds = options.rounds or 60
    only_changes = "changes" in options.rest
    figures: list[Figure] = []
    aims: list[Aim] = []
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavia-bench-"))) / "state"
        outside = stack.enter_context(Outside())
        bench = _Bench(stack.enter_context(Controller.open(state)), outside)
        try:
            runtime = bench.changes(rounds, idle={"weight": 0}, busy={"weight": 200})
            options.say(f"changed a weight {rounds} times")
            reload = bench.changes(rounds, idle={"backup": True}, busy={"backup": False, "weight": 200})
            options.say(f"made a backup member a common one {rounds} times")
            figures += runtime.figures("weight changed", "the runtime API serves")
            figures += reload.figures("backup changed", "needs a reload")
            aims.append(Aim("member update to effect, runtime API", statistics.median(runtime.times), 0.02))
            aims.append(Aim("member update to effect, reload", statistics.median(reload.times), 0.05))
            if not only_changes:
                _under_load(bench, max(3, rounds // 12), figures, aims, options)
        finally:
            bench.clean_up()
    if not only_changes:
        rendering = bench_render.run(attrs.evolve(options, rounds=20))
        figures, aims = [*figures, *rendering.figures], [*aims, *rendering.aims]
        if "quick" not in options.rest and _namespaces():
            pair = bench_pair.run(attrs.evolve(options, rounds=3))
            figures, aims = [*figures, *pair.figures], [*aims, *pair.aims]
    return Report(name="amphora", figures=figures, aims=aims)


def _namespaces() -> bool:
    """Whether pairs can be had here."""
    settings = Settings.load(("benchmark", {"local": {"amphora": "auto"}}))
    return form_of(settings).namespaces and keepalived() is not None


def _under_load(bench: _Bench, failovers: int, figures: list[Figure], aims: list[Aim], options: Options) -> None:
    failed, requests = bench.reloads(RELOADS)
    options.say(f"{RELOADS} reloads under {requests} requests")
    gaps, lost = bench.failovers(failovers)
    options.say(f"{len(gaps)} failovers of a SINGLE load balancer under load")
    dead = bench.deaths(failovers)
    options.say(f"{failovers} deaths without a spare, and as many with one")
    figures += [
        Figure(f"requests lost in {RELOADS} reloads", failed, "", f"of {requests}, each over a new connection"),
        *spread("failover SINGLE, longest time without an answer", gaps, note="graceful, under load"),
        Figure("failover SINGLE, failed requests", lost / len(gaps), "", "a failover"),
    ]
    for which, found in dead.items():
        name = f"death of a SINGLE {which}, longest time without an answer"
        figures += spread(name, found, note="kill -9 of agent and HAProxy, under load")
    aims.append(Aim(f"requests lost in {RELOADS} reloads", failed, 0, ""))


@attrs.define
class _Changes:
    """What so many changes, there and back, took."""

    times: list[float] = attrs.field(factory=list)
    accepting: list[float] = attrs.field(factory=list)
    waiting: list[float] = attrs.field(factory=list)
    pushing: list[float] = attrs.field(factory=list)
    requests: list[int] = attrs.field(factory=list)
    cpu: float = 0.0

    def figures(self, what: str, note: str) -> Iterator[Figure]:
        yield from spread(f"{what}, to effect", self.times, note=note)
        yield Figure(f"{what}, to effect, 99 of 100", statistics.quantiles(self.times, n=100)[98])
        for name, values in (
            ("accepted", self.accepting),
            ("then until the driver is called", self.waiting),
            ("then the push", self.pushing),
        ):
            yield Figure(f"{what}: {name}", statistics.median(values), "s", "median")
        yield Figure(f"{what}: requests to the agent", statistics.median(self.requests), "", "median of a push")
        yield Figure(f"{what}: CPU", self.cpu, "s", "of the controller, for one change")


class _Watched:
    """Notes when the amphora driver is called, and how many requests it sends."""

    def __init__(self, driver: Any) -> None:
        self._push, self._send = driver.push, driver._transport.send
        driver.push, driver._transport.send = self.push, self.send
        self.began, self.ended, self.requests = 0.0, 0.0, 0

    def push(self, *arguments: Any) -> Pushed:
        self.began, self.requests = time.monotonic(), 0
        try:
            pushed: Pushed = self._push(*arguments)
            return pushed
        finally:
            self.ended = time.monotonic()

    def send(self, *arguments: Any, **options: Any) -> Any:
        self.requests += 1
        return self._send(*arguments, **options)


class _Bench:
    def __init__(self, controller: Controller, outside: Outside) -> None:
        self.controller, self.outside = controller, outside
        servers = tuple(NewMember("127.0.0.1", outside.ports[name], name=name) for name in MEMBERS)
        listener = NewListener(
            protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool=NewPool(members=servers)
        )
        controller.create_load_balancer(NewLoadBalancer(name="bench", listeners=[listener])).wait(PATIENCE)
        lb = controller.load_balancer("bench")
        self.changed = next(m.id for m in lb.pools[0].members if m.name == "changed")
        reach = controller.reachable_at(lb, lb.listeners[0])
        assert reach is not None
        self.host, _, port = reach.rpartition(":")
        self.port = int(port)
        self.driver = _Watched(controller.world.amphora)

    def ask(self) -> str | None:
        return ask_quietly(self.host, self.port, timeout=3.0)

    def update(self, **values: Any) -> None:
        self.controller.update(Kind.MEMBER, self.changed, **values).wait(PATIENCE)

    def changes(self, rounds: int, *, idle: Mapping[str, Any], busy: Mapping[str, Any]) -> _Changes:
        """Times from the accepted wish to the first answer of a member that is called."""
        found = _Changes()
        for _ in range(rounds):
            self.update(**idle)
            self.outside.ask_until("always", self.host, self.port)
            self.outside.answered_at()
            self.outside.ask_until("changed", self.host, self.port)
            cpu, began = time.process_time(), time.monotonic()
            operation = self.controller.update(Kind.MEMBER, self.changed, **busy)
            accepted = time.monotonic()
            answered = self.outside.answered_at()
            operation.wait(PATIENCE)
            found.cpu += (time.process_time() - cpu) / rounds
            found.times.append(answered - accepted)
            found.accepting.append(accepted - began)
            found.waiting.append(self.driver.began - accepted)
            found.pushing.append(self.driver.ended - self.driver.began)
            found.requests.append(self.driver.requests)
        return found

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

    def deaths(self, count: int) -> Mapping[str, list[float]]:
        """The longest time between two answers when the amphora is gone at once; with and without a spare in turn."""
        gaps: dict[str, list[float]] = {"without a spare": [], "with a spare": []}
        lb = self.controller.load_balancer("bench").id
        for _, which in itertools.product(range(count), gaps):
            if which == "with a spare":
                self.controller.create_spare().wait(PATIENCE)
            (amphora,) = self.controller.amphorae(lb)
            deadline = time.monotonic() + PATIENCE
            with self.load() as results:
                while not any(results) and time.monotonic() < deadline:
                    time.sleep(0.01)
                bench_pair.kill_all_of(self.agent_pid(amphora.id))
                while not self.replaced(lb, amphora.id) and time.monotonic() < deadline:
                    time.sleep(0.01)
                while not self.ask() and time.monotonic() < deadline:
                    pass
            answered = sorted(result for result in results if result is not None)
            gaps[which].append(max((b - a for a, b in itertools.pairwise(answered)), default=0.0))
        return gaps

    def agent_pid(self, amphora_id: str) -> int:
        state = Path(self.controller.settings.state_directory)
        return int(json.loads((state / "amphorae" / amphora_id / "agent.json").read_text())["pid"])

    def replaced(self, lb: str, amphora_id: str) -> bool:
        """Nothing is left to do, and it is not there any more."""
        if self.controller.operations(open_only=True, limit=1):
            return False
        return [a.status for a in self.controller.amphorae(lb) if a.id != amphora_id] == [AmphoraStatus.ALLOCATED]

    def clean_up(self) -> None:
        """Leave nothing that runs."""
        for row in self.controller.load_balancers():
            self.controller.delete_load_balancer(row.id, wait=PATIENCE).wait(PATIENCE)
