"""From settings and plugins to a world of drivers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs

from octavia_core.certs.authority import Authority
from octavia_core.certs.cache import Certificates
from octavia_core.controller.sources import beside_an_api
from octavia_core.controller.statistics import places
from octavia_core.flows.world import World
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.clock import Clock, SystemClock
from octavia_core.settings import Settings

__all__ = ["build_world", "with_receiver"]


def build_world(settings: Settings, plugins: Plugins, clock: Clock | None = None, *, on_use: bool = False) -> World:
    """Make the drivers that the settings name.

    Args:
        settings: which they are, and theirs.
        plugins: where they come from.
        clock: the system's, if None.
        on_use: make each of them when it is used first, if ever, and raise then: for who looks at the database.

    Raises:
        DriverNotFound: a name that nobody offers; the message lists what there is.
        DriverUnavailable: a driver lacks something that can be installed.
        ConfigurationError: certificates or keys of the controller cannot be used.
    """
    time = clock or SystemClock()
    chosen = settings.controller_worker

    def made(make: Callable[[], Any]) -> Any:
        return _OnUse(make) if on_use else make()

    def certificates() -> Certificates:
        store = plugins.driver("secret_store", settings.certificates.cert_manager, settings)
        return Certificates(store, seconds=settings.certificates.cache_seconds, clock=time)

    return World(
        compute=made(lambda: plugins.driver("compute", chosen.compute_driver, settings)),
        network=made(lambda: plugins.driver("network", chosen.network_driver, settings)),
        amphora=made(lambda: plugins.driver("amphora", chosen.amphora_driver, settings)),
        certificates=made(certificates),
        issuer=made(lambda: Authority.from_settings(settings, time, drop_in=beside_an_api(settings, plugins))),
        settings=settings,
        clock=time,
        statistics=lambda: places(settings, plugins),
    )


class _OnUse:
    """Stands for a driver until one of its attributes is asked for, which makes it. Thread-safe."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: Any = None

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
        return getattr(self._made, name)

    def close(self) -> None:
        """Nothing, where nothing was made."""
        if self._made is not None:
            self._made.close()


def with_receiver(settings: Settings, port: int) -> Settings:
    """The settings with the port that heartbeats really come to, and amphorae told of it unless a list says otherwise."""
    health = settings.health_manager
    targets = health.controller_ip_port_list
    if not targets:
        host = f"[{health.bind_ip}]" if ":" in health.bind_ip else health.bind_ip
        targets = (f"{host}:{port}",)
    return attrs.evolve(settings, health_manager=attrs.evolve(health, bind_port=port, controller_ip_port_list=targets))
