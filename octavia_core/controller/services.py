"""The threads of a running controller: worker, health, outbox, housekeeping."""

from __future__ import annotations

import logging
from collections.abc import Callable

from octavia_core.controller.adopt import Adopted, adopt
from octavia_core.controller.bell import Bell
from octavia_core.controller.health import HealthManager
from octavia_core.controller.outbox import Outbox
from octavia_core.controller.start import Started
from octavia_core.controller.tell import tell_agents
from octavia_core.domain.operation import Operation
from octavia_core.flows.runner import Ending

__all__ = ["Services"]

log = logging.getLogger("octavia_core.controller")


class Services:
    """Started together, stopped together, in the order that loses nothing.

    Args:
        started: what the controller consists of.
        on_ended: called with the id of each operation that a thread of ours brought to an end.
    """

    def __init__(self, started: Started, on_ended: Callable[[str], None]) -> None:
        settings = started.settings
        self._on_ended = on_ended
        self._started = started
        self.adopted = Adopted()
        self.worker = started.worker
        self.worker.on_ended = self._ended
        self.outbox = Outbox(
            started.storage,
            started.plugins.event_listeners(),
            timeout=settings.engine.event_timeout,
            pause=settings.engine.poll_interval,
        )
        self.bell = Bell(started.state.path, self.nudge) if started.state is not None else None
        self.health: HealthManager | None = None
        if started.receiver is not None:
            self.health = HealthManager(started.storage, settings, started.world, started.receiver, self.nudge)

    def start(self) -> None:
        """Start everything; on one machine, take over the servers that are there (a cloud's are never touched here)."""
        if self._started.lock is not None:  # so everybody else who worked here is dead
            storage = self._started.storage
            if storage.end_leases(but=self.worker.holder):
                log.info("operations of a controller that died are taken over")
            storage.transaction(lambda tx: tx.leave(but=self.worker.holder))
        if self._started.moved:
            tell_agents(self._started.storage, self._started.world)  # before health counts their silence
        self.worker.start()
        self.outbox.start()
        if self.bell is not None:
            self.bell.start()
        if self.health is not None:
            self.health.start()
            if self._started.state is not None:
                self.adopted = adopt(self._started.storage, self._started.world, self.health.died)

    def stop(self, grace: float) -> None:
        """Stop everything; see `Worker.stop` for what still runs."""
        if self.bell is not None:
            self.bell.stop()
        if self.health is not None:
            self.health.stop()
        self.worker.stop(grace)
        self.outbox.stop()

    def nudge(self) -> None:
        """Something was stored: look now."""
        self.worker.nudge()
        self.outbox.nudge()

    def _ended(self, operation: Operation, ending: Ending) -> None:
        self.outbox.nudge()
        if ending is Ending.CLOSED:
            self._on_ended(operation.id)
