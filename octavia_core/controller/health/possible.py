"""Whether a health manager could begin with other settings, asked while one works with its own."""

from __future__ import annotations

from octavia_core.controller import state as core_sources
from octavia_core.controller.health.metrics import Metrics, State, check_metrics
from octavia_core.controller.health.receive import bind_receiver
from octavia_core.controller.statistics import Totals
from octavia_core.controller.wiring import build_world
from octavia_core.errors import ConfigurationError
from octavia_core.hooks.plugins import Plugins
from octavia_core.settings import Settings

__all__ = ["check_key", "check_possible"]


def check_key(settings: Settings) -> None:
    """Raises ConfigurationError where no heartbeat could be believed, for want of a key."""
    if settings.health_manager.heartbeat_key is None:
        raise ConfigurationError("[health_manager] heartbeat_key is not set, so no heartbeat could be believed; set it")


def check_possible(settings: Settings, now: Settings) -> None:
    """Look at all that can be looked at without a pause of the one that works; what is taken is given back at once.

    The database is not asked: one that is away is waited for. An address of which only a part is new cannot be tried
    beside the one that works; that comes out when it has ended.

    Args:
        settings: with which one would begin.
        now: with which one works in this process: its ports are ours to have again.

    Raises:
        ConfigurationError: it could not begin; the sentence says why.
    """
    check_key(settings)
    world = build_world(settings, Plugins({"core": core_sources}))
    try:
        places = world.statistics()
        try:
            totals = next((one for one in places.values() if isinstance(one, Totals)), None)
            check_metrics(settings.health_manager.metrics_address, totals)
        finally:
            for place in places.values():
                place.close()
    finally:
        world.amphora.close()
    wanted, had = settings.health_manager, now.health_manager
    if wanted.bind_port != had.bind_port:
        bind_receiver(settings).close()
    if wanted.metrics_address and _port(wanted.metrics_address) != _port(had.metrics_address):
        metrics = Metrics(wanted.metrics_address, lambda: _DEAF, None)
        metrics.start()
        metrics.stop()


def _port(address: str) -> str:
    return address.rpartition(":")[2]


_DEAF = State(
    listening=False,
    looked={},
    datagrams={},
    declared={},
    held={},
    undecided=0,
    uncounted={},
    alive=None,
)
"""What is said to a Prometheus that asks while an address is tried."""
