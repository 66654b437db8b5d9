"""Heartbeats: how many a health manager applies on each database, and what each costs.

Amphorae of two listeners and one pool with five members each send pre-signed datagrams over loopback to the product's
health manager in a process of its own (and the processes that receive for it). The rate is raised step by step; a step is
held when at least 99 % of what was sent is applied, nothing was dropped, and the rows were never more than two seconds
behind. Then ten times the rate that was held is sent for a while: what is dropped is shown, and nobody may be failed over.
On MariaDB, upstream's own health manager (PyPI, no-op drivers) is measured on the same rows in the same run.

Without further words it does everything once and briefly, in about ten minutes (`SHORT`); the word `long` takes five minutes at
the top rate on MariaDB and one elsewhere, two minutes of overload, and all three sizes on all databases: an hour (`LONG`).

Other words choose: databases (`sqlite`, `mariadb`, `postgresql`; default all), `amphorae=1000,10000`, `seconds=10` (of one step),
`rates=1000,2500,5000,10000` (datagrams per second), `held=300` (seconds at the top rate, once it is known), `overload=120`
(seconds), `processes=1` (that receive; 0: a thread), `first=10000` (first reports a second), `upstream=20` (seconds; 0: not at all).

Lag is from the arrival of the oldest datagram of a frame until all of it is in the state that decisions are made from. The
sender's CPU is printed and not counted. Sizes and rates are those of a machine that does all of it at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import attrs

from tests.benchmarks import heartbeat_manager, heartbeat_upstream
from tests.benchmarks.harness import Aim, Figure, Options, Report
from tests.benchmarks.heartbeat_manager import cpu_of_tree
from tests.benchmarks.heartbeat_rows import datagram, store_rows

Plan = tuple[tuple[str, int, dict[str, str]], ...]
_ONE = {"rates": "10000", "upstream": "0"}
SHORT: Plan = (
    ("mariadb", 10_000, {"rates": "5000,10000", "held": "30", "overload": "15", "upstream": "15"}),
    ("postgresql", 10_000, {"rates": "5000,10000", "held": "20"}),
    ("sqlite", 10_000, {"rates": "2500,5000,10000"}),
    ("mariadb", 1_000, _ONE),
    ("mariadb", 100_000, {**_ONE, "seconds": "30"}),
)
"""Database, amphorae, and words for each; one after the other."""
_RATES = "2500,5000,7500,10000,12500"
LONG: Plan = tuple(
    (
        kind,
        size,
        {
            "rates": _RATES,
            "held": "300" if kind == "mariadb" else "60",
            "overload": "120" if size == 10_000 else "0",
            "upstream": "20" if size == 10_000 else "0",
        },
    )
    for kind in ("mariadb", "postgresql", "sqlite")
    for size in (1_000, 10_000, 100_000)
)
PATIENCE = 600.0
"""Seconds that the first report of everybody may take to be in the rows."""
FIRST = "10000"
"""First reports that are sent a second, unless the words say otherwise: a busy machine would miss most of them."""


@attrs.frozen(kw_only=True)
class Step:
    """One rate on one database.

    Attributes:
        sent: datagrams; `applied` of them reached memory; `old` were known as sent before; `behind` is how far the rows were behind, the longest.
        p99: seconds from arrival to memory.
        cpu: seconds by part; `database`: of its server, `sender`: of who sent.
        waiting: the most amphorae that waited to be written; `lost`: failovers that were stored until then.
    """

    rate: int
    sent: int
    applied: int
    old: int
    dropped: int
    p99: float
    behind: float
    cpu: dict[str, float]
    statements: int
    memory: float
    waiting: int
    lost: int
    database: float
    sender: float

    @property
    def held(self) -> bool:
        """Whether the rate was sustained."""
        return self.applied >= 0.99 * self.sent and not self.dropped and self.behind <= 2.0

    @property
    def each(self) -> float:
        """CPU seconds of the health manager and its processes per heartbeat."""
        return sum(self.cpu.values()) / max(1, self.applied)


def run(options: Options) -> Report:
    """All databases, all sizes, rates upwards until one is not held."""
    figures: list[Figure] = []
    aims: list[Aim] = []
    details: dict[str, Any] = {}
    for kind, parts in itertools.groupby(_plan(options.rest), key=itemgetter(0)):
        with _database(kind) as (url, server):
            for _, size, words in parts:
                with _emptied(url):
                    measured = _Bench(kind, url, server, words, options).measure(size)
                details[f"{kind}, {size}"] = measured.details()
                figures += measured.figures(f"{kind}, {size:,} amphorae")
                aims += measured.aims(f"{kind}, {size:,}", size)
    return Report(name="heartbeats", figures=figures, aims=aims, details=details)


def _plan(rest: Sequence[str]) -> Plan:
    """What the words ask for."""
    if not rest:
        return SHORT
    if "long" in rest:
        return LONG
    words = dict(word.split("=", 1) for word in rest if "=" in word)
    kinds = [word for word in rest if "=" not in word] or ["sqlite", "mariadb", "postgresql"]
    sizes = [int(n) for n in words.get("amphorae", "1000,10000").split(",")]
    return tuple((kind, size, words) for kind in kinds for size in sizes)


@attrs.frozen(kw_only=True)
class First:
    """A health manager that began, until the first report of everybody was held against its rows.

    Attributes:
        rate: datagrams per second.
        seconds: that it took; everybody had sent after `amphorae` / `rate` of them.
        sent: datagrams; more than `amphorae` when it took so long that all sent again.
        cpu, database, statements: as in `Step`.
    """

    amphorae: int
    rate: int
    seconds: float
    sent: int
    cpu: dict[str, float]
    database: float
    statements: int

    @property
    def each(self) -> float:
        """CPU seconds of the health manager and its processes per amphora."""
        return sum(self.cpu.values()) / self.amphorae


@attrs.define(kw_only=True)
class Measured:
    """What one database said with one number of amphorae; `stale`: seconds of queries and of looks."""

    kind: str
    first: First | None = None
    steps: list[Step]
    held: Step | None = None
    overload: Step | None = None
    stale: dict[str, list[float]]
    upstream: dict[str, float] | None = None

    @property
    def best(self) -> Step:
        """The step whose figures are shown."""
        if self.held is not None:
            return self.held
        return next((step for step in reversed(self.steps) if step.held), self.steps[0])

    def details(self) -> dict[str, Any]:
        """For machines."""
        return attrs.asdict(self)

    def figures(self, name: str) -> Iterator[Figure]:
        """For people."""
        best = self.best
        yield Figure(
            f"{name}: highest rate held", best.rate if best.held else 0, "/s", f"of {self.steps[-1].rate:,} tried"
        )
        yield Figure("  lag p99, arrival to decision state", best.p99)
        yield Figure("  rows behind memory, longest", best.behind)
        yield Figure("  CPU per heartbeat", best.each * 1e6, "us", _parts(best.cpu, best.applied))
        server = "in the health manager" if self.kind == "sqlite" else "its server's"
        yield Figure("  database, CPU per heartbeat", best.database / best.applied * 1e6, "us", server)
        yield Figure("  sender, CPU per datagram", best.sender / best.sent * 1e6, "us", "not counted")
        yield Figure("  statements per heartbeat", best.statements / best.applied, "")
        yield Figure("  memory, PSS", best.memory, "MB", "health manager and its processes")
        if first := self.first:
            yield Figure("  first contact, CPU per amphora", first.each * 1e6, "us", _parts(first.cpu, first.amphorae))
            yield Figure("  first contact, database's CPU", first.database / first.amphorae * 1e6, "us")
            yield Figure("  first contact, statements", first.statements / first.amphorae, "")
            note = f"{first.sent:,} datagrams, {first.rate:,} a second"
            yield Figure("  first contact, all in the rows after", first.seconds, "s", note)
        if self.stale:
            yield Figure("  query with 10 silent, median", statistics.median(self.stale["query"]), "s")
            yield Figure("  look with 10 silent, median", statistics.median(self.stale["look"]), "s")
        if over := self.overload:
            note = f"{over.sent:,} sent, {over.applied + over.old:,} taken, {over.dropped:,} seen to be dropped"
            yield Figure("  overload, most amphorae that wait to be written", over.waiting, "", note)
            yield Figure("  overload, failovers", over.lost, "")
        if self.upstream is not None:
            theirs = self.upstream["cpu"] / max(1, self.upstream["sent"])  # those that it ignored cost it less
            note = f"{self.upstream['applied']:.0f} of {self.upstream['sent']:.0f} applied"
            yield Figure("  upstream, CPU per heartbeat sent", theirs * 1e6, "us", note)

    def aims(self, name: str, size: int) -> Iterator[Aim]:
        """What is wanted of MariaDB and PostgreSQL."""
        best = self.best
        for part, seconds in self.stale.items():
            yield Aim(f"{name}: {part} with 10 silent", statistics.median(seconds), 0.02)
        if self.first is not None and self.kind != "sqlite":
            yield Aim(f"{name}: first contact, CPU per amphora", self.first.each, 0.0002)
        if self.overload is not None:
            yield Aim(f"{name}: failovers in overload", self.overload.lost, 0, "")
            yield Aim(f"{name}: queue in overload", self.overload.waiting, size, "")
        if self.kind == "sqlite" or not best.held:
            return
        yield Aim(f"{name}: rate held", best.rate, 10_000, "/s", at_least=True)
        yield Aim(f"{name}: statements per heartbeat", best.statements / best.applied, 0.02, "")
        yield Aim(f"{name}: lag p99", best.p99, 1.0)
        yield Aim(f"{name}: rows behind", best.behind, 2.0)
        yield Aim(f"{name}: memory", best.memory, 600, "MB")
        if self.upstream is not None:
            theirs = self.upstream["cpu"] / max(1, self.upstream["sent"])
            yield Aim(f"{name}: heartbeats per CPU second, times upstream's", theirs / best.each, 50, "", at_least=True)


def _parts(cpu: dict[str, float], many: int) -> str:
    spent = {part: seconds / max(1, many) * 1e6 for part, seconds in cpu.items()}
    return ", ".join(f"{part} {us:.0f}" for part, us in sorted(spent.items()) if us >= 0.5)


@contextlib.contextmanager
def _database(kind: str) -> Iterator[tuple[str, int | None]]:
    """(URL, pid of what guards its server)."""

    from tests.support import servers

    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="octavia-bench-") as folder:
            yield f"sqlite:///{folder}/octavia.db", None
        return
    home = servers.open_run()
    try:
        server = servers.server(kind, durable=True)
        if kind == "mariadb":
            server.execute("SET GLOBAL innodb_buffer_pool_size = 1073741824")  # the rows of 100,000 fit
        with server.new_database() as url:
            yield url, servers.guard_of(kind, durable=True)
    finally:
        servers.close_run(home)


@contextlib.contextmanager
def _emptied(url: str) -> Iterator[None]:
    """Without rows of an earlier size."""
    import sqlalchemy as sa

    from octavia_core.db import schema
    from octavia_core.domain.secret import Secret
    from octavia_core.settings import Database

    schema.prepare(Database(connection=Secret(url)))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for table in (
            "member",
            "listener_statistics",
            "listener",
            "pool",
            "amphora_health",
            "amphora",
            "load_balancer",
        ):
            connection.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 - our own words
        for table in ("oc_liveness", "oc_operation", "oc_event"):
            connection.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 - our own words
    engine.dispose()
    yield


def _signed(rows: Sequence[dict[str, Any]], turns: int) -> list[list[bytes]]:
    """So many datagrams of each; by two processes, since compressing takes most of a minute for a million."""
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        return [list(pool.map(functools.partial(datagram, seq=seq), rows, chunksize=1000)) for seq in range(turns)]


class _Bench:
    def __init__(self, kind: str, url: str, server: int | None, words: dict[str, str], options: Options) -> None:
        self.kind, self.url, self.server, self.words, self.options = kind, url, server, words, options

    def measure(self, size: int) -> Measured:
        """One number of amphorae."""
        rows = store_rows(self.url, size)
        self.options.say(f"{self.kind}: rows of {size:,} amphorae are there")
        datagrams = _signed(rows, self._turns(size))
        self.options.say(f"{len(datagrams)} datagrams of each are signed")
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with tempfile.TemporaryDirectory(prefix="octavia-bench-") as folder:
            arguments = (self.url, folder, int(self.words.get("processes", "1")), theirs)
            manager = context.Process(target=heartbeat_manager.run, args=arguments, daemon=True)
            manager.start()
            try:
                measured = self._steps(ours, datagrams)
            finally:
                ours.send("stop")
                manager.join(30)
        seconds = float(self.words.get("upstream", "20"))
        if self.kind == "mariadb" and seconds:
            measured.upstream = heartbeat_upstream.measure(self.url, rows, seconds)
            self.options.say(f"  upstream: {measured.upstream}")
        return measured

    def _rates(self) -> list[int]:
        return [int(n) for n in self.words.get("rates", "1000,2500,5000,7500,10000").split(",")]

    def _turns(self, size: int) -> int:
        """So many that none comes twice but in overload: what comes again counts as played back."""
        rates = self._rates()
        many = sum(rates) * float(self.words.get("seconds", "10")) + max(rates) * float(self.words.get("held", "0"))
        return math.ceil(many / size) + 5  # up to three until it is settled, one then

    def _steps(self, pipe: Any, datagrams: list[list[bytes]]) -> Measured:
        port, _ = pipe.recv()
        seconds = float(self.words.get("seconds", "10"))
        measured = Measured(kind=self.kind, steps=[], stale={})
        sender = _Sender(port, datagrams)
        measured.first = self._settle(pipe, sender, len(datagrams[0]))
        for rate in self._rates():
            measured.steps.append(self._step(pipe, sender, rate, seconds))
            if not measured.steps[-1].held:
                break
        best = measured.best
        if best.held and (hold := float(self.words.get("held", "0"))):
            measured.held = self._step(pipe, sender, best.rate, hold)
        if best.held and (overload := float(self.words.get("overload", "0"))):
            measured.overload = self._step(pipe, sender, 10 * best.rate, overload)
        pipe.send("pause")
        pipe.recv()
        pipe.send("stale")
        measured.stale = pipe.recv()
        return measured

    def _settle(self, pipe: Any, sender: _Sender, size: int) -> First:
        """Everybody sends, once unless it takes long, until every report is in the rows."""
        sent, left, rate = 0, size, int(self.words.get("first", FIRST))
        pipe.send("begin")
        pipe.recv()
        database, began = self._database_cpu(), time.monotonic()
        while left and time.monotonic() - began < PATIENCE:
            if sent < 3 * size:  # what comes after the turns that there are counts as played back
                sent += sender.send(rate, 2 * size / rate, size)
            ended = time.monotonic()
            while left and time.monotonic() - ended < max(5.0, size / rate):
                time.sleep(0.1)
                pipe.send("settle")
                left = size - pipe.recv()
        seconds = time.monotonic() - began
        pipe.send("end")
        found = pipe.recv()
        first = First(
            amphorae=size,
            rate=rate,
            seconds=seconds,
            sent=sent,
            cpu=found["cpu"],
            database=self._database_cpu() - database,
            statements=found["statements"],
        )
        self.options.say(f"  first contact, {left:,} missing: {json.dumps(attrs.asdict(first))}")
        sender.send(size // 10 + 1, 12)  # what was written is found as changed once more, and then no longer
        return first

    def _database_cpu(self) -> float:
        return cpu_of_tree(self.server) if self.server else 0.0

    def _step(self, pipe: Any, sender: _Sender, rate: int, seconds: float) -> Step:
        pipe.send("begin")
        pipe.recv()
        database, began = self._database_cpu(), time.process_time()
        sent = sender.send(rate, seconds)
        spent = time.process_time() - began
        pipe.send("end")
        found = pipe.recv()
        database = self._database_cpu() - database
        step = Step(rate=rate, sent=sent, database=database, sender=spent, **found)
        self.options.say(f"  {rate:,}/s: {json.dumps(attrs.asdict(step))}")
        return step


class _Sender:
    """Sends each amphora's datagrams in their turn, one of everybody after the other, and goes on where it stopped: whoever
    has missed one would be taken for somebody who plays back what he recorded, when its numbers begin anew.
    """

    def __init__(self, port: int, turns: list[list[bytes]]) -> None:
        order = list(range(len(turns[0])))
        random.shuffle(order)
        self._turns = [[each[place] for place in order] for each in turns]
        self._port, self._sent = port, 0

    def send(self, rate: int, seconds: float, most: int | None = None) -> int:
        """At that rate, in bursts of a hundredth of a second, `most` at most; how many."""
        turns, size, start = self._turns, len(self._turns[0]), self._sent
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", self._port))
            sent, began, send = start, time.monotonic(), sender.send
            while (passed := time.monotonic() - began) < seconds and (most is None or sent < start + most):
                due = start + int(passed * rate)
                if most is not None:
                    due = min(due, start + most)
                while sent < due:
                    turn, place = divmod(sent, size)
                    send(turns[turn % len(turns)][place])
                    sent += 1
                    if not sent % 4096 and time.monotonic() - began >= seconds:
                        break
                time.sleep(0.01)
        self._sent = sent
        return sent - start
