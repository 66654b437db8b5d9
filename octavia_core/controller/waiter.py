"""Looking at what parked operations wait for: all waits of one kind with one port call and one statement.

An operation is parked until its wait fails by its deadline; whoever sees earlier that it is over wakes it. So ten
thousand booting servers cost no thread, no claim and no replay, only one question to the cloud now and then.
"""

from __future__ import annotations

import logging

from octavia_core.controller.duty import SHARED, Duty
from octavia_core.errors import OctaviaError
from octavia_core.flows.waits import CHECKS, Wait, check, wait_from_json
from octavia_core.flows.world import World
from octavia_core.ports.storage import Storage

__all__ = ["SHORTEST", "WAITS", "Waiter"]

log = logging.getLogger("octavia_core.worker")

SHORTEST = 0.05
"""Seconds between two looks at least, however quick the cloud is: what is quicker does not park."""
WAITS = "waits"
"""Name of the duty."""


class Waiter:
    """Wakes operations whose waits are over. Not thread-safe.

    Args:
        storage: whose operations.
        world: what they wait for.
        idle: seconds between looks while nothing waits.
        led: it is one of several processes, which share this; by itself it shares long rounds with other hosts only.
        deputy: another of these processes looks; this one steps in when nobody does.
    """

    def __init__(self, storage: Storage, world: World, *, idle: float, led: bool = False, deputy: bool = False) -> None:
        self._storage, self._world = storage, world
        self._idle, self._led = idle, led
        self._duty = Duty(storage, world.clock, WAITS, deputy=deputy)

    @property
    def pause(self) -> float:
        """Seconds between looks while something waits."""
        return max(self._world.compute.poll_interval, SHORTEST)

    def tick(self) -> float:
        """Look once, unless somebody else does; seconds until the next look.

        Raises:
            TransientError: the database does not answer.
        """
        pause = self.pause
        if (self._led or pause >= SHARED) and not self._duty.mine(pause):
            return max(pause, SHARED)
        return pause if self.look() else max(self._idle, pause)

    def look(self) -> int:
        """Check every wait now, and wake those that are over; how many there were."""
        waits = self._storage.waits(tuple(CHECKS))
        kinds: dict[str, list[tuple[str, Wait]]] = {}
        over: list[str] = []
        for operation_id, data in waits:
            try:
                kinds.setdefault(data["kind"], []).append((operation_id, wait_from_json(data)))
            except (KeyError, TypeError, ValueError) as error:
                # written by another version: its own worker, or its deadline, will see to it
                log.warning("operation %s waits for what this version cannot read: %s", operation_id, error)
        for kind, found in kinds.items():
            try:
                outcomes = check(self._world, [wait for _, wait in found])
            except OctaviaError as error:
                log.warning("what %d operation(s) wait for (%s) cannot be looked at: %s", len(found), kind, error)
                continue
            over += [id for (id, _), outcome in zip(found, outcomes, strict=True) if outcome is not None]
        if over:
            self._storage.wake(over)
        return len(waits)
