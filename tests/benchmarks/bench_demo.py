"""One machine without a cloud: creation, updates, failovers and memory, on real HAProxy under real traffic."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from octavia_core import Controller, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, ListenerProtocol, Provisioning
from tests.benchmarks.harness import Aim, Figure, Options, Report, spread
from tests.support.members import ask_quietly, member

PATIENCE = 60.0


def run(options: Options) -> Report:
    """All of it, on one controller of this process; memory in processes of their own."""
    rounds = options.rounds or 20
    series: dict[str, list[float]] = {}
    counts: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavia-bench-"))) / "state"
        servers = [stack.enter_context(member(f"member-{n}")) for n in range(3)]
        controller = stack.enter_context(Controller.open(state))
        bench = _Bench(controller, state, servers, rounds, options.say)
        try:
            series["create to first answered request"] = bench.creations()
            bench.create("traffic", servers[:2])
            series |= bench.member_changes()
            counts["failed requests in 100 updates under load"], counts["requests in that time"] = bench.updates(100)
            series["HAProxy killed to served again"], counts["refused during HAProxy kills"] = bench.haproxy_kills()
            series["amphora killed: seen after"], series["amphora killed to served again"] = bench.amphora_kills()
            series["agent frozen, HAProxy dead: to served again"] = bench.frozen(max(3, rounds // 4))
            counts["one idle amphora, PSS"] = bench.amphora_memory()
        finally:
            bench.clean_up()
        health = controller.settings.health_manager
    counts["controller, PSS"] = _controller_memory(options.say)
    figures = [figure for name, values in series.items() for figure in spread(name, values)]
    figures += [Figure(name, value, "MB" if "PSS" in name else "") for name, value in counts.items()]
    median = {name: statistics.median(values) for name, values in series.items()}
    frozen_aim = health.heartbeat_timeout + health.health_check_interval + 0.7
    aims = [
        Aim("create to first answered request", median["create to first answered request"], 1.2),
        *(Aim(name, median[name], 0.1) for name in median if name.startswith("member ")),
        Aim("failed requests in 100 updates under load", counts["failed requests in 100 updates under load"], 0, ""),
        Aim("HAProxy killed to served again", median["HAProxy killed to served again"], 0.05),
        Aim("refused during HAProxy kills", counts["refused during HAProxy kills"], 0, ""),
        Aim("amphora killed to served again", median["amphora killed to served again"], 0.7),
        Aim(
            "agent frozen, HAProxy dead: to served again",
            median["agent frozen, HAProxy dead: to served again"],
            frozen_aim,
        ),
        Aim("controller, PSS", counts["controller, PSS"], 120, "MB"),
        Aim("one idle amphora, PSS", counts["one idle amphora, PSS"], 60, "MB"),
    ]
    return Report(name="demo", figures=figures, aims=aims)


class _Bench:
    def __init__(
        self, controller: Controller, state: Path, servers: list[NewMember], rounds: int, say: Callable[[str], None]
    ) -> None:
        self.controller, self.state, self.servers, self.rounds, self.say = controller, state, servers, rounds, say
        self.host, self.port = "", 0

    def create(self, name: str, members: list[NewMember]) -> float:
        began = time.monotonic()
        listener = NewListener(
            protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool=NewPool(members=tuple(members))
        )
        operation = self.controller.create_load_balancer(NewLoadBalancer(name=name, listeners=[listener]))
        operation.wait(PATIENCE)
        lb = self.controller.load_balancer(name)
        reach = self.controller.reachable_at(lb, lb.listeners[0])
        assert reach is not None
        self.host, self.port = reach.rsplit(":", 1)[0], int(reach.rsplit(":", 1)[1])
        self.until_served()
        return time.monotonic() - began

    def until_served(self, wanted: str | None = None) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            body = ask_quietly(self.host, self.port, timeout=2.0)
            if body is not None and wanted in (None, body):
                return
            if body is None:
                time.sleep(0.002)
        raise RuntimeError("nothing was served in time")

    def settled(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            alive = [a for a in self.controller.amphorae() if a.status is AmphoraStatus.ALLOCATED]
            if alive and all(
                row.provisioning_status is Provisioning.ACTIVE for row in self.controller.load_balancers()
            ):
                return
            time.sleep(0.01)
        raise RuntimeError("the load balancer did not settle in time")

    def creations(self) -> list[float]:
        times = []
        for n in range(max(5, self.rounds // 2)):
            times.append(self.create(f"create-{n}", self.servers[:1]))
            self.controller.delete_load_balancer(self.controller.resolve(Kind.LOAD_BALANCER, f"create-{n}")).wait(
                PATIENCE
            )
        self.say(f"created and deleted {len(times)} load balancers")
        return times

    def member_changes(self) -> dict[str, list[float]]:
        pool = self.controller.load_balancer("traffic").pools[0].id
        extra = self.servers[2]
        series: dict[str, list[float]] = {"member added": [], "member reweighted": [], "member removed": []}
        for _ in range(self.rounds):
            began = time.monotonic()
            operation = self.controller.create_member(pool, extra)
            self.until_served(extra.name)
            series["member added"].append(time.monotonic() - began)
            operation.wait(PATIENCE)
            began = time.monotonic()
            self.controller.update(Kind.MEMBER, operation.subject_id, weight=0).wait(PATIENCE)
            series["member reweighted"].append(time.monotonic() - began)
            if extra.name in {ask_quietly(self.host, self.port) for _ in range(6)}:
                raise RuntimeError("a member of weight 0 was still given requests")
            began = time.monotonic()
            self.controller.delete(Kind.MEMBER, operation.subject_id).wait(PATIENCE)
            series["member removed"].append(time.monotonic() - began)
        self.say(f"added, reweighted and removed a member {self.rounds} times")
        return series

    @contextlib.contextmanager
    def load(self, threads: int = 2) -> Iterator[list[float | None]]:
        """Requests over new connections from some threads; a list of times of success, None for each failure."""
        stop, results = threading.Event(), list[float | None]()

        def client() -> None:
            while not stop.is_set():
                body = ask_quietly(self.host, self.port, timeout=3.0)
                results.append(time.monotonic() if body else None)
                stop.wait(0.002)

        clients = [threading.Thread(target=client) for _ in range(threads)]
        for thread in clients:
            thread.start()
        try:
            yield results
        finally:
            stop.set()
            for thread in clients:
                thread.join()

    def updates(self, count: int) -> tuple[float, float]:
        first = self.controller.load_balancer("traffic").pools[0].members[0].id
        listener = self.controller.load_balancer("traffic").listeners[0].id
        with self.load() as results:
            for n in range(count):
                if n % 2:
                    operation = self.controller.update(Kind.LISTENER, listener, connection_limit=1000 + n)
                else:
                    operation = self.controller.update(Kind.MEMBER, first, weight=1 + n % 10)
                operation.wait(PATIENCE)
        self.say(f"{count} updates under {len(results)} requests")
        return float(sum(r is None for r in results)), float(len(results))

    def _amphora(self) -> tuple[str, int]:
        alive = [a for a in self.controller.amphorae() if a.status is AmphoraStatus.ALLOCATED]
        path = self.state / "amphorae" / alive[0].id / "agent.json"
        return alive[0].id, int(json.loads(path.read_text())["pid"])

    def haproxy_kills(self) -> tuple[list[float], float]:
        times, refused = [], 0
        for _ in range(self.rounds):
            _, agent = self._amphora()
            (haproxy,) = _children(agent)
            os.kill(haproxy, signal.SIGKILL)
            began = time.monotonic()
            while ask_quietly(self.host, self.port, timeout=2.0) is None:
                refused += 1
            times.append(time.monotonic() - began)
            time.sleep(0.1)
        self.say(f"killed HAProxy {self.rounds} times")
        return times, float(refused)

    def amphora_kills(self) -> tuple[list[float], list[float]]:
        seen, served = [], []
        for _ in range(self.rounds):
            self.settled()
            amphora, agent = self._amphora()
            after = max((e.sequence for e in self.controller.events(limit=100_000)), default=0)
            os.kill(agent, signal.SIGKILL)
            began, wall = time.monotonic(), time.time()
            while _alive_children(agent):
                time.sleep(0.0005)
            self.until_served()
            served.append(time.monotonic() - began)
            lost = [
                e for e in self.controller.events(after=after) if e.name == "amphora.lost" and e.amphora_id == amphora
            ]
            seen.append(max(0.0, lost[0].at / 1_000_000 - wall))
        self.settled()
        self.say(f"killed the whole amphora {self.rounds} times")
        return seen, served

    def frozen(self, rounds: int) -> list[float]:
        times = []
        for _ in range(rounds):
            self.settled()
            time.sleep(self.controller.settings.health_manager.heartbeat_interval * 2)
            _, agent = self._amphora()
            (haproxy,) = _children(agent)
            os.kill(agent, signal.SIGSTOP)
            os.kill(haproxy, signal.SIGKILL)
            began = time.monotonic()
            deadline = began + PATIENCE
            while ask_quietly(self.host, self.port, timeout=0.2) is None and time.monotonic() < deadline:
                pass
            times.append(time.monotonic() - began)
        self.settled()
        self.say(f"froze the agent {rounds} times")
        return times

    def amphora_memory(self) -> float:
        time.sleep(1.0)
        _, agent = self._amphora()
        return sum(_pss(pid) for pid in (agent, *_children(agent)))

    def clean_up(self) -> None:
        for row in self.controller.load_balancers():
            self.controller.delete_load_balancer(row.id, wait=PATIENCE).wait(PATIENCE)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _alive_children(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


_CHILD = """
import sys, time
from octavia_core import *
from octavia_core.domain.vocabulary import Kind, ListenerProtocol
with Controller.open(sys.argv[1]) as controller:
    wish = NewLoadBalancer(name="memory", listeners=[NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8080,
        default_pool=NewPool(members=[NewMember("127.0.0.1", 9)]))])
    controller.create_load_balancer(wish).wait(60)
    time.sleep(1.0)
    print(next(l.split()[1] for l in open("/proc/self/smaps_rollup") if l.startswith("Pss:")), flush=True)
    controller.delete_load_balancer(controller.resolve(Kind.LOAD_BALANCER, "memory")).wait(60)
"""


def _controller_memory(say: Callable[[str], None]) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="octavia-bench-") as directory:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, f"{directory}/state"],
            capture_output=True, text=True, timeout=180, check=True, env=environment,
        )  # fmt: skip
    say("measured the memory of a controller")
    return int(done.stdout.split()[0]) / 1024
