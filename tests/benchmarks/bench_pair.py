"""Interruption of service with amphorae in namespaces: a pair and a single one, by what dies, and a failover of both.

A client asks every 5 ms over a kept-alive connection, repeats once when that turns out closed, and waits at most a second
for an answer. The interruption is the longest time between two answers. Needs root (or a user namespace), keepalived and
`octavia-core[namespaces]`. The time of a death that keepalived has to notice is three advertisements of
`[keepalived_vrrp] vrrp_advert_int` (1 second) and a little.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from octavia_core import NewLoadBalancer
from octavia_core.domain.amphora import Amphora
from tests.benchmarks.harness import Aim, Figure, Options, Report
from tests.main_job.stage import PATIENCE, Stage, http, open_stage
from tests.namespaces.pair import Client, Pair, pair_on
from tests.namespaces.rig import SETTINGS, member_at

ROUNDS = 3


def run(options: Options) -> Report:
    """Each death and each failover so many times."""
    rounds = options.rounds or ROUNDS
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="octavia-bench-") as folder:
        with open_stage(Path(folder, "pair"), SETTINGS) as stage, pair_on(stage) as pair:
            failed = _pair(pair, rounds, figures, options)
        with open_stage(Path(folder, "single"), SETTINGS) as stage:
            _single(stage, rounds, figures, options)
    return Report(name="pair", figures=figures, aims=[Aim("requests lost by failovers of both", failed, 0, "")])


def _pair(pair: Pair, rounds: int, figures: list[Figure], options: Options) -> int:
    def kill(program: str) -> Callable[[Amphora], None]:
        return lambda master: os.kill(pair.child(master, program), signal.SIGKILL)

    def kill_agent(master: Amphora) -> None:
        os.kill(pair.agent(master), signal.SIGKILL)

    def replace(_: Amphora) -> None:
        pair.stage.controller.failover_load_balancer(pair.lb.id).wait(PATIENCE)

    lost = 0
    for what, act in (
        ("kill -9 of the master's HAProxy", kill("haproxy")),
        ("kill -9 of the master's keepalived", kill("keepalived")),
        ("kill -9 of the master's agent", kill_agent),
        ("failover of both", replace),
    ):
        gaps, failures = [], 0
        for number in range(rounds):
            before = pair.settled()
            with Client(pair.vip) as client:
                client.wait_for(50)
                act(before)
                client.wait_for(200)
            gaps.append(client.gap)
            failures += len(client.failures)
            options.say(f"{what}, {number + 1}: {client.gap * 1000:.0f} ms, {len(client.failures)} failed")
            pair.healed(*([before.id] if act is kill_agent else []))
        figures.append(Figure(f"pair: {what}", statistics.median(gaps), "s", f"{failures} failed in {rounds} rounds"))
        lost = failures
    return lost


def _single(stage: Stage, rounds: int, figures: list[Figure], options: Options) -> None:
    with member_at("one") as one:
        lb = stage.create(NewLoadBalancer(listeners=(http(one, port=80),)))
        gaps, failures = [], 0
        for number in range(rounds):
            (amphora,) = Pair(stage, lb).amphorae()
            with Client(str(lb.vip.ip_address)) as client:
                client.wait_for(50)
                os.kill(stage.agent_pid(amphora.id), signal.SIGKILL)
                client.wait_for(200)
            gaps.append(client.gap)
            failures += len(client.failures)
            options.say(f"single, kill -9 of the agent, {number + 1}: {client.gap * 1000:.0f} ms")
            Pair(stage, lb).healed(amphora.id, count=1)
        name = "single: kill -9 of the agent"
        figures.append(Figure(name, statistics.median(gaps), "s", f"{failures} failed in {rounds} rounds"))
