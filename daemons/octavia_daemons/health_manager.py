"""octavia-core-health-manager: receives heartbeats, writes statuses, asks for failovers (workers carry them out)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from octavia_core.controller.health import HealthManager
from octavia_core.controller.health.ears import Ears
from octavia_core.controller.health.frozen import Frozen
from octavia_core.controller.health.possible import check_key, check_possible
from octavia_core.controller.knock import Knocker
from octavia_core.controller.start import Started, start
from octavia_core.controller.wiring import with_receiver
from octavia_core.settings import Settings
from octavia_daemons import daemon

__all__ = ["Lives", "main"]

log = logging.getLogger("octavia_daemons")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the health manager; see `daemon.run`."""
    lives = Lives()
    try:
        return daemon.run(
            "octavia-core-health-manager",
            "Receive heartbeats and judge silence.",
            lives.serve,
            argv,
            check=check_possible,
        )
    finally:
        lives.close()


class Lives:
    """One health manager after the other, each with the settings of its time. They hear with the same ears, which go on meanwhile,
    unless their sockets are to be others.
    """

    def __init__(self) -> None:
        self._ears: Ears | None = None

    def close(self) -> None:
        """Nobody hears any more."""
        if self._ears is not None:
            self._ears.stop()
            self._ears = None

    def serve(self, settings: Settings, over: daemon.Over) -> None:
        """Receive and judge until it is over.

        Raises:
            ConfigurationError: no heartbeat key, or the address cannot be had.
        """
        check_key(settings)
        before = self._ears
        started = self._start(settings, over)
        if started is None:
            return
        keep_ears = True  # whatever it was, the next one may hear with them
        try:
            assert self._ears is not None
            knock = Knocker(started.settings)
            health = HealthManager(started.storage, started.settings, started.world, self._ears, on_failover=knock)
            health.frozen = Frozen()
            try:
                health.start()
                if self._ears is before:
                    log.info("the new settings are in use; heartbeats were received all the while")
                over.wait()
                keep_ears = over.again
            finally:
                health.stop(keep_ears=keep_ears)
                if not keep_ears:
                    self._ears = None
        finally:
            started.release()

    def _start(self, settings: Settings, over: daemon.Over) -> Started | None:
        """The parts, and ears; None when it is over before."""
        started = _parts(settings, over, bind=self._ears is None)
        if started is not None and self._ears is not None:
            if self._ears.fit(started.settings):
                started.settings = with_receiver(started.settings, self._ears.port)
                return started
            started.release()
            self.close()
            started = _parts(settings, over, bind=True)
        if started is not None:
            assert started.receiver is not None
            processes = max(1, started.settings.health_manager.health_update_threads)
            try:
                self._ears = Ears(started.settings, started.receiver, processes)
            except BaseException:  # whatever it was, the next one begins with nothing
                started.release()
                raise
            started.receiver = None  # it is theirs
        return started


def _parts(settings: Settings, over: daemon.Over, *, bind: bool) -> Started | None:
    return daemon.patiently(lambda: start(None, settings=settings, plugins=None, run=bind, whole=True), over)


if __name__ == "__main__":
    sys.exit(main())
