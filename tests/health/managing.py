"""A health manager on simulated drivers, in a process of its own: it is told of deaths line by line on its standard input."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from octavia_core.certs.authority import create_authorities
from octavia_core.controller.health import HealthManager, bind_receiver
from octavia_core.controller.wiring import build_world
from octavia_core.db.storage import SqlStorage
from octavia_core.flows.world import World
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.compute import Death
from octavia_core.settings import Settings
from octavia_core.testing.outside import SimulatedCloud
from octavia_core.testing.plugin import Simulator

KEY = "managing"


def settings_of(folder: Path, url: str, worker: Mapping[str, object] | None = None, **health: object) -> Settings:
    """Simulated drivers, any port, failovers as fast as can be; `worker` and `health` are options of their groups."""
    create_authorities(str(folder / "authority"))
    authority = folder / "authority"
    noop = {"compute_driver": "noop", "network_driver": "noop", "amphora_driver": "noop"}
    return Settings.load(
        (
            "test",
            {
                "controller_worker": {**noop, "client_ca": str(authority / "controllers.pem"), **(worker or {})},
                "certificates": {
                    "cert_manager": "noop",
                    "ca_certificate": str(authority / "agents.pem"),
                    "ca_private_key": str(authority / "agents.key"),
                },
                "database": {"connection": url},
                "health_manager": {"bind_port": 0, "heartbeat_key": KEY} | health,
                "engine": {"failovers_per_minute": 1_000_000.0},
            },
        ),
        state_directory=str(folder),
    )


def world_of(settings: Settings) -> tuple[World, SimulatedCloud]:
    """What it works on."""
    clock = SystemClock()
    cloud = SimulatedCloud(clock=clock)
    return build_world(settings, Plugins({"simulator": Simulator(cloud)}, installed=False), clock), cloud


def main(folder: str, url: str) -> None:
    """Until standard input ends; each line names servers that died, and is answered when that was decided about."""
    settings = settings_of(Path(folder), url)
    storage = SqlStorage.open(settings)
    world, cloud = world_of(settings)
    health = HealthManager(storage, settings, world, bind_receiver(settings), lambda: None)
    health.start()
    print("ready", flush=True)
    try:
        for line in sys.stdin:
            for server_id in line.split():
                health.died(Death(server_id=server_id, at=time.time(), evidence="the test says so"))
            while health.undecided:
                time.sleep(0.01)
            print("done", flush=True)
    finally:
        health.stop()
        cloud.close()
        storage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
