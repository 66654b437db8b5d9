"""Heartbeats: how many a health manager applies on each database, and what each costs.

Amphorae of two listeners and one pool with five members each send pre-signed datagrams over loopback to the product's own
receiver, memory and writer in a process of their own. The rate is raised step by step; a step is held when at least
99 % of what was sent is applied (nothing may be dropped), and the rows lag at most two seconds behind at its end.

Further words: databases (`sqlite`, `mariadb`, `postgresql`; default all that are here), `amphorae=1000,10000`, `seconds=10`
(of one step), `rates=1000,2500,5000,10000` (datagrams per second).

Lag is from the reading of a batch to its being in the state that decisions are made from: verified, parsed and kept. The sender's CPU is not counted. Sizes and rates are those of a machine that does both.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import attrs

from tests.benchmarks.harness import Aim, Figure, Options, Report

KEY = "bench-heartbeat-key"
MEMBERS, LISTENERS = 5, 2


@attrs.frozen
class Step:
    """One rate on one database.

    Attributes:
        sent: datagrams; `applied` of them reached memory, and `lag` is how far the rows were behind at the end.
        p99: seconds from reading to memory.
        cpu: seconds of the receiving process, by thread name.
    """

    rate: int
    sent: int
    applied: int
    dropped: int
    p99: float
    lag: float
    cpu: dict[str, float]
    statements: int
    memory: float

    @property
    def held(self) -> bool:
        """Whether the rate was sustained."""
        return self.applied >= 0.99 * self.sent and not self.dropped and self.lag <= 2.0


def run(options: Options) -> Report:
    """All databases, all sizes, rates upwards until one is not held."""
    words = dict(word.split("=", 1) for word in options.rest if "=" in word)
    kinds = [word for word in options.rest if "=" not in word] or ["sqlite", "mariadb", "postgresql"]
    sizes = [int(n) for n in words.get("amphorae", "1000,10000").split(",")]
    rates = [int(n) for n in words.get("rates", "1000,2500,5000,7500,10000").split(",")]
    seconds = float(words.get("seconds", "10"))
    figures: list[Figure] = []
    aims: list[Aim] = []
    details: dict[str, Any] = {}
    for kind in kinds:
        with _database(kind) as url:
            for size in sizes:
                steps, stale = _measure(url, size, rates, seconds, options)
                details[f"{kind}, {size}"] = [attrs.asdict(step) for step in steps]
                figures += _figures(f"{kind}, {size:,} amphorae", steps, stale)
                held = [step for step in steps if step.held]
                if held and kind != "sqlite":
                    each = held[-1].statements / held[-1].applied
                    aims.append(Aim(f"{kind}, {size:,}: statements per heartbeat", each, 0.02, ""))
                    aims.append(Aim(f"{kind}, {size:,}: lag p99", held[-1].p99, 1.0))
    return Report(name="heartbeats", figures=figures, aims=aims, details=details)


def _figures(name: str, steps: Sequence[Step], stale: Sequence[float]) -> Iterator[Figure]:
    held = [step for step in steps if step.held]
    best = held[-1] if held else steps[0]
    yield Figure(f"{name}: highest rate held", best.rate if held else 0, "/s", f"of {steps[-1].rate:,} tried")
    yield Figure("  lag p99, read to decision state", best.p99)
    yield Figure("  rows behind memory at the end", best.lag)
    cpu = sum(best.cpu.values())
    parts = ", ".join(f"{part} {spent / best.applied * 1e6:.0f}" for part, spent in sorted(best.cpu.items()) if spent)
    yield Figure("  CPU per heartbeat", cpu / best.applied * 1e6, "us", parts)
    yield Figure("  statements per heartbeat", best.statements / best.applied, "")
    yield Figure("  memory, PSS", best.memory, "MB")
    yield Figure("  look with 10 silent, median", statistics.median(stale), "s", f"largest {max(stale) * 1000:.0f} ms")


@contextlib.contextmanager
def _database(kind: str) -> Iterator[str]:
    from tests.support import servers

    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="octavia-bench-") as folder:
            yield f"sqlite:///{folder}/octavia.db"
        return
    home = servers.open_run()
    try:
        with servers.server(kind).new_database() as url:
            yield url
    finally:
        servers.close_run(home)


def _measure(
    url: str, size: int, rates: Sequence[int], seconds: float, options: Options
) -> tuple[list[Step], list[float]]:
    ids = _rows(url, size)
    options.say(f"{url.split(':', maxsplit=1)[0]}: rows of {size:,} amphorae are there")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    receiver = context.Process(target=_receive, args=(url, theirs), daemon=True)
    receiver.start()
    try:
        port = ours.recv()
        datagrams = [_datagram(each) for each in ids]
        _send(port, datagrams, min(rates[0], 1000), size / min(rates[0], 1000))  # everybody once: statuses settle
        ours.send("settle")
        ours.recv()
        steps: list[Step] = []
        for rate in rates:
            ours.send("begin")
            ours.recv()
            sent = _send(port, datagrams, rate, seconds)
            ours.send("end")
            steps.append(Step(rate=rate, sent=sent, **ours.recv()))
            options.say(f"  {rate:,}/s: {json.dumps({k: v for k, v in attrs.asdict(steps[-1]).items() if k != 'cpu'})}")
            if not steps[-1].held:
                break
        ours.send("stale")
        stale: list[float] = ours.recv()
    finally:
        ours.send("stop")
        receiver.join(20)
    return steps, stale


def _rows(url: str, size: int) -> list[dict[str, Any]]:
    """Store `size` load balancers with an amphora each, by bulk inserts; their ids."""
    from octavia_core.db import schema
    from octavia_core.db.storage import SqlStorage
    from octavia_core.db.tables.amphora import amphora
    from octavia_core.db.tables.balancer import load_balancer
    from octavia_core.db.tables.listener import listener
    from octavia_core.db.tables.pool import member, pool
    from octavia_core.domain.secret import Secret
    from octavia_core.settings import Database, Settings

    settings = Settings(database=Database(connection=Secret(url)))
    schema.prepare(settings.database)
    storage = SqlStorage.open(settings)
    made = [_ids(n) for n in range(size)]
    state = {"provisioning_status": "ACTIVE", "operating_status": "ONLINE", "enabled": True}
    tables: list[tuple[Any, list[dict[str, Any]]]] = [
        (load_balancer, [{"id": one["lb"], "name": f"lb-{n}", **state} for n, one in enumerate(made)]),
        (
            amphora,
            [
                {
                    "id": one["amphora"], "load_balancer_id": one["lb"], "status": "ALLOCATED", "cert_busy": False,
                    "lb_network_ip": f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", "compute_id": one["amphora"],
                }
                for n, one in enumerate(made)
            ],
        ),
        (
            pool,
            [{"id": one["pool"], "load_balancer_id": one["lb"], "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN", **state}
             for one in made],
        ),
        (
            listener,
            [
                {"id": id, "load_balancer_id": one["lb"], "protocol": "HTTP", "protocol_port": 80 + n,
                 "default_pool_id": one["pool"], "peer_port": 1025 + n, **state}
                for one in made for n, id in enumerate(one["listeners"])
            ],
        ),
        (
            member,
            [
                {"id": id, "pool_id": one["pool"], "ip_address": f"192.0.2.{n}", "protocol_port": 80, "weight": 1,
                 "backup": False, **state}
                for one in made for n, id in enumerate(one["members"])
            ],
        ),
    ]  # fmt: skip

    def store(tx: Any) -> None:
        for table, rows in tables:
            for start in range(0, len(rows), 2000):
                tx.write_many(table.insert(), rows[start : start + 2000])

    storage.write(store)
    storage.close()
    return made


def _ids(number: int) -> dict[str, Any]:
    import uuid

    def new() -> str:
        return str(uuid.uuid4())

    return {
        "number": number,
        "lb": new(),
        "amphora": new(),
        "pool": new(),
        "listeners": [new() for _ in range(LISTENERS)],
        "members": [new() for _ in range(MEMBERS)],
    }


def _datagram(one: dict[str, Any]) -> bytes:
    from octavia_core.domain.heartbeat import encode

    stats = {"tx": 2048, "rx": 1024, "conns": 3, "totconns": 4, "ereq": 0}
    return encode(
        {
            "id": one["amphora"],
            "listeners": {id: {"status": "OPEN", "stats": stats} for id in one["listeners"]},
            "pools": {
                f"{one['pool']}:{id}": {"status": "UP", "members": dict.fromkeys(one["members"], "UP")}
                for id in one["listeners"]
            },
            "ver": 3,
        },
        KEY,
    )


def _send(port: int, datagrams: Sequence[bytes], rate: int, seconds: float) -> int:
    """Send at that rate, in bursts of a hundredth of a second; how many were sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        order = list(range(len(datagrams)))
        random.shuffle(order)
        sent, began = 0, time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed * rate)
            while sent < due:
                sender.send(datagrams[order[sent % len(order)]])
                sent += 1
            time.sleep(0.01)
    return sent


