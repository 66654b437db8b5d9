"""What outlives new settings: sockets, processes that receive, and all that is known of amphorae."""

from __future__ import annotations

import logging
import socket
import threading

from octavia_core.controller.health.fronts import Fronts
from octavia_core.controller.health.hear import Hearing, Here, Told
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.pairs import Pairs
from octavia_core.controller.health.write import Changes
from octavia_core.controller.holder import holder_name
from octavia_core.settings import HealthManager as Options
from octavia_core.settings import Settings

__all__ = ["Ears"]

log = logging.getLogger("octavia_core.health")

REAPPLY = 2.0
"""Seconds after which an unchanged report is held against the rows again, at least three heartbeats: a row may have
changed meanwhile."""
FRESH = 3
"""Heartbeats, times as many as there are controllers that hear them in turn: so old a report counts beside the other
one of its pair."""
DISPUTED = 2
"""Heartbeats for which the two of a pair may differ about a member."""


class Ears:
    """Hears and remembers, for one health manager after the other.

    Args:
        settings: with the address that the socket is bound to.
        bound: a UDP socket, closed by `stop`.
        processes: how many processes receive; 0: a thread of this one.

    Attributes:
        observer: the name of whoever hears with them.
        news: set when a report says something new.
        since: microseconds of the database's clock since when everything that is sent is heard and written, 0 while it is not.
        deaf: whether nothing is heard now.
        memory, hearing, pairs, changes: the parts.
    """

    def __init__(self, settings: Settings, bound: socket.socket, processes: int) -> None:
        self._settings = settings
        self.port = int(bound.getsockname()[1])
        self.observer, self.news = holder_name(), threading.Event()
        self.since, self.deaf = 0, False
        self.memory, self.changes = Memory(0.0), Changes()
        self.pairs = Pairs(self.memory, fresh=0.0, patience=0.0)
        told = Told(self.news.set, self._deafness)
        self.hearing: Hearing = (
            Fronts(settings, bound, self.memory, told, processes)
            if processes
            else Here(settings, bound, self.memory, told)
        )
        self._set_pace(settings.health_manager)
        self._started = False

    def fit(self, settings: Settings) -> bool:
        """Whether these settings ask for the same sockets and as many processes."""
        return _bound_by(settings.health_manager, self.port) == _bound_by(self._settings.health_manager, self.port)

    def start(self) -> None:
        """Hear. Twice is harmless."""
        if not self._started:
            self._started = True
            self.hearing.start()

    def renew(self, settings: Settings) -> None:
        """Go on with other settings, on the same sockets. What is known is kept; where it is another database, all of it is held
        against its rows.
        """
        before, self._settings = self._settings, settings
        self._set_pace(settings.health_manager)
        self.hearing.renew(settings)
        if settings.database != before.database:
            self.since, self.changes = 0, Changes()
            self.memory.forget_rows()

    def count_from(self, now: int) -> None:
        """Silence counts from then on; not while nothing is heard, whenever in this very moment that began."""
        self.since = now
        if self.deaf:
            self.since = 0

    def stop(self) -> None:
        """End, and close the sockets. Twice is harmless."""
        self.hearing.stop()

    def _set_pace(self, options: Options) -> None:
        controllers = max(1, len(options.controller_ip_port_list))
        self.memory.reapply, self.memory.trial = max(REAPPLY, 3 * options.heartbeat_interval), options.heartbeat_timeout
        self.pairs.fresh = FRESH * options.heartbeat_interval * controllers
        self.pairs.patience = DISPUTED * options.heartbeat_interval

    def _deafness(self, deaf: bool) -> None:
        self.deaf = deaf
        if deaf:
            self.since = 0  # whoever writes sets it when something can be heard and written again


def _bound_by(options: Options, port: int) -> tuple[str, int, int, int]:
    """What decides about sockets."""
    return options.bind_ip, options.bind_port or port, options.sock_rlimit, options.health_update_threads
