"""Changes of a large load balancer: 30 listeners, 30 pools, 3,000 members; CPU of controller, agent and HAProxy, time to the end.

`--rounds` is the number of changes of each kind (5). CPU is what the processes take from the acceptance until a third of a second
after the end, heartbeats and reloads with them; a process that was replaced counts when it has ended. Time is of the wall, until the
operation is over: on a busy machine it says nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from octavia_core import Controller, NewHealthMonitor, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.controller.handle import Operation
from octavia_core.controller.state import prepare_state
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, MonitorType
from tests.benchmarks.harness import Figure, Options, Report

POOLS, MEMBERS = 30, 100
PATIENCE = 300.0
CALM, SETTLED = 15.0, 0.3
"""Seconds until the monitors have seen all members once, and after each change."""
_TICK = os.sysconf("SC_CLK_TCK")


def run(options: Options) -> Report:
    """Change members in five ways."""
    rounds = options.rounds or 5
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavia-bench-"))) / "state"
        prepare_state(state)
        toml = state / "octavia.toml"  # this is about changes: a machine that is busy with them replaces nobody
        toml.write_text(toml.read_text().replace("[health_manager]", "[health_manager]\nheartbeat_timeout = 60"))
        bench = _Bench(stack.enter_context(Controller.open(state)))
        try:
            for what, change in bench.changes().items():
                figures += bench.measured(what, change, rounds)
                options.say(f"{what}: {rounds} times")
        finally:
            bench.controller.delete_load_balancer(bench.lb.id, wait=PATIENCE).wait(PATIENCE)
    return Report(name="large", figures=figures, aims=[])


@attrs.frozen
class _Spent:
    """Seconds of CPU of the controller, the agent, and the HAProxies under it."""

    controller: float
    agent: float
    haproxy: float

    def since(self, before: _Spent) -> _Spent:
        return _Spent(*(now - then for now, then in zip(attrs.astuple(self), attrs.astuple(before), strict=True)))


class _Bench:
    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        listeners = [_listener(number) for number in range(POOLS)]
        controller.create_load_balancer(NewLoadBalancer(name="large", listeners=listeners)).wait(PATIENCE)
        self.lb = controller.load_balancer("large")
        (amphora,) = controller.amphorae(self.lb.id)
        home = Path(controller.settings.state_directory) / "amphorae" / amphora.id
        self.agent = int(json.loads((home / "agent.json").read_text())["pid"])
        time.sleep(CALM)

    def changes(self) -> Mapping[str, Callable[[int], Operation | None]]:
        """What is changed, by what it is called."""
        first, second, third, fourth = self.lb.pools[:4]
        update, member = self.controller.update, first.members[-1]

        def weigh(number: int) -> Operation | None:
            wishes = [NewMember(m.address, m.protocol_port, weight=number + 2) for m in fourth.members]
            return self.controller.set_members(fourth.id, wishes, wait=PATIENCE)

        return {
            "a weight": lambda n: update(Kind.MEMBER, member.id, weight=n + 2, wait=PATIENCE),
            "a member more": lambda n: self.controller.create_member(
                second.id, NewMember(f"127.9.9.{n + 1}", 80), wait=PATIENCE
            ),
            "a member less": lambda n: self.controller.delete(Kind.MEMBER, third.members[n].id, wait=PATIENCE),
            "a hundred weights": weigh,
            "with a reload": lambda n: update(Kind.MEMBER, member.id, backup=n % 2 == 0, wait=PATIENCE),
        }

    def measured(self, what: str, change: Callable[[int], Operation | None], rounds: int) -> list[Figure]:
        """Medians of so many."""
        spent, times = list[_Spent](), list[float]()
        for number in range(rounds):
            before, began = self.spent(), time.monotonic()
            operation = change(number)
            if operation is not None:
                operation.wait(PATIENCE)
            times.append(time.monotonic() - began)
            time.sleep(SETTLED)
            spent.append(self.spent().since(before))
        return [
            Figure(f"{what}: to the end", statistics.median(times)),
            *(
                Figure(f"{what}: CPU of {whose}", statistics.median(getattr(each, name) for each in spent))
                for whose, name in (("the controller", "controller"), ("the agent", "agent"), ("HAProxy", "haproxy"))
            ),
        ]

    def spent(self) -> _Spent:
        """Until now; ended HAProxies count as those that run."""
        agent, ended, _ = _times(self.agent)
        running = sum(
            _times(int(entry))[0] for entry in os.listdir("/proc") if entry.isdigit() and self.is_child(entry)
        )
        return _Spent(time.process_time(), agent, ended + running)

    def is_child(self, entry: str) -> bool:
        try:
            return _times(int(entry))[2] == self.agent
        except OSError:  # it has ended
            return False


def _listener(number: int) -> NewListener:
    members = tuple(NewMember(f"127.1.{number}.{index + 1}", 9) for index in range(MEMBERS))
    monitor = NewHealthMonitor(type=MonitorType.TCP, delay=5, timeout=3)
    pool = NewPool(members=members, health_monitor=monitor)
    return NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8100 + number, default_pool=pool)


def _times(pid: int) -> tuple[float, float, int]:
    """Seconds of CPU of a process and of its children that have ended, and its parent (proc(5), /proc/pid/stat)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    own, ended = (sum(map(int, fields[place : place + 2])) / _TICK for place in (11, 13))
    return own, ended, int(fields[1])
