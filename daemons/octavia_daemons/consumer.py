"""octavia-core-consumer: receives upstream's messages and stores each as an operation; workers carry them out.

A process of its own, so that messages are taken promptly however busy the workers are.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence

from octavia_core.controller.knock import Knocker
from octavia_core.controller.requests import MessageAcceptor
from octavia_core.controller.sources import request_source
from octavia_core.db.storage import SqlStorage
from octavia_core.errors import ConfigurationError, TransientError
from octavia_core.settings import Settings
from octavia_daemons import daemon

__all__ = ["main", "serve"]

log = logging.getLogger("octavia_daemons.consumer")

PAUSE = 1.0
"""Seconds between two attempts to reach the database at the start."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the consumer; see `daemon.run`."""
    return daemon.run("octavia-core-consumer", "Receive requests of octavia-api.", serve, argv)


def serve(settings: Settings, stop: threading.Event) -> None:
    """Listen until `stop`."""
    storage = _open(settings, stop)
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


def _open(settings: Settings, stop: threading.Event) -> SqlStorage | None:
    """The storage, as soon as the database answers: until then messages wait at the broker. None when told to stop."""
    while not stop.is_set():
        try:
            return SqlStorage.open(settings)
        except TransientError as error:
            log.warning("trying again: %s", error)
            stop.wait(PAUSE)
    return None


if __name__ == "__main__":
    sys.exit(main())
