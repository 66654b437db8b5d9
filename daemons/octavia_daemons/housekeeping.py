"""octavia-core-housekeeping: removes rows whose time is over."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence

from octavia_core.db.storage import SqlStorage
from octavia_core.errors import TransientError
from octavia_core.ports.storage import Storage
from octavia_core.settings import Settings
from octavia_daemons import daemon

__all__ = ["clean", "main", "serve"]

log = logging.getLogger("octavia_daemons.housekeeping")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the housekeeping; see `daemon.run`."""
    return daemon.run("octavia-core-housekeeping", "Remove rows whose time is over.", serve, argv)


def serve(settings: Settings, stop: threading.Event) -> None:
    """Clean at once, then every `cleanup_interval`, until `stop`. Copies side by side do not disturb each other."""
    storage = daemon.patiently(lambda: SqlStorage.open(settings), stop)
    if storage is None:
        return
    try:
        while True:
            try:
                clean(storage, settings, stop)
            except TransientError as error:
                log.warning("the database does not answer, trying again later: %s", error)
            if stop.wait(settings.house_keeping.cleanup_interval):
                return
    finally:
        storage.close()


def clean(storage: Storage, settings: Settings, stop: threading.Event) -> int:
    """Remove what is old, in small transactions; how many rows went."""
    ages = settings.house_keeping
    total = 0
    while not stop.is_set():
        gone = storage.transaction(
            lambda tx: tx.purge(
                amphora_age=ages.amphora_expiry_age, load_balancer_age=ages.load_balancer_expiry_age, limit=200
            )
        )
        if not gone:
            break
        total += gone
    if total:
        log.info("removed %d row(s) whose time was over", total)
    return total


if __name__ == "__main__":
    sys.exit(main())
