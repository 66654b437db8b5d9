"""What plugins may offer. One typed hook per kind of driver; a driver is chosen by its name in the settings.

A plugin is a module (or object) registered under the entry-point group `octavia_core`. Each `*_drivers` hook returns
names and factories; a factory gets the settings, is called once, and may raise `DriverUnavailable` with what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from octavia_core.domain.operation import Event
from octavia_core.ports.amphora import AmphoraPort
from octavia_core.ports.compute import ComputePort
from octavia_core.ports.network import NetworkPort
from octavia_core.ports.requests import Accept, RequestSource
from octavia_core.ports.secrets import SecretStorePort
from octavia_core.ports.statistics import StatisticsPort
from octavia_core.settings import Settings

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "octavia_core"

Source = tuple[str, Mapping[str, Mapping[str, Any]]]
"""Where values come from, in words, and the values: group -> option -> value."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def octavia_compute_drivers() -> Mapping[str, Callable[[Settings], ComputePort]]:  # type: ignore[empty-body]
    """Offer compute drivers under the names that `[controller_worker] compute_driver` selects them by."""


@hookspec
def octavia_network_drivers() -> Mapping[str, Callable[[Settings], NetworkPort]]:  # type: ignore[empty-body]
    """Offer network drivers under the names that `[controller_worker] network_driver` selects them by."""


@hookspec
def octavia_amphora_drivers() -> Mapping[str, Callable[[Settings], AmphoraPort]]:  # type: ignore[empty-body]
    """Offer amphora drivers under the names that `[controller_worker] amphora_driver` selects them by."""


@hookspec
def octavia_secret_stores() -> Mapping[str, Callable[[Settings], SecretStorePort]]:  # type: ignore[empty-body]
    """Offer secret stores under the names that `[certificates] cert_manager` selects them by."""


@hookspec
def octavia_statistics_drivers() -> Mapping[str, Callable[[Settings], StatisticsPort]]:  # type: ignore[empty-body]
    """Offer places that count traffic, under the names that `[controller_worker] statistics_drivers` lists them by."""


@hookspec
def octavia_settings_sources() -> Mapping[str, Callable[[str], Mapping[str, Mapping[str, Any]]]]:  # type: ignore[empty-body]
    """Offer readers of settings files: file name (`octavia.toml`) -> function from path to group -> option -> value."""


@hookspec
def octavia_settings_defaults() -> Mapping[str, Callable[[], Sequence[Source]]]:  # type: ignore[empty-body]
    """Offer what counts where no file says otherwise: file name -> function to (origin, values) pairs, weakest first."""


@hookspec
def octavia_settings_overrides() -> Mapping[str, Callable[[], Sequence[Source]]]:  # type: ignore[empty-body]
    """Offer what wins over files of that name (the environment's): as `octavia_settings_defaults`."""


@hookspec
def octavia_settings_files() -> Mapping[str, Callable[[], Sequence[str]]]:  # type: ignore[empty-body]
    """Offer the files that are read when a program is told none: file name -> function to the paths that are there."""


@hookspec
def octavia_settings_remarks() -> Mapping[str, Callable[[str], Sequence[tuple[str, str, str]]]]:  # type: ignore[empty-body]
    """Offer remarks on a settings file: file name -> function from path to (group, option, what is to be said of it)."""


@hookspec
def octavia_request_sources() -> Mapping[str, Callable[[Sequence[str], Accept], RequestSource]]:  # type: ignore[empty-body]
    """Offer listeners for requests: settings file name (`octavia.conf`) -> factory, given all settings files and who stores."""


@hookspec(firstresult=True)
def octavia_heartbeat_address(settings: Settings) -> str | None:
    """Name the address of this machine that the drivers' amphorae send heartbeats to, or None where they do not care.

    Asked once, before heartbeats are received, and only where `[health_manager] bind_ip` is not set. The address need not
    be there yet: an interface that comes with the first amphora will do.
    """


@hookspec
def octavia_configured(settings: Settings) -> None:
    """Be told the settings, once, before any driver is asked for; `settings.files` are the files they came from."""


@hookspec
def octavia_events(events: Sequence[Event]) -> None:
    """Be told what happened, oldest first, at least once, on a thread of its own.

    Args:
        events: the batch; `Event.sequence` grows and tells repeats.
    """
