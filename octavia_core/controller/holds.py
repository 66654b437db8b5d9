"""What holds failovers back, as events say it: each health manager says when a rule begins to, and when that is over."""

from __future__ import annotations

from collections.abc import Sequence

from octavia_core.domain.operation import Event
from octavia_core.ports.storage import Transaction

__all__ = ["ENDED", "HELD", "RESUMED", "standing"]

HELD, RESUMED = "failover.held", "failover.resumed"
ENDED = "ended"
"""Where a health manager's row says of amphorae that are not replaced yet that they have ended, and what proves it."""
_LOOKED_THROUGH = 500
"""Events of both names that are looked through: what began so long before them is over."""


def standing(tx: Transaction) -> Sequence[Event]:
    """The beginnings that no end followed, the newest first; one for each rule and health manager (`by`, where it is said)."""
    said: set[tuple[object, object]] = set()
    found = []
    for event in tx.newest_events((HELD, RESUMED), limit=_LOOKED_THROUGH):
        key = event.data.get("rule"), event.data.get("by")
        if key not in said and event.name == HELD:
            found.append(event)
        said.add(key)
    return found
