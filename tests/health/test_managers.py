"""Whole health managers: several on one database, and one that loses what it hears with."""

from __future__ import annotations

import logging
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from octavia_core.controller.governing import overview
from octavia_core.controller.health import HealthManager, bind_receiver
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.wall import Wall
from octavia_core.controller.health.write import Pace, Writer
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.heartbeat import Heartbeat, decode, encode
from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, ListenerProtocol, Operating, Provisioning
from octavia_core.errors import TransientError
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.compute import Death
from octavia_core.testing.outside import FaultKind
from tests.db.values import new_id
from tests.health.managing import KEY, settings_of, world_of
from tests.health.rig import until
from tests.support import servers
from tests.support.databases import copy_to, ready_on

MANY = pytest.param(1000, 100, marks=pytest.mark.slow)


@pytest.fixture
def mariadb() -> Iterator[str]:
    with ready_on(servers.server("mariadb")) as url:
        yield url


def amphorae(storage: SqlStorage, count: int) -> list[Amphora]:
    made = []
    for _ in range(count):
        listener = Listener(
            id=new_id(),
            protocol=ListenerProtocol.HTTP,
            protocol_port=80,
            provisioning_status=Provisioning.ACTIVE,
        )
        lb = LoadBalancer(id=new_id(), listeners=(listener,), provisioning_status=Provisioning.ACTIVE)
        id = new_id()
        made.append(Amphora(id=id, status=AmphoraStatus.ALLOCATED, load_balancer_id=lb.id, compute_id=new_id()))
        storage.transaction(lambda tx, lb=lb: (tx.insert(lb), tx.insert(made[-1])))  # type: ignore[misc]
    return made


@pytest.mark.external
@pytest.mark.parametrize(("dead", "alive"), [(15, 5), MANY])
def test_three_managers_that_see_the_same_deaths_start_one_failover_each(
    tmp_path: Path, mariadb: str, dead: int, alive: int
) -> None:
    settings = settings_of(tmp_path, mariadb)
    prepare(settings)
    storage = SqlStorage.open(settings)
    managers = []
    try:
        made = amphorae(storage, dead + alive)
        lost = made[:dead]
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            command = [sys.executable, "-m", "tests.health.managing", str(tmp_path / str(number)), mariadb]
            managers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for manager in managers:
            assert manager.stdout is not None
            assert manager.stdout.readline() == "ready\n"
        for manager in managers:  # all at once, each in an order of its own
            assert manager.stdin is not None
            random.shuffle(lost)
            manager.stdin.write(" ".join(str(each.compute_id) for each in lost) + "\n")
            manager.stdin.flush()
        for manager in managers:
            assert manager.stdout is not None
            assert manager.stdout.readline() == "done\n"
        stored = storage.read(lambda tx: tx.operations(limit=10_000))
        assert Counter(one.amphora_id for one in stored if one.flow == "failover") == Counter(a.id for a in lost)
    finally:
        for manager in managers:
            manager.communicate()
        storage.close()


def test_one_that_ends_leaves_no_row_behind_that_somebody_would_count_on(tmp_path: Path) -> None:
    here = Managed(tmp_path, heartbeat_timeout=30.0, health_check_interval=0.1)
    try:
        here.beat()
        until(lambda: len(here.storage.read(lambda tx: tx.observers())) == 1)
        assert overview(here.storage, here.settings).observers == 1
        here.health.stop()
        assert here.storage.read(lambda tx: tx.observers()) == []
    finally:
        here.close()