def _receive(url: str, pipe: Connection) -> None:
    """The process that is measured: receiver and writer threads of the product, told what to do through the pipe."""
    bench = _Receiving(url)
    pipe.send(bench.port)
    while (order := pipe.recv()) != "stop":
        pipe.send(getattr(bench, order)())
    bench.stop()


class _Receiving:
    def __init__(self, url: str) -> None:
        from sqlalchemy import event

        from octavia_core.controller.health.memory import Memory
        from octavia_core.controller.health.receive import Receiver, bind_receiver
        from octavia_core.controller.health.wall import Wall
        from octavia_core.controller.health.write import Writer
        from octavia_core.db.storage import SqlStorage
        from octavia_core.domain.secret import Secret
        from octavia_core.ports.clock import SystemClock
        from octavia_core.settings import Database, HealthManager, Settings

        health = HealthManager(bind_port=0, sock_rlimit=8 * 1024 * 1024)
        self.settings = Settings(database=Database(connection=Secret(url)), health_manager=health)
        self.storage, self.clock = SqlStorage.open(self.settings), SystemClock()
        bound = bind_receiver(self.settings)
        self.port = int(bound.getsockname()[1])
        self.receiver, self.memory = Receiver(bound), Memory(3 * health.heartbeat_interval)
        self.writer = Writer(self.storage, self.memory, Wall(self.storage, self.clock), "bench", 20.0)
        self.statements, self.lags, self.ended = 0, list[float](), threading.Event()
        self.flushed = time.monotonic()
        event.listen(self.storage._engine, "before_cursor_execute", self._count)
        self.threads = [
            threading.Thread(target=target, name=name)
            for name, target in (("receive", self._receive), ("write", self._write))
        ]
        for thread in self.threads:
            thread.start()

    def _count(self, *_: object) -> None:
        self.statements += 1

    def _receive(self) -> None:
        from octavia_core.domain.heartbeat import decode

        keys = [KEY.encode()]
        while not self.ended.is_set():
            packets = self.receiver.batch()
            if packets:
                began = time.monotonic()
                self.memory.keep([decode(packet, keys) for packet in packets], began)
                self.lags += [time.monotonic() - began] * len(packets)

    def _write(self) -> None:
        while not self.ended.wait(1.0):
            began = time.monotonic()
            self.writer.flush(self.clock)
            self.flushed = began

    def settle(self) -> bool:
        """Two flushes later everything that was sent is in the rows."""
        for _ in range(2):
            before = self.flushed
            while self.flushed == before:
                time.sleep(0.1)
        return True

    def begin(self) -> bool:
        self.lags, self.statements = [], 0
        self.receiver.dropped()
        self.accepted, self.cpu = self.memory.counters["accepted"], self._cpu()
        return True

    def end(self) -> dict[str, Any]:
        behind = time.monotonic() - self.flushed
        time.sleep(0.5)
        cpu = self._cpu()
        return {
            "applied": self.memory.counters["accepted"] - self.accepted,
            "dropped": self.receiver.dropped(),
            "p99": sorted(self.lags)[int(len(self.lags) * 0.99)] if self.lags else 0.0,
            "lag": behind,
            "cpu": {name: cpu[name] - self.cpu[name] for name in cpu},
            "statements": self.statements,
            "memory": _pss(),
        }

    def _cpu(self) -> dict[str, float]:
        """Seconds by thread, and those of the whole process that no thread of these has."""
        found = {}
        for thread in self.threads:
            with open(f"/proc/self/task/{thread.native_id}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            found[thread.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        used = resource.getrusage(resource.RUSAGE_SELF)
        return found | {"other": used.ru_utime + used.ru_stime - sum(found.values())}

    def stale(self) -> list[float]:
        """Reading the hearts of ten amphorae, as a look does when ten are silent; seconds of 20 times."""
        hearts = self.storage.read(lambda tx: tx.liveness())
        silent = [heart.amphora_id for heart in hearts[:: max(1, len(hearts) // 10)]][:10]
        times = []
        for _ in range(20):
            began = time.monotonic()
            self.storage.read(lambda tx: tx.liveness(silent))
            times.append(time.monotonic() - began)
        return times

    def stop(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(10)
        self.receiver.close()
        self.storage.close()


def _pss() -> float:
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
