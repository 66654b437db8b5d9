"""Drop-in: our consumer and worker against upstream's worker, on one octavia-api, one MariaDB and one RabbitMQ, in one run.

The messages are the API's own: it creates load balancers while nobody consumes, what it sent is taken out of the queue,
and given to one side after the other, so that the API is not the limit; then some are created live, as fast as the API accepts
them. Both sides use drivers that do nothing. CPU is that of all of a side's processes, statements are counted by MariaDB's
general log, without BEGIN, COMMIT, ROLLBACK, SET and SHOW. `--rounds` is the number of load balancers of each side (200, which
takes six minutes on a machine at rest, four of them upstream's worker's); a further word `quick` leaves the killing out, `ours` leaves
upstream's worker out, and with it all ratios.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.benchmarks.harness import Aim, Figure, Options, Report
from tests.peers.octavia_api.programs import Process, until
from tests.peers.octavia_api.stage import ROOT, Stage, stage
from tests.support import servers

TICK = os.sysconf("SC_CLK_TCK")
TURNS = 2
"""How often the sides alternate."""
COUNTED = 20
"""Load balancers whose statements are counted."""
WORDING = 80
"""Characters by which statements are told apart, in the details."""
LIVE = 30
"""Load balancers that are created while a side listens."""
IN_FLIGHT = 50
"""Load balancers that are asked for when a side is killed."""
MEMBERS = 200
PATIENCE = 600.0
GIVE_UP = 20.0
"""Seconds without a change after which what is pending counts as lost."""
QUEUE, EXCHANGE = "octavia_provisioning_v2", "octavia"
ENTRY = re.compile(r"^(?:\d{6} +\d+:\d+:\d+)?[\t ]*(\d+) (\w+)\t(.*)$")
"""A line of the general log that begins an entry: thread, command, argument."""

UPDATE = re.compile(r"UPDATE\s+`?member\b", re.IGNORECASE)
API = "root"
"""The account of the API, and of this benchmark, which only looks."""

LIVE_SECONDS = f"{LIVE} created through the API until all are ACTIVE"

Recorded = tuple[str, dict[str, Any], bytes]
"""A load balancer's id, properties of its message, and the message."""


def run(options: Options) -> Report:
    """Measure; see the module."""
    many = options.rounds or 200
    home = servers.open_run()
    try:
        with stage() as on:
            return _Bench(on, options, many).run()
    finally:
        servers.close_run(home)


@attrs.define
class _Side:
    """One of the two. `user` is its account at MariaDB."""

    user: str
    processes: Sequence[Process]
    rates: list[float] = attrs.field(factory=list)
    seconds: list[float] = attrs.field(factory=list)
    cpu: list[float] = attrs.field(factory=list)
    figures: dict[str, float] = attrs.field(factory=dict)

    def start(self) -> None:
        for process in self.processes:
            process.start()

    def stop(self) -> None:
        for process in self.processes:
            process.stop()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def pids(self) -> list[int]:
        return [pid for process in self.processes for pid in process.pids()]

    def cpu_seconds(self) -> float:
        """Of all its processes, those included that they have waited for."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))
        return total / TICK

    def memory(self) -> float:
        """Proportional set size of all its processes, MB."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024


