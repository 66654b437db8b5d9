"""Finding plugins and choosing drivers by name, with answers a person can act on."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import pluggy

from octavia_core.errors import ConfigurationError, DriverNotFound
from octavia_core.hooks import specs
from octavia_core.settings import Settings

__all__ = ["ALIASES", "KINDS", "Offer", "Plugins"]

log = logging.getLogger("octavia_core.hooks")

ALIASES: Mapping[str, str] = {
    "compute_nova_driver": "nova",
    "compute_noop_driver": "noop",
    "allowed_address_pairs_driver": "neutron",
    "network_noop_driver": "noop",
    "amphora_haproxy_rest_driver": "haproxy",
    "amphora_noop_driver": "noop",
    "barbican_cert_manager": "barbican",
    "local_cert_manager": "local",
    "noop_cert_manager": "noop",
    "stats_db": "database",
    "stats_logger": "log",
}
"""Upstream Octavia's driver names, as they stand in existing octavia.conf files, and ours."""


@attrs.frozen(kw_only=True)
class Offer:
    """A driver that a plugin offers: its kind ("compute", ...), name, and the package that brings it."""

    kind: str
    name: str
    package: str
    factory: Callable[[Settings], Any] = attrs.field(repr=False)


class Plugins:
    """The plugins of this process.

    Args:
        extra: plugin objects besides the installed ones, by name (an embedding program's own, a test's).
        installed: False leaves out what entry points bring.

    An installed plugin that cannot be imported is left out and named by `broken`, and by `DriverNotFound` when
    somebody wants a driver that is not there.

    Raises:
        ConfigurationError: a plugin implements a hook that does not exist.
    """

    def __init__(self, extra: Mapping[str, object] | None = None, *, installed: bool = True) -> None:
        self._manager = pluggy.PluginManager(specs.PROJECT)
        self._manager.add_hookspecs(specs)
        self._packages: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        for name, plugin in (extra or {}).items():
            self._manager.register(plugin, name=name)
            self._packages[name] = name
        if installed:
            self._load_installed()
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise ConfigurationError(f"a plugin implements a hook that does not exist: {error}") from error

    def _load_installed(self) -> None:
        for entry in importlib.metadata.entry_points(group=specs.PROJECT):
            if self._manager.has_plugin(entry.name):
                continue
            try:
                plugin = entry.load()
            except Exception as error:  # a foreign module may raise anything at import
                self.broken[entry.name] = f"{type(error).__name__}: {error}"
                log.warning("plugin %s (%s) cannot be loaded: %s", entry.name, entry.value, self.broken[entry.name])
                continue
            self._manager.register(plugin, name=entry.name)
            self._packages[entry.name] = entry.dist.name if entry.dist else entry.value

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks themselves."""
        return self._manager.hook

    def offers(self, kind: str) -> list[Offer]:
        """The drivers of a kind: compute, network, amphora, secret_store, statistics."""
        caller = getattr(self._manager.hook, _HOOKS[kind])
        found: list[Offer] = []
        for implementation in caller.get_hookimpls():
            name = implementation.plugin_name
            for driver, factory in implementation.function().items():
                clash = next((o for o in found if o.name == driver), None)
                if clash:
                    raise ConfigurationError(
                        f"two plugins offer a {kind} driver named {driver!r}: {clash.package} and {name}"
                    )
                found.append(Offer(kind=kind, name=driver, package=self._packages.get(name, name), factory=factory))
        return found

    def driver(self, kind: str, name: str, settings: Settings) -> Any:
        """Make the driver of that kind and name (upstream's names are understood).

        Raises:
            DriverNotFound: nobody offers it; the message lists what there is, and from which package.
            DriverUnavailable: it is known, but something it needs is not installed.
        """
        offers = self.offers(kind)
        wanted = ALIASES.get(name, name)
        for offer in offers:
            if wanted == offer.name:
                return offer.factory(settings)
        raise DriverNotFound(kind.replace("_", " "), name, _pairs(offers), self.broken)

    def event_listeners(self) -> list[tuple[str, Callable[..., None]]]:
        """(plugin name, its `octavia_events`) of each plugin that wants events, so that each can fail alone."""
        return [(i.plugin_name, _quiet(i.function)) for i in self._manager.hook.octavia_events.get_hookimpls()]

    def names(self) -> list[str]:
        """Names of the registered plugins, sorted."""
        return sorted(name for name, _ in self._manager.list_name_plugin())


_HOOKS = {
    "compute": "octavia_compute_drivers",
    "network": "octavia_network_drivers",
    "amphora": "octavia_amphora_drivers",
    "secret_store": "octavia_secret_stores",
    "statistics": "octavia_statistics_drivers",
}
KINDS = tuple(_HOOKS)
"""The kinds of drivers."""


def _pairs(offers: Iterable[Offer]) -> list[tuple[str, str]]:
    return [(offer.name, offer.package) for offer in offers]


def _quiet(function: Callable[..., object]) -> Callable[..., None]:
    """A listener's return value means nothing."""

    def call(**arguments: Any) -> None:
        function(**arguments)

    return call
