"""What this plugin offers to the core. Importing it loads no oslo package; using it without them says what to install."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavia_core.errors import DriverUnavailable
from octavia_core.hooks.specs import hookimpl
from octavia_core.ports.requests import Accept, RequestSource

__all__ = ["octavia_request_sources", "octavia_settings_defaults", "octavia_settings_sources"]

_MISSING = "octavia.conf and upstream's messages need oslo packages; run: pip install 'octavia-core[oslo]'"


@hookimpl
def octavia_settings_sources() -> Mapping[str, Callable[[str], Mapping[str, Mapping[str, Any]]]]:
    """`octavia.conf`, as upstream's programs read it."""
    return {"octavia.conf": _read}


@hookimpl
def octavia_settings_defaults() -> Mapping[str, Callable[[], Mapping[str, Mapping[str, Any]]]]:
    """Upstream's environment variables."""
    return {"octavia.conf": _environment}


@hookimpl
def octavia_request_sources() -> Mapping[str, Callable[[Sequence[str], Accept], RequestSource]]:
    """Messages of upstream's octavia-api, from the broker that octavia.conf names."""
    return {"octavia.conf": _consumer}


def _read(path: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        from octavia_oslo import conf
    except ModuleNotFoundError as error:
        raise DriverUnavailable(_MISSING) from error
    return conf.read(path)


def _environment() -> Mapping[str, Mapping[str, Any]]:
    try:
        from octavia_oslo import conf
    except ModuleNotFoundError as error:
        raise DriverUnavailable(_MISSING) from error
    return conf.environment()


def _consumer(files: Sequence[str], accept: Accept) -> RequestSource:
    from octavia_oslo.threads import use_threads

    use_threads()
    try:
        from octavia_oslo import conf
        from octavia_oslo.consumer import Consumer
    except ModuleNotFoundError as error:
        raise DriverUnavailable(_MISSING) from error
    return Consumer(conf.open_conf(files), accept)
