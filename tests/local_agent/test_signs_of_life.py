"""Heartbeats are signs of life: they wait for nobody, say nothing that was not seen, and do not grow dear with members."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import pytest

from octavia_core.domain.amphora import AgentAddress
from octavia_core.errors import AmphoraUnreachable
from octavia_core.settings import Settings
from octavia_haproxy.transport import HttpRequest, Transport
from octavia_local.agent.balancer import Observation
from octavia_local.agent.beats import Beats, Eyes, Ledger
from octavia_local.agent.root import read_conf
from octavia_local.agent.runtime import StatRow
from tests.local_agent.rig import PATIENCE, Member, Rig, Server, config, members_of, until
from tests.support.haproxies import chosen


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """It runs meanwhile, and has ended afterwards."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def nothing_waits(rig: Rig) -> None:
    """What was sent before is read."""
    rig.beats.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            rig.beats.recv(65536)
    rig.beats.settimeout(PATIENCE)


@pytest.mark.slow
def test_a_haproxy_that_is_silent_is_late_first_and_then_not_reported(rig: Rig) -> None:
    with Member("one") as one:
        rig.push(config(rig, [Server("one", one.port)]))
        rig.heartbeat(lambda beat: members_of(beat) == {"one": "no check"})
        with standing_still(rig.haproxies()[0]):
            late = rig.heartbeat(lambda beat: beat.partial)
            assert (list(late.listeners), dict(late.pools)) == (["listener-1"], {})
            assert rig.heartbeat(lambda beat: not beat.listeners).partial
        rig.heartbeat(lambda beat: members_of(beat) == {"one": "no check"} and not beat.partial)