class _Bench:
    def __init__(self, on: Stage, options: Options, many: int) -> None:
        self.on, self.say, self.many = on, options.say, many
        self.killing, self.alone = "quick" not in options.rest, "ours" in options.rest
        self.names = itertools.count()
        self.wordings: dict[str, dict[str, int]] = {}
        on.worker.stop()
        on.consumer.stop()
        peers = {"TMPDIR": str(on.folder / "tmp"), "PYTHONWARNINGS": "ignore"}
        own = {"PYTHONPATH": ":".join(str(ROOT / part) for part in (".", "daemons", "plugins"))}
        conf = {user: self._account(user) for user in ("ours", "theirs")}
        words = ["--config-file", conf["ours"], "--state-directory", str(on.state), "--log-level", "ERROR"]
        python = [sys.executable, "-m"]
        self.ours = _Side(
            "ours",
            [
                Process("our-consumer", on.folder, [*python, "octavia_daemons.consumer", *words], own),
                Process("our-worker", on.folder, [*python, "octavia_daemons.worker", *words], own),
            ],
        )
        worker = [str(on.bin / "octavia-worker"), "--config-file", conf["theirs"]]
        self.theirs = _Side("theirs", [Process("their-worker", on.folder, worker, peers)])

    def _account(self, user: str) -> str:
        """A settings file that differs in the account alone, by which the general log tells the sides apart."""
        self.on.database.rows(f"CREATE USER '{user}'@'localhost' IDENTIFIED BY ''")
        self.on.database.rows(f"GRANT ALL ON octavia.* TO '{user}'@'localhost'")
        text = self.on.conf.read_text(encoding="utf-8").replace("pymysql://root@", f"pymysql://{user}@")
        text = re.sub(r"(?m)^\[engine\]\n(.+\n)*", "[engine]\nsweep = off\n", text)  # all else as it comes
        path = self.on.folder / f"{user}.conf"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def run(self) -> Report:
        share = max(2, self.many // TURNS)
        sides = (self.ours,) if self.alone else (self.theirs, self.ours)
        for turn, side in itertools.product(range(TURNS), sides):
            last = turn == TURNS - 1
            self.say(f"{side.user}: the API is asked for load balancers, nobody listens")
            messages = self._record(share + (COUNTED + IN_FLIGHT * self.killing if last else 0))
            side.start()
            self._warm(side)
            self._throughput(side, messages[:share])
            if last:
                side.figures["memory"] = side.memory()
                self._live(side)
                self._statements(side, messages[share : share + COUNTED])
                self._batches(side)
                if self.killing:
                    self._killed(side, messages[share + COUNTED :])
            side.stop()
        return self._report()

    @staticmethod
    def _kombu() -> Any:
        """The library that oslo.messaging speaks AMQP with; it has no type information."""
        return importlib.import_module("kombu")

    # -- the API's messages --------------------------------------------------------------------------------------------
    def _record(self, count: int) -> list[Recorded]:
        """Have the API create load balancers, and take what it sends."""
        began = time.monotonic()
        ids = [self.on.load_balancer(f"bench {next(self.names)}")["id"] for _ in range(count)]
        rate = count / (time.monotonic() - began)
        self.say(f"the API accepted {rate:.1f} load balancers a second")
        found: list[Recorded] = []
        with self._kombu().Connection(self.on.broker.url.replace("rabbit:", "amqp:")) as connection:
            channel = connection.channel()
            while len(found) < count:
                message = channel.basic_get(QUEUE, no_ack=True)
                if message is None:
                    raise RuntimeError(f"the API sent {len(found)} messages for {count} load balancers")
                found.append((ids[len(found)], dict(message.properties), message.body))
        return found

    def _publish(self, messages: Sequence[Recorded]) -> None:
        with self._kombu().Connection(self.on.broker.url.replace("rabbit:", "amqp:")) as connection:
            exchange = self._kombu().Exchange(EXCHANGE, type="topic", durable=False)
            producer = connection.Producer(exchange=exchange, routing_key=QUEUE, auto_declare=False)
            for _, _, body in messages:
                producer.publish(body, content_type="application/json", content_encoding="utf-8")

    # -- what is measured ----------------------------------------------------------------------------------------------
    def _warm(self, side: _Side) -> None:
        """Imports, pools and caches: a few load balancers, one after the other."""
        for _ in range(3):
            made = self.on.load_balancer(f"warm {next(self.names)}")["id"]
            self.on.settled(made, within=PATIENCE)
        self.say(f"{side.user}: warm")

    def _throughput(self, side: _Side, messages: Sequence[Recorded]) -> None:
        cpu, began = side.cpu_seconds(), time.monotonic()
        self._publish(messages)
        self._all_active([lb for lb, _, _ in messages])
        seconds = time.monotonic() - began
        side.rates.append(len(messages) / seconds)
        side.cpu.append((side.cpu_seconds() - cpu) / len(messages))
        side.seconds.append(seconds)
        self.say(f"{side.user}: {side.rates[-1]:.1f} load balancers a second, {side.cpu[-1]:.4f} s of CPU each")

    def _live(self, side: _Side) -> None:
        began = time.monotonic()
        ids = [self.on.load_balancer(f"live {next(self.names)}")["id"] for _ in range(LIVE)]
        accepted = time.monotonic() - began
        self._all_active(ids)
        side.figures[LIVE_SECONDS] = time.monotonic() - began
        side.figures["of which the API took to accept them"] = accepted
        self.say(
            f"{side.user}: {LIVE} live: accepted within {accepted:.1f} s, ACTIVE within {side.figures[LIVE_SECONDS]:.1f} s"
        )

    def _all_active(self, ids: Sequence[str]) -> None:
        until("all are ACTIVE", lambda: self._count(ids, "ACTIVE") == len(ids), within=PATIENCE, pause=0.05)

    def _count(self, ids: Sequence[str], status: str) -> int:
        marks = ", ".join(["%s"] * len(ids))
        query = f"SELECT COUNT(*) AS n FROM load_balancer WHERE provisioning_status = %s AND id IN ({marks})"
        return int(str(self.on.database.rows(query, status, *ids)[0]["n"]))

    def _statements(self, side: _Side, messages: Sequence[Recorded]) -> None:
        with self._logged(side) as said:
            self._publish(messages)
            self._all_active([lb for lb, _, _ in messages])
        kinds = Counter(_kind(text) for text in said[side.user])
        self.wordings[side.user] = dict(Counter(text[:WORDING] for text in said[side.user]).most_common(60))
        each = {kind: count / len(messages) for kind, count in kinds.items()}
        side.figures |= {f"{kind} each": each.get(kind, 0.0) for kind in ("SELECT", "UPDATE", "INSERT", "DELETE")}
        side.figures["COMMIT each"] = each.get("COMMIT", 0.0)
        side.figures["statements each"] = sum(
            each.get(kind, 0.0) for kind in ("SELECT", "UPDATE", "INSERT", "DELETE", "OTHER")
        )
        self.say(f"{side.user}: statements of one load balancer: {each}")

    def _batches(self, side: _Side) -> None:
        lb = self.on.load_balancer(f"batch {next(self.names)}")["id"]
        self.on.settled(lb, within=PATIENCE)
        pool = self.on.create("pools", "pool", protocol="HTTP", lb_algorithm="ROUND_ROBIN", loadbalancer_id=lb)["id"]
        self.on.settled(lb, within=PATIENCE)
        members = [{"address": f"192.0.2.{n % 250 + 1}", "protocol_port": 80 + n // 250} for n in range(MEMBERS)]
        for what in ("batch", "unchanged batch"):
            with self._logged(side) as said:
                cpu = side.cpu_seconds()
                self.on.ask("PUT", f"/v2/lbaas/pools/{pool}/members", {"members": members})
                began = time.monotonic()
                until(f"{what}: ACTIVE", lambda: self.on.status(lb) == "ACTIVE", within=PATIENCE, pause=0.005)
                side.figures[what] = time.monotonic() - began
                side.figures[f"{what} CPU"] = side.cpu_seconds() - cpu
            updates, marked = (
                sum(bool(UPDATE.match(text)) for text in statements) for statements in (said[side.user], said[API])
            )
            side.figures[f"{what} UPDATEs of members"] = updates
            side.figures[f"{what} UPDATEs of members by the API"] = marked
            self.say(
                f"{side.user}: {what} {side.figures[what]:.2f} s, {updates} UPDATEs of members; the API's: {marked}"
            )

    def _killed(self, side: _Side, messages: Sequence[Recorded]) -> None:
        ids = [lb for lb, _, _ in messages]
        self._publish(messages)
        until("some are ACTIVE", lambda: self._count(ids, "ACTIVE") >= 3, within=PATIENCE, pause=0.01)
        side.kill()
        side.figures["ACTIVE when killed"] = self._count(ids, "ACTIVE")
        side.start()
        most, changed = -1, time.monotonic()
        while time.monotonic() - changed < GIVE_UP:
            active = self._count(ids, "ACTIVE")
            if active == len(ids):
                break
            if active != most:
                most, changed = active, time.monotonic()
            time.sleep(0.2)
        side.figures["ACTIVE after the kill"] = self._count(ids, "ACTIVE")
        self.say(f"{side.user}: {side.figures['ACTIVE after the kill']:.0f} of {len(ids)} ACTIVE after kill -9")

    @contextlib.contextmanager
    def _logged(self, side: _Side) -> Iterator[Mapping[str, list[str]]]:
        """What the side and the API say to MariaDB meanwhile, statement by statement; filled at the end."""
        rows = self.on.database.rows
        log = self.on.database.folder / "general.log"
        rows("SET GLOBAL general_log_file = %s", str(log))
        connections = rows("SELECT ID AS id, USER AS user FROM information_schema.processlist")
        whose = {str(row["id"]): str(row["user"]) for row in connections}
        rows("SET GLOBAL general_log = ON")
        said: dict[str, list[str]] = {side.user: [], API: []}
        yield said
        rows("SET GLOBAL general_log = OFF")
        last: list[str] | None = None
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            entry = ENTRY.match(line)
            if entry is None:  # a statement of several lines goes on
                if last is not None:
                    last[-1] += " " + line.strip()
                continue
            thread, command, argument = entry.groups()
            if command == "Connect":
                whose[thread] = argument.partition("@")[0]
            last = said.get(whose.get(thread, "")) if command == "Query" else None
            if last is not None:
                last.append(argument.strip())
        log.unlink()

    # -- what comes of it ----------------------------------------------------------------------------------------------
    def _report(self) -> Report:
        figures: list[Figure] = []
        for side in (self.ours,) if self.alone else (self.ours, self.theirs):
            name = side.user
            figures.append(Figure(f"{name}: load balancers a second", statistics.median(side.rates), "/s"))
            figures.append(
                Figure(f"{name}: until all of {self.many} are ACTIVE", sum(side.seconds), note=f"in {TURNS} turns")
            )
            figures.append(Figure(f"{name}: CPU of a load balancer", statistics.median(side.cpu), note="all processes"))
            for what, value in side.figures.items():
                timed = what.endswith(("batch", "CPU", "ACTIVE", "accept them"))
                unit = "MB" if what == "memory" else "s" if timed else ""
                figures.append(Figure(f"{name}: {what}", value, unit))
        ours, theirs = self.ours.figures, self.theirs.figures
        aims: list[Aim] = []
        if not self.alone:
            cpu = statistics.median(self.theirs.cpu) / statistics.median(self.ours.cpu)
            rate = statistics.median(self.ours.rates) / statistics.median(self.theirs.rates)
            aims.append(Aim("worker CPU, theirs to ours", cpu, 10, "x", at_least=True))
            aims.append(Aim("load balancers a second, ours to theirs", rate, 10, "x", at_least=True))
        aims += [
            Aim("statements of a load balancer", ours["statements each"], 40, ""),
            Aim(f"a batch of {MEMBERS} members", ours["batch"], 0.5),
            # the API itself marks every member PENDING_UPDATE, changed or not; one statement has to settle them
            Aim(
                "UPDATEs of members in an unchanged batch",
                ours["unchanged batch UPDATEs of members"],
                min(1, ours["unchanged batch UPDATEs of members by the API"]),
                "",
            ),
        ]
        if self.killing:
            active = ours["ACTIVE after the kill"]
            aims.append(Aim(f"ACTIVE of {IN_FLIGHT} after kill -9", active, IN_FLIGHT, "", at_least=True))
        return Report(
            name="dropin",
            figures=figures,
            aims=aims,
            details={"theirs": theirs, "ours": ours, "statements": self.wordings},
        )


def _kind(text: str) -> str:
    word = text.split(None, 1)[0].upper() if text else ""
    if word in ("SELECT", "UPDATE", "INSERT", "DELETE", "COMMIT", "ROLLBACK"):
        return word
    return "BEGIN" if word in ("BEGIN", "START", "SET", "SHOW") else "OTHER"
