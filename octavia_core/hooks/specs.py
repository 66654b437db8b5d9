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
from octavia_core.settings import Settings

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "octavia_core"

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
def octavia_settings_sources() -> Mapping[str, Callable[[str], Mapping[str, Mapping[str, Any]]]]:  # type: ignore[empty-body]
    """Offer readers of settings files: file name (`octavia.toml`) -> function from path to group -> option -> value."""


@hookspec
def octavia_settings_defaults() -> Mapping[str, Callable[[], Mapping[str, Mapping[str, Any]]]]:  # type: ignore[empty-body]
    """Offer values that count where no file says otherwise (the environment's), for settings read from files of that name."""


@hookspec
def octavia_request_sources() -> Mapping[str, Callable[[Sequence[str], Accept], RequestSource]]:  # type: ignore[empty-body]
    """Offer listeners for requests: settings file name (`octavia.conf`) -> factory, given all settings files and who stores."""


@hookspec
def octavia_configured(settings: Settings) -> None:
    """Be told the settings, once, before any driver is asked for; `settings.files` are the files they came from."""


@hookspec
def octavia_events(events: Sequence[Event]) -> None:
    """Be told what happened, oldest first, at least once, on a thread of its own.

    Args:
        events: the batch; `Event.sequence` grows and tells repeats.
    """
