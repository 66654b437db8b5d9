"""Health: heartbeats in, statuses and failovers out.

`receive` reads datagrams, `memory` keeps the newest of each amphora, `write` puts them into the database in batches,
`look` finds the silent, `ask` looks at their agents and servers, `act` does what the governor decided; `manager` runs
them on three threads.
"""

from __future__ import annotations

from octavia_core.controller.health.manager import HealthManager
from octavia_core.controller.health.receive import bind_receiver

__all__ = ["HealthManager", "bind_receiver"]
