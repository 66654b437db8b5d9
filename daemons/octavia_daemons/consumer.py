"""octavia-core-consumer: receives upstream's messages and stores each as an operation; workers carry them out.

A process of its own, so that messages are taken promptly however busy the workers are.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from octavia_core.controller.knock import Knocker
from octavia_core.controller.requests import MessageAcceptor
from octavia_core.controller.sources import request_source
from octavia_core.db.storage import SqlStorage
from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings
from octavia_daemons import daemon

__all__ = ["main", "serve"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the consumer; see `daemon.run`."""
    return daemon.run("octavia-core-consumer", "Receive requests of octavia-api.", serve, argv)


def serve(settings: Settings, stop: threading.Event) -> None:
    """Listen until `stop`."""
    storage = daemon.patiently(lambda: SqlStorage.open(settings), stop)  # until then messages wait at the broker
    if storage is None:
        return
    try:
        source = request_source(settings, MessageAcceptor(storage, Knocker(settings)))
        if source is None:
            raise ConfigurationError("no settings file names a broker; give an octavia.conf with --config-file")
        source.start()
        try:
            stop.wait()
        finally:
            source.stop()
    finally:
        storage.close()


if __name__ == "__main__":
    sys.exit(main())
