"""octavia-core-worker: claims operations from the database and carries them out."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from octavia_core.controller.outbox import Outbox
from octavia_core.controller.start import start
from octavia_core.settings import Settings
from octavia_daemons import daemon

__all__ = ["main", "serve"]

GRACE = 60.0
"""Seconds that operations under way have at the end; what is not over then is taken up by another worker."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker; see `daemon.run`."""
    return daemon.run("octavia-core-worker", "Carry out operations from the database.", serve, argv)


def serve(settings: Settings, stop: threading.Event) -> None:
    """Work until `stop`; the events of what was done are delivered from here."""
    started = start(None, settings=settings, plugins=None, run=False)
    try:
        outbox = Outbox(
            started.storage,
            started.plugins.event_listeners(),
            timeout=settings.engine.event_timeout,
            pause=settings.engine.poll_interval,
        )
        started.worker.on_ended = lambda *_: outbox.nudge()
        started.worker.start()
        outbox.start()
        try:
            stop.wait()
        finally:
            started.worker.stop(GRACE)
            outbox.stop()
    finally:
        started.release()


if __name__ == "__main__":
    sys.exit(main())
