"""From settings and plugins to a world of drivers."""

from __future__ import annotations

import attrs

from octavia_core.certs.authority import Authority
from octavia_core.certs.cache import Certificates
from octavia_core.controller.sources import beside_an_api
from octavia_core.flows.world import World
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.clock import Clock, SystemClock
from octavia_core.settings import Settings

__all__ = ["build_world", "with_receiver"]


def build_world(settings: Settings, plugins: Plugins, clock: Clock | None = None) -> World:
    """Make the drivers that the settings name.

    Raises:
        DriverNotFound: a name that nobody offers; the message lists what there is.
        DriverUnavailable: a driver lacks something that can be installed.
        ConfigurationError: certificates or keys of the controller cannot be used.
    """
    clock = clock or SystemClock()
    chosen = settings.controller_worker
    store = plugins.driver("secret_store", settings.certificates.cert_manager, settings)
    return World(
        compute=plugins.driver("compute", chosen.compute_driver, settings),
        network=plugins.driver("network", chosen.network_driver, settings),
        amphora=plugins.driver("amphora", chosen.amphora_driver, settings),
        certificates=Certificates(store, seconds=settings.certificates.cache_seconds, clock=clock),
        issuer=Authority.from_settings(settings, clock, drop_in=beside_an_api(settings, plugins)),
        settings=settings,
        clock=clock,
    )


def with_receiver(settings: Settings, port: int) -> Settings:
    """The settings with the port that heartbeats really come to, and amphorae told of it unless a list says otherwise."""
    health = settings.health_manager
    targets = health.controller_ip_port_list
    if not targets:
        host = f"[{health.bind_ip}]" if ":" in health.bind_ip else health.bind_ip
        targets = (f"{host}:{port}",)
    return attrs.evolve(settings, health_manager=attrs.evolve(health, bind_port=port, controller_ip_port_list=targets))
