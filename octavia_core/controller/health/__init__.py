"""Health: heartbeats in, statuses and failovers out.

`receive` reads datagrams, `hear` turns them into reports (`fronts` through processes, whose program is `front` and whose language
`frames`), `memory` keeps the newest of each amphora (`known`; `order` tells what is played back, `grown` makes totals grow), `write`
puts them into the database in batches, what the two of a pair say put together (`pairs`). `look` finds the silent among those that
are `watched`, `ask` looks at their agents and servers, `deaths` takes those that are proven, `act` does what the governor decided,
`again` what failed; `figures` and `metrics` show it all. `manager` runs them; what hears and remembers (`ears`) outlives it when
settings are new, and `possible` asks whether it could begin with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavia_core.controller.health.manager import HealthManager
    from octavia_core.controller.health.receive import bind_receiver

__all__ = ["HealthManager", "bind_receiver"]

_HOME = {
    "HealthManager": "octavia_core.controller.health.manager",
    "bind_receiver": "octavia_core.controller.health.receive",
}


def __getattr__(name: str) -> Any:
    """A front process needs little of this room, and is small and quick to start for it."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
