"""What this plugin offers to the core. Importing it loads no oslo package; using it without them says what to install."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavia_core.domain.operation import Event
from octavia_core.errors import DriverUnavailable
from octavia_core.hooks.specs import Source, hookimpl
from octavia_core.ports.requests import Accept, RequestSource
from octavia_core.settings import Settings

__all__ = ["plugin"]

_MISSING = "octavia.conf and upstream's messages need oslo packages; run: pip install 'octavia-core[oslo]'"


class Oslo:
    """The plugin object; it remembers which octavia.conf is in use, for its notifications."""

    def __init__(self) -> None:
        self._files: tuple[str, ...] = ()
        self._notifications: Any = None

    @hookimpl
    def octavia_settings_sources(self) -> Mapping[str, Callable[[str], Mapping[str, Mapping[str, Any]]]]:
        """`octavia.conf`, as upstream's programs read it."""
        return {"octavia.conf": _read}

    @hookimpl
    def octavia_settings_defaults(self) -> Mapping[str, Callable[[], Sequence[Source]]]:
        """Upstream's environment variables, and the defaults that must not be passed over."""
        return {"octavia.conf": lambda: _conf().defaults()}

    @hookimpl
    def octavia_settings_overrides(self) -> Mapping[str, Callable[[], Sequence[Source]]]:
        """oslo.config's environment variables, OS_GROUP__OPTION."""
        return {"octavia.conf": lambda: _conf().overrides()}

    @hookimpl
    def octavia_settings_files(self) -> Mapping[str, Callable[[], Sequence[str]]]:
        """Where oslo.config looks for the files of project octavia."""
        return {"octavia.conf": lambda: _conf().usual_files()}

    @hookimpl
    def octavia_settings_remarks(self) -> Mapping[str, Callable[[str], Sequence[tuple[str, str, str]]]]:
        """What upstream knows and we do not use."""
        return {"octavia.conf": lambda path: _conf().remarks(path)}

    @hookimpl
    def octavia_request_sources(self) -> Mapping[str, Callable[[Sequence[str], Accept], RequestSource]]:
        """Messages of upstream's octavia-api, from the broker that octavia.conf names."""
        return {"octavia.conf": _consumer}

    @hookimpl
    def octavia_configured(self, settings: Settings) -> None:
        """Remember the files; without an octavia.conf there is nobody to notify."""
        files = tuple(file for file in settings.files if file.endswith(".conf"))
        if files != self._files:
            self._files, self._notifications = files, None

    @hookimpl
    def octavia_events(self, events: Sequence[Event]) -> None:
        """Notify, where octavia.conf asks for it."""
        if not self._files:
            return
        if self._notifications is None:
            self._notifications = _notifications(self._files)
        self._notifications.send(events)


plugin = Oslo()
"""What the entry point names."""


def _read(path: str) -> Mapping[str, Mapping[str, Any]]:
    values: Mapping[str, Mapping[str, Any]] = _conf().read(path)
    return values


def _conf() -> Any:
    try:
        from octavia_oslo import conf
    except ModuleNotFoundError as error:
        raise DriverUnavailable(_MISSING) from error
    return conf


def _consumer(files: Sequence[str], accept: Accept) -> RequestSource:
    from octavia_oslo.threads import use_threads

    use_threads()
    try:
        from octavia_oslo import conf
        from octavia_oslo.consumer import Consumer
    except ModuleNotFoundError as error:
        raise DriverUnavailable(_MISSING) from error
    return Consumer(conf.open_conf(files), accept)


def _notifications(files: Sequence[str]) -> Any:
    from octavia_oslo.threads import use_threads

    use_threads()
    from octavia_oslo import conf
    from octavia_oslo.notifications import Notifications

    return Notifications(conf.open_conf(files))