def test_a_change_that_takes_its_time_holds_up_neither_heartbeats_nor_the_question_whether_it_lives(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    gate, slow = tmp_path / "gate", tmp_path / "haproxy"
    slow.write_text(
        f'#!/bin/sh\ncase " $* " in *" -c "*) touch {gate}.reached; until [ -e {gate} ]; do sleep 0.02; done;; esac\n'
        f'exec {chosen().path} "$@"\n'
    )
    slow.chmod(0o700)
    gate.touch()
    rig = make_rig(local={"haproxy": str(slow)}).start()
    rig.push(config(rig, []))
    gate.unlink()
    Path(f"{gate}.reached").unlink()
    pem = tmp_path / "controller.pem", tmp_path / "agents.pem"
    pem[0].write_bytes(rig.authorities.controller)
    pem[1].write_bytes(rig.authorities.agents.cert_pem.bytes())
    settings = Settings()
    paths = attrs.evolve(settings.haproxy_amphora, client_cert=str(pem[0]), server_ca=str(pem[1]))
    transport = Transport(attrs.evolve(settings, haproxy_amphora=paths))
    at = AgentAddress(amphora_id=rig.amphora_id, host=rig.facts["host"], port=rig.facts["port"])
    changed = config(rig, [], frontend=["http-response set-header X-Changed yes"])
    path = f"/1.0/loadbalancer/{rig.amphora_id}/{rig.lb}/haproxy"
    ask = HttpRequest(method="GET", path="/1.0/info")

    with beside(lambda: transport.send(at, HttpRequest(method="PUT", path=path, body=changed.encode()))) as push:
        try:
            until(lambda: Path(f"{gate}.reached").exists(), "a check that takes its time")
            nothing_waits(rig)
            for _ in range(5):  # those of the thread that looks; where it is late, another one says a part meanwhile
                assert list(rig.heartbeat(lambda beat: not beat.partial).listeners) == ["listener-1"]
            assert transport.send(at, ask, beside=True).status == 200
            with pytest.raises(AmphoraUnreachable, match="busy with another request of this controller"):
                transport.send(at, ask, deadline=time.monotonic() + 0.05)
            assert push.is_alive()
        finally:
            gate.touch()
    transport.close()


ONE, TWO = "pool-1:l", "pool-2:l"


@attrs.define
class Amphora:
    """What is looked at: a listener with many members. A look at them costs CPU."""

    working: int = 100
    dear: float = 0.02
    held: threading.Event = attrs.field(factory=threading.Event)
    holds: threading.Event = attrs.field(factory=threading.Event)
    looks: list[bool] = attrs.field(factory=list)
    used: list[float] = attrs.field(factory=list)

    def look(self, members: bool) -> list[Observation] | None:
        self.looks.append(members)
        self.used.append(time.thread_time())
        while self.held.is_set():
            self.holds.set()
            time.sleep(0.01)
        rows = [self._listener(), StatRow("backend", ONE, "BACKEND", "UP", 1, {"act": self.working, "bck": 0})]
        if members:
            until_ = time.thread_time() + self.dear
            while time.thread_time() < until_:
                pass
            words = ["UP" if number < self.working else "DOWN" for number in range(100)]
            rows += [StatRow("server", ONE, f"m{number}", word, 1, {}) for number, word in enumerate(words)]
        return [Observation("lb", 1, tuple(rows), frozenset())]

    def known(self) -> list[Observation]:
        return [Observation("lb", 0, (self._listener(),), frozenset())]

    @staticmethod
    def _listener() -> StatRow:
        return StatRow(
            "frontend", "l", "FRONTEND", "OPEN", 0, dict.fromkeys(("scur", "stot", "bin", "bout", "ereq"), 0)
        )


@contextmanager
def beating(rig: Rig, amphora: Amphora, interval: float) -> Iterator[None]:
    """Heartbeats of that amphora come to the rig, whose own agent is not started."""
    conf = read_conf(rig.conf({("health_manager", "heartbeat_interval"): str(interval)}).encode())
    beats = Beats(conf, Eyes(amphora.look, amphora.known, lambda: None), Ledger())
    beats.start()
    try:
        yield
    finally:
        amphora.held.clear()
        beats.close()


def test_members_are_looked_at_for_a_tenth_of_the_time_and_what_changes_is_told(make_rig: Callable[..., Rig]) -> None:
    rig, amphora, began = make_rig(), Amphora(), time.monotonic()
    with beating(rig, amphora, 0.05):
        rig.heartbeat(lambda beat: len(members_of(beat)) == 100)
        beats = [rig.heartbeat() for _ in range(24)]
        assert all(list(beat.listeners) == ["l"] for beat in beats)
        assert all(beat.partial is not bool(members_of(beat)) for beat in beats)
        assert any(beat.partial for beat in beats)
        assert amphora.looks.count(True) <= 2 + (time.monotonic() - began) / (10 * amphora.dear)
        amphora.working = 99
        down = rig.heartbeat(lambda beat: members_of(beat).get("m99") == "DOWN")
        assert not down.partial


def test_few_members_are_in_every_heartbeat(make_rig: Callable[..., Rig]) -> None:
    rig, amphora = make_rig(), Amphora(dear=0.0)
    with beating(rig, amphora, 0.1):
        for _ in range(6):
            rig.heartbeat(lambda beat: len(members_of(beat)) == 100 and not beat.partial)
        costs = [after - before for before, after in itertools.pairwise(amphora.used)]
        pauses = sum(10 * cost for cost in costs if cost > 0.004)  # a machine that is busy makes looks dear
        assert amphora.looks.count(False) <= 2 + pauses / 0.1


def test_a_look_that_is_held_up_holds_up_no_heartbeat(make_rig: Callable[..., Rig]) -> None:
    rig, amphora = make_rig(), Amphora()
    with beating(rig, amphora, 0.05):
        rig.heartbeat(members_of)
        amphora.held.set()
        assert amphora.holds.wait(PATIENCE)
        nothing_waits(rig)
        beats = [rig.heartbeat() for _ in range(5)]
        assert [(list(beat.listeners), dict(beat.pools), beat.partial) for beat in beats] == [(["l"], {}, True)] * 5
        amphora.held.clear()
        rig.heartbeat(lambda beat: len(members_of(beat)) == 100)
