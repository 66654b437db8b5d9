"""The health manager that bench_heartbeats measures: the product's, on simulated drivers, in a process of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs

from tests.benchmarks.heartbeat_rows import KEY

__all__ = ["cpu_of_tree", "run"]

TICK = os.sysconf("SC_CLK_TCK")


def run(url: str, folder: str, processes: int, pipe: Connection) -> None:
    """Do what the pipe says until it says stop."""
    measured = _Measured(url, Path(folder), processes)
    pipe.send((measured.port, os.getpid()))
    try:
        while (order := pipe.recv()) != "stop":
            pipe.send(getattr(measured, order)())
    except EOFError:
        pass  # whoever measures is gone
    finally:
        measured.stop()


class _Everywhere:
    """Compute, where no server is ever found to be gone: the amphorae of the rows have none, and are not to be replaced."""

    def __init__(self, compute: Any) -> None:
        self._compute = compute

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compute, name)

    def servers(self, ids: Sequence[str]) -> Mapping[str, Any]:
        return {}


class _Measured:
    def __init__(self, url: str, folder: Path, processes: int) -> None:
        from sqlalchemy import event

        from octavia_core.controller.health import HealthManager, bind_receiver
        from octavia_core.controller.health.frozen import Frozen
        from octavia_core.controller.wiring import build_world
        from octavia_core.db.storage import SqlStorage
        from octavia_core.hooks.plugins import Plugins
        from octavia_core.ports.clock import SystemClock
        from octavia_core.testing.outside import SimulatedCloud
        from octavia_core.testing.plugin import Simulator
        from tests.support.simulated import on_simulator

        self.settings = on_simulator(
            folder, url, health_manager={"bind_port": 0, "heartbeat_key": KEY, "sock_rlimit": 8 * 1024 * 1024}
        )
        self.storage, clock = SqlStorage.open(self.settings), SystemClock()
        self.statements = 0
        event.listen(self.storage._engine, "before_cursor_execute", self._count)
        world = build_world(
            self.settings, Plugins({"simulator": Simulator(SimulatedCloud(clock=clock))}, installed=False), clock
        )
        world = attrs.evolve(world, compute=_Everywhere(world.compute))
        execute = self.storage.wire._execute

        def counted(*arguments: Any) -> Any:
            self.statements += 1
            return execute(*arguments)

        self.storage.wire._execute = counted  # type: ignore[assignment]
        bound = bind_receiver(self.settings)
        self.port = int(bound.getsockname()[1])
        self.health = HealthManager(self.storage, self.settings, world, bound, lambda: None, processes=processes)
        self.health.frozen = Frozen()
        self.lags, self.behind, self.waiting, self.ended = list[float](), 0.0, 0, threading.Event()
        lag: Any = self.health._hearing._lag  # type: ignore[attr-defined]
        note = lag.note

        def noted(oldest: float) -> None:
            self.lags.append(time.time() - oldest)
            note(oldest)

        lag.note = noted
        self.health.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _count(self, *_: object) -> None:
        self.statements += 1

    def _watch(self) -> None:
        writer, memory = self.health._writer, self.health._memory
        while not self.ended.wait(0.05):
            self.behind = max(self.behind, time.monotonic() - writer.written_at)
            self.waiting = max(self.waiting, len(memory._fresh), len(memory._news))

    def settle(self) -> int:
        """How many amphorae have their report in the rows."""
        known = list(self.health._memory._known.values())
        return sum(one.applied == one.said.words for one in known)

    def begin(self) -> bool:
        """A step begins."""
        self.health._hearing.dropped()
        self.lags, self.behind, self.waiting, self.statements = [], 0.0, 0, 0
        self.counted, self.cpu = dict(self.health.counters), self._cpu()
        return True

    def end(self) -> dict[str, Any]:
        """A step is over: what came of it."""
        behind, waiting, lags = self.behind, self.waiting, sorted(self.lags)
        cpu = self._cpu()
        time.sleep(1.0)
        counters = self.health.counters
        new = {name: count - self.counted.get(name, 0) for name, count in counters.items()}
        return {
            "applied": new.get("accepted", 0),
            "old": sum(new.get(word, 0) for word in ("repeated", "replayed", "recorded")),
            "dropped": self.health._hearing.dropped() + new.get("dropped", 0),
            "p99": lags[int(len(lags) * 0.99)] if lags else 0.0,
            "behind": behind,
            "cpu": {name: spent - self.cpu.get(name, 0.0) for name, spent in cpu.items()},
            "statements": self.statements,
            "memory": sum(map(_pss, [os.getpid(), *self.health.pids])),
            "waiting": waiting,
            "lost": len(self.storage.read(lambda tx: [o for o in tx.operations(limit=10_000) if o.flow == "failover"])),
        }

    def _cpu(self) -> dict[str, float]:
        """Seconds by thread of this process, and of the processes that receive."""
        found: dict[str, float] = {}
        for thread in threading.enumerate():
            if thread.name in ("MainThread", "watch"):
                continue  # they do nothing but measure
            name = thread.name.removeprefix("octavia-health-")
            name = "take in" if name.startswith("front") or name == "receive" else name
            found[name] = found.get(name, 0.0) + _cpu(f"/proc/self/task/{thread.native_id}/stat")
        found["receive"] = sum(_cpu(f"/proc/{pid}/stat") for pid in self.health.pids)
        return found

    def stale(self) -> dict[str, list[float]]:
        """Ten fell silent, and the others are heard: seconds of 20 queries for them with all that they are judged by, and of
        20 whole looks.
        """
        from sqlalchemy import text

        from octavia_core.ports.hearts import Heard

        ids = sorted(heart.amphora_id for heart in self.storage.read(lambda tx: tx.liveness()))
        silent = set(ids[:: max(1, len(ids) // 10)][:10])
        now, mono = self.storage.now(), time.monotonic()
        at = {id: now - (120_000_000 if id in silent else 1_000_000) for id in ids}
        heard = [Heard(amphora_id=id, at=then, sequence=None, observer="bench") for id, then in at.items()]
        self.storage.write(lambda tx: tx.write(text("UPDATE oc_liveness SET last_heard = NULL")))
        self.storage.write(lambda tx: tx.write(text("UPDATE amphora_health SET last_update = '2020-01-01 00:00:00'")))
        self.storage.transaction(lambda tx: tx.heard(heard))
        found: dict[str, list[float]] = {"query": [], "look": []}
        for _ in range(20):
            began = time.monotonic()
            hearts = self.storage.read(lambda tx: tx.silent(now - 60_000_000))
            found["query"].append(time.monotonic() - began)
            assert {heart.amphora_id for heart in hearts} == silent
        lookout, memory = self.health._lookout, self.health._memory
        lookout.paused = "while looks are measured"  # so that each look judges them anew
        for id, known in memory._known.items():
            known.heard_at = mono - (120.0 if id in silent else 1.0)
        for id in silent:
            memory._known.move_to_end(id, last=False)
        for turn in range(40):
            began = time.monotonic()
            lookout.look(now - 600_000_000, "bench")
            if turn >= 20:  # until then all rows are read
                found["look"].append(time.monotonic() - began)
        return found

    def pause(self) -> bool:
        """No look judges any more."""
        self.health.stop()
        return True

    def stop(self) -> None:
        """End."""
        self.ended.set()
        self.health.stop()
        self.storage.close()


def _cpu(file: str) -> float:
    try:
        fields = Path(file).read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_of_tree(pid: int) -> float:
    """Seconds of a process and all below it that live, and of their children that ended."""
    total, todo = 0.0, [pid]
    while todo:
        one = todo.pop()
        try:
            fields = Path(f"/proc/{one}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                todo += [int(word) for word in task.read_text(encoding="ascii").split()]
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / TICK
    return total


def _pss(pid: int) -> float:
    """Megabytes."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