class Managed:
    """A health manager in this process, on SQLite."""

    def __init__(
        self, folder: Path, worker: Mapping[str, object] | None = None, *, processes: int = 0, **health: object
    ) -> None:
        self.settings = settings_of(folder, copy_to(folder / "octavia.db"), worker, **health)
        self.storage = SqlStorage.open(self.settings)
        self.amphorae = amphorae(self.storage, 6)
        self.bound = bind_receiver(self.settings)
        self.port = int(self.bound.getsockname()[1])
        world, self.cloud = world_of(self.settings)
        self.sequence = 0
        self._known: dict[str, list[str]] = {}
        try:
            self.health = HealthManager(
                self.storage, self.settings, world, self.bound, lambda: None, processes=processes
            )
            self.health.start()
        except BaseException:  # whatever it was, nothing of it may stay open
            self.bound.close()
            self.cloud.close()
            self.storage.close()
            raise

    def listeners(self) -> list[str]:
        """One of each load balancer."""
        trees = [self.storage.read(lambda tx, of=each: tx.tree(str(of.load_balancer_id))) for each in self.amphorae]  # type: ignore[misc]
        return [tree.listeners[0].id for tree in trees if tree is not None]

    def _listeners(self, amphora: Amphora) -> list[str]:
        if amphora.id not in self._known:
            tree = self.storage.read(lambda tx: tx.tree(str(amphora.load_balancer_id)))
            assert tree is not None
            self._known[amphora.id] = [one.id for one in tree.listeners]
        return self._known[amphora.id]

    def datagrams(self) -> list[bytes]:
        """One heartbeat of everybody."""
        self.sequence += 1
        found = []
        for each in self.amphorae:
            stats = {"tx": 0, "rx": 1, "conns": 0, "totconns": 1, "ereq": 0}
            listeners = {one: {"status": "OPEN", "stats": stats} for one in self._listeners(each)}
            document = {"id": each.id, "seq": self.sequence, "listeners": listeners, "pools": {}, "ver": 3}
            found.append(encode(document, KEY))
        return found

    def beat(self) -> None:
        """Everybody sends one."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for each in self.datagrams():
                sender.sendto(each, ("127.0.0.1", self.port))

    def failovers(self) -> int:
        return sum(one.flow == "failover" for one in self.storage.read(lambda tx: tx.operations(limit=100)))

    def close(self) -> None:
        self.health.stop()
        self.cloud.close()
        self.storage.close()


def steal(thief: socket.socket, here: Managed) -> None:
    """Close the socket that it hears with, and be quicker at the port than it is."""
    for _ in range(20):
        hearing: Any = here.health._hearing
        hearing._receiver.close()
        for _ in range(200_000):
            try:
                thief.bind(("127.0.0.1", here.port))
            except OSError:
                continue
            return
    raise AssertionError("the port could not be had")


def test_a_socket_that_is_lost_with_its_port_is_said_and_nobody_is_judged_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "octavia_core.health")
    here = Managed(tmp_path, heartbeat_timeout=0.6, health_check_interval=0.1, heartbeat_interval=0.2)
    try:
        here.beat()
        until(lambda: here.health.counters["accepted"] == 6)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            steal(thief, here)
            until(lambda: "the heartbeat socket failed" in caplog.text)
            until(lambda: f"cannot be received on 127.0.0.1 port {here.port}" in caplog.text)
            looked = here.health._last_check
            until(lambda: here.health._last_check > looked + 1.5)  # longer than the timeout: all would be silent
            assert here.failovers() == 0
        until(lambda: "heartbeats are received again" in caplog.text)
        until(lambda: (here.beat(), here.health.counters["accepted"] >= 12)[1])  # type: ignore[func-returns-value]
        assert here.failovers() == 0
    finally:
        here.close()


def test_a_process_that_hears_for_it_and_is_killed_is_replaced_and_nobody_is_judged_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import os
    import signal

    caplog.set_level(logging.WARNING, "octavia_core.health")
    here = Managed(tmp_path, processes=1, heartbeat_timeout=60.0)
    try:
        here.beat()
        until(lambda: here.health.counters["accepted"] == 6)
        for pid in here.health.pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: "nobody is judged until its successor hears" in caplog.text)
        here.beat()
        until(lambda: here.health.counters["accepted"] == 12)
        until(lambda: here.health._ears.since > 0)
        assert here.failovers() == 0
    finally:
        here.close()


@pytest.mark.parametrize("seconds", [2.0, pytest.param(120.0, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
def test_far_more_than_can_be_read_is_seen_to_be_dropped_and_nobody_who_sends_is_failed_over(
    tmp_path: Path, seconds: float
) -> None:
    here = Managed(
        tmp_path,
        processes=1,
        heartbeat_timeout=1.0,
        health_check_interval=0.1,
        heartbeat_interval=0.2,
        sock_rlimit=4096,
    )
    here.cloud.fail("amphora.info", kind=FaultKind.UNREACHABLE, times=1_000_000)
    try:
        here.beat()
        until(lambda: here.health.counters["accepted"] == 6)
        turns = [here.datagrams() for _ in range(1000)]
        sent, end = 0, time.monotonic() + seconds
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", here.port))
            while time.monotonic() < end:
                for datagram in turns[sent % len(turns)]:
                    sender.send(datagram)
                sent += 1
            for datagram in here.datagrams():
                sender.send(datagram)
            assert here.failovers() == 0
            until(lambda: here.health.counters["dropped"] > 0)
        assert len(here.health._memory._known) == 6, "one entry each, whatever comes in"
        assert here.health.counters["accepted"] <= 6 * (sent + 2)
    finally:
        here.close()


def test_one_that_starts_while_its_database_is_away_judges_nobody_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(once: object) -> None:
        raise TransientError("the database does not answer")

    here = Managed(tmp_path, heartbeat_interval=0.2)
    world, cloud = world_of(here.settings)
    late = HealthManager(here.storage, here.settings, world, bind_receiver(here.settings), lambda: None)
    try:
        monkeypatch.setattr(here.storage, "_run", away)
        late.start()
        assert late._ears.since == 0
        late.died(Death(server_id=str(here.amphorae[0].compute_id), at=0.0, evidence="process 7 ended"))
        monkeypatch.undo()
        until(lambda: late._ears.since > 0)
        until(lambda: here.failovers() == 1)
    finally:
        late.stop()
        cloud.close()
        here.close()


def report(tree: LoadBalancer, amphora: Amphora, seq: int, word: str) -> Heartbeat:
    listeners = {each.id: {"status": word, "stats": {"rx": 1}} for each in tree.listeners}
    document = {"id": amphora.id, "seq": seq, "ver": 3, "listeners": listeners, "pools": {}}
    return decode(encode(document, KEY), [KEY])


def test_two_receivers_that_hear_one_amphora_in_turn_end_as_its_newest_report_says(tmp_path: Path) -> None:
    here = Managed(tmp_path)
    try:
        amphora = here.amphorae[0]
        clock = SystemClock()
        tree = here.storage.read(lambda tx: tx.tree(str(amphora.load_balancer_id)))
        assert tree is not None
        hosts = []
        for name in ("one", "two"):
            memory = Memory(reapply=0.0)
            hosts.append(
                (memory, Writer(here.storage, memory, Wall(here.storage, clock), name, Pace(traffic=0.0, reread=0.0)))
            )
        said = []
        for seq in range(24):  # each host hears every second one; the words change between, and at last they stay
            memory, writer = hosts[seq % 2]
            word = "FULL" if seq < 20 and seq % 3 else "OPEN"
            memory.keep([report(tree, amphora, seq, word)], clock.monotonic())
            writer.flush(clock)
            writer.count()
            row = here.storage.read(lambda tx: tx.tree(tree.id))
            assert row is not None
            said.append((row.listeners[0].operating_status, word))
        assert {status for status, word in said if word == "OPEN"} == {Operating.ONLINE}
        assert {status for status, word in said if word == "FULL"} == {Operating.DEGRADED}
        traffic = here.storage.look(lambda tx: tx.value(_bytes_in()))
        assert traffic == 24, "each heartbeat counts once, whoever heard it"
    finally:
        here.close()


def test_an_agent_that_restarts_and_a_receiver_that_is_killed_leave_the_newest_report_in_the_rows(
    tmp_path: Path,
) -> None:
    here = Managed(tmp_path)
    try:
        amphora, clock = here.amphorae[0], SystemClock()
        tree = here.storage.read(lambda tx: tx.tree(str(amphora.load_balancer_id)))
        assert tree is not None

        def receiver(name: str) -> tuple[Memory, Writer]:
            memory = Memory(reapply=0.0, trial=0.0)
            return memory, Writer(here.storage, memory, Wall(here.storage, clock), name, Pace(traffic=0.0, reread=0.0))

        def row() -> Operating:
            found = here.storage.read(lambda tx: tx.tree(tree.id))
            assert found is not None
            return found.listeners[0].operating_status

        one, two = receiver("one"), receiver("two")

        def say(to: tuple[Memory, Writer], seq: int, word: str) -> None:
            to[0].keep([report(tree, amphora, seq, word)], clock.monotonic())
            to[1].flush(clock)
            to[1].count()

        for seq in range(100, 106):  # opposite views, and each has heard its own
            say(one if seq % 2 else two, seq, "FULL" if seq % 2 else "OPEN")
        say(one, 0, "FULL")  # the agent began anew, and counts from nothing
        assert row() is Operating.DEGRADED
        say(two, 1, "OPEN")
        assert row() is Operating.ONLINE
        one[0].keep([report(tree, amphora, 2, "FULL")], clock.monotonic())  # heard, and killed before it was written
        say(two, 3, "OPEN")
        assert row() is Operating.ONLINE
        again = receiver("one again")
        say(again, 4, "FULL")
        assert row() is Operating.DEGRADED
        say(two, 5, "OPEN")
        assert row() is Operating.ONLINE, "though it says nothing that this receiver has not heard before"
        assert here.storage.look(lambda tx: tx.value(_bytes_in())) == 11, "each that was written counts once"
    finally:
        here.close()


def _bytes_in() -> object:
    from sqlalchemy import func, select

    from octavia_core.db.tables.listener import listener_statistics

    return select(func.sum(listener_statistics.c.bytes_in))


def test_amphorae_are_judged_again_after_a_blip_though_their_traffic_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(batch: object) -> None:
        raise ValueError("traffic that nobody can write")

    here = Managed(tmp_path, heartbeat_timeout=1.0, heartbeat_interval=0.2, health_check_interval=0.1)
    try:
        run = here.storage._run
        monkeypatch.setattr(here.health._statistics, "store", never)
        until(lambda: (here.beat(), here.health._ears.since > 0)[1])  # type: ignore[func-returns-value]

        def away(once: object) -> None:
            raise TransientError("the database does not answer")

        monkeypatch.setattr(here.storage, "_run", away)
        until(lambda: (here.beat(), here.health._ears.since == 0)[1])  # type: ignore[func-returns-value]
        monkeypatch.setattr(here.storage, "_run", run)
        until(lambda: (here.beat(), here.health._ears.since > 0)[1])  # type: ignore[func-returns-value]
    finally:
        monkeypatch.undo()
        here.close()
