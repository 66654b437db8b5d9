"""Upstream's own health manager on the same rows: heartbeats that it applies, and the CPU that they cost it."""

from __future__ import annotations

import random
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.heartbeat_manager import cpu_of_tree
from tests.benchmarks.heartbeat_rows import KEY, datagram

__all__ = ["measure"]

RATE = 60
"""Datagrams per second: what it holds on two cores, where 165 was its most on a machine that did nothing else."""


def measure(url: str, rows: Sequence[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Start it, send each amphora at most one datagram, and count the rows that it refreshed."""
    import sqlalchemy as sa

    from tests.peers.octavia_api.programs import Process, free_port, until
    from tests.peers.octavia_api.stage import peer

    engine = sa.create_engine(url)
    with tempfile.TemporaryDirectory(prefix="octavia-upstream-") as name:
        folder = Path(name)
        port = free_port()
        conf = folder / "octavia.conf"
        conf.write_text(
            f"""[DEFAULT]
transport_url = rabbit://guest:guest@127.0.0.1:1/
[database]
connection = {url}
[health_manager]
bind_port = {port}
heartbeat_key = {KEY}
health_update_threads = 2
stats_update_threads = 2
heartbeat_timeout = 100000
[controller_worker]
amphora_driver = amphora_noop_driver
compute_driver = compute_noop_driver
network_driver = network_noop_driver
image_driver = image_noop_driver
volume_driver = volume_noop_driver
event_notifications = false
""",
            encoding="utf-8",
        )
        (folder / "tmp").mkdir()
        program = Process(
            "health-manager",
            folder,
            [str(peer() / "octavia-health-manager"), "--config-file", str(conf)],
            {"TMPDIR": str(folder / "tmp"), "PYTHONWARNINGS": "ignore"},
        )
        past = sa.text("UPDATE amphora_health SET last_update = '2020-01-01', busy = 0")

        def count() -> int:
            with engine.connect() as connection:
                return int(
                    connection.execute(
                        sa.text("SELECT COUNT(*) FROM amphora_health WHERE last_update > '2021-01-01'")
                    ).scalar_one()
                )

        with engine.begin() as connection:
            connection.execute(past)
        program.start()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.connect(("127.0.0.1", port))
                some = list(rows)
                random.shuffle(some)
                first, rest = some[:20], some[20:]

                def heard() -> bool:
                    try:
                        for one in first:
                            sender.send(datagram(one, 1))
                    except OSError:
                        pass
                    return count() > 0

                until(f"upstream's health manager hears: {program.said()}", heard, pause=1.0)
                time.sleep(3)
                with engine.begin() as connection:
                    connection.execute(past)
                wanted = rest[: int(RATE * seconds)]
                packets = [datagram(one, 2) for one in wanted]
                (pid,) = program.pids()[:1]
                cpu, began = cpu_of_tree(pid), time.monotonic()
                for number, packet in enumerate(packets):
                    time.sleep(max(0.0, began + number / RATE - time.monotonic()))
                    sender.send(packet)
                for _ in range(50):
                    if count() >= len(packets):
                        break
                    time.sleep(0.2)
                took = time.monotonic() - began
                applied = count()
                spent = cpu_of_tree(pid) - cpu
        finally:
            program.stop()
            engine.dispose()
    return {"sent": len(packets), "applied": applied, "cpu": spent, "seconds": took}
