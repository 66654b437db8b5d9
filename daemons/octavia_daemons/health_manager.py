"""octavia-core-health-manager: receives heartbeats, writes statuses, asks for failovers (workers carry them out)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from octavia_core.controller.health import HealthManager
from octavia_core.controller.health.frozen import Frozen
from octavia_core.controller.health.possible import check_key, check_possible
from octavia_core.controller.knock import Knocker
from octavia_core.controller.start import start
from octavia_core.settings import Settings
from octavia_daemons import daemon

__all__ = ["main", "serve"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the health manager; see `daemon.run`."""
    return daemon.run(
        "octavia-core-health-manager", "Receive heartbeats and judge silence.", serve, argv, check=check_possible
    )


def serve(settings: Settings, stop: threading.Event) -> None:
    """Receive and judge until `stop`.

    Raises:
        ConfigurationError: no heartbeat key, or the address cannot be had.
    """
    check_key(settings)
    started = daemon.patiently(lambda: start(None, settings=settings, plugins=None, run=True), stop)
    if started is None:
        return
    try:
        assert started.receiver is not None  # `run=True` binds it
        health = HealthManager(
            started.storage,
            started.settings,
            started.world,
            started.receiver,
            on_failover=Knocker(started.settings),
            processes=max(1, started.settings.health_manager.health_update_threads),
        )
        health.frozen = Frozen()
        try:
            health.start()
            stop.wait()
        finally:
            health.stop()
    finally:
        started.release()


if __name__ == "__main__":
    sys.exit(main())
