"""A mass failover: 500 amphorae die at once on the simulator; how many replacements serve per second.

Every server is stopped, health is told of each as its driver would tell it, the governor spends a token on each, and a
worker of 8 threads rebuilds them all. `--rounds` is the number of amphorae; the database is SQLite.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from octavia_core.controller.worker import Worker
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.flows.runner import Runner
from octavia_core.ports.clock import SystemClock
from tests.benchmarks.harness import Aim, Figure, Options, Report
from tests.health.rig import Rig

PATIENCE = 300.0


def run(options: Options) -> Report:
    """Once."""
    count = options.rounds or 500
    with tempfile.TemporaryDirectory(prefix="octavia-bench-") as folder:
        rig = Rig(Path(folder), count, clock=SystemClock(), heartbeat_timeout=60.0)
        options.say(f"{count} load balancers are there")
        worker = Worker(Runner(rig.storage, rig.world), threads=8)
        try:
            for amphora in rig.amphorae:
                rig.world.compute.kill(str(amphora.compute_id))  # type: ignore[attr-defined]
            began, spent = time.monotonic(), time.process_time()
            for amphora in rig.amphorae:
                rig.lookout.died(str(amphora.compute_id), "the simulated server was stopped")
            declared = time.monotonic() - began
            options.say(f"declared dead after {declared:.1f} s")
            worker.start()
            while (left := _open(rig)) and time.monotonic() - began < PATIENCE:
                worker.nudge()
                time.sleep(0.2)
            took, spent = time.monotonic() - began, time.process_time() - spent
        finally:
            worker.stop(10)
        rows = rig.storage.read(lambda tx: tx.amphorae())
        serving = sum(a.status is AmphoraStatus.ALLOCATED and a.id not in rig.ids for a in rows)
        rig.close()
    figures = [
        Figure("declared dead, all", declared, "s", "some dozens in a transaction"),
        Figure("all replaced", took, "s", f"{serving} of {count} serve, {left} operations open"),
        Figure("failovers per second", serving / took, "/s"),
        Figure("CPU per failover", spent / max(1, serving), "s", "health, worker and simulator, in one process"),
    ]
    aims = [
        Aim("failovers per second", serving / took, 20, "/s", at_least=True),
        Aim("amphorae without a replacement", count - serving, 0, ""),
    ]
    return Report(name="failovers", figures=figures, aims=aims)


def _open(rig: Rig) -> int:
    """Counted by the database: reading them all would be most of the work."""
    from sqlalchemy import func, select

    from octavia_core.db.tables.own import oc_operation

    query = select(func.count()).where(oc_operation.c.finished_at.is_(None))
    return int(rig.storage.look(lambda tx: tx.value(query)))
