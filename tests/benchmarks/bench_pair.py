"""Interruption of service with amphorae in namespaces: a pair and a single one, by what dies, and a failover of both.

A single one dies with its HAProxy, in turn while there is a spare and while there is none.

A client asks every 5 ms over a kept-alive connection, repeats once when that turns out closed, and waits at most a second
for an answer (a tenth of it where a single one dies). The interruption is the longest time between two answers. Needs
root (or a user namespace), keepalived and `octavia-core[namespaces]`. The time of a death that keepalived has to notice is three advertisements of
`[keepalived_vrrp] vrrp_advert_int` (1 second) and a little.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from octavia_core import NewLoadBalancer
from octavia_core.domain.amphora import Amphora
from tests.benchmarks.harness import Aim, Figure, Options, Report, spread
from tests.main_job.stage import PATIENCE, Stage, http, open_stage
from tests.namespaces.pair import Client, Pair, children_of, pair_on
from tests.namespaces.rig import SETTINGS, member_at

ROUNDS = 3
ANSWER = 0.1
"""Seconds that the client of a single amphora waits for an answer: nobody refuses for one that is gone, and a longer wait would
be all that is measured."""


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
    gaps: dict[str, list[float]] = {"without a spare": [], "with a spare": []}
    failures = dict.fromkeys(gaps, 0)
    with member_at("one") as one:
        lb = stage.create(NewLoadBalancer(listeners=(http(one, port=80),)))
        for number, which in itertools.product(range(rounds), gaps):
            if which == "with a spare":
                stage.controller.create_spare().wait(PATIENCE)
            (amphora,) = Pair(stage, lb).amphorae()
            with Client(str(lb.vip.ip_address), limit=ANSWER) as client:
                client.wait_for(50)
                kill_all_of(stage.agent_pid(amphora.id))
                client.wait_for(200)
            gaps[which].append(client.gap)
            failures[which] += len(client.failures)
            options.say(f"single, {which}, kill -9 of agent and HAProxy, {number + 1}: {client.gap * 1000:.0f} ms")
            Pair(stage, lb).healed(amphora.id, count=1)
    for which, found in gaps.items():
        note = f"{failures[which]} failed in {rounds} rounds"
        figures += spread(f"single, {which}: kill -9 of agent and HAProxy", found, note=note)


def kill_all_of(agent: int) -> None:
    """An amphora is gone at once: its agent, and whatever it has started."""
    doomed = [agent]
    for pid in doomed:
        doomed += children_of(pid)
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):  # it went with the one before
            os.kill(pid, signal.SIGKILL)
