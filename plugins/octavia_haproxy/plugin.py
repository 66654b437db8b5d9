"""What this plugin offers to the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from octavia_core.hooks.specs import hookimpl
from octavia_core.ports.amphora import AmphoraPort
from octavia_core.settings import Settings

__all__ = ["octavia_amphora_drivers"]


@hookimpl
def octavia_amphora_drivers() -> Mapping[str, Callable[[Settings], AmphoraPort]]:
    """`haproxy`: amphorae with HAProxy behind upstream's agent API. Upstream's name for it is amphora_haproxy_rest_driver."""
    return {"haproxy": _make}


def _make(settings: Settings) -> AmphoraPort:
    from octavia_haproxy.driver import HaproxyDriver

    return HaproxyDriver(settings)
