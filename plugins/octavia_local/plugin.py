"""What this package offers: everything that one machine without a cloud needs, under the name `local`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from octavia_core.hooks.specs import hookimpl
from octavia_core.ports.compute import ComputePort
from octavia_core.ports.network import NetworkPort
from octavia_core.ports.secrets import SecretStorePort
from octavia_core.settings import Settings

__all__ = [
    "octavia_compute_drivers",
    "octavia_heartbeat_address",
    "octavia_network_drivers",
    "octavia_secret_stores",
]


@hookimpl
def octavia_compute_drivers() -> Mapping[str, Callable[[Settings], ComputePort]]:
    """Amphorae as processes of this machine, on loopback or in network namespaces."""
    return {"local": _compute}


@hookimpl
def octavia_network_drivers() -> Mapping[str, Callable[[Settings], NetworkPort]]:
    """VIPs on loopback, or on a bridge of this machine."""
    return {"local": _network}


@hookimpl
def octavia_secret_stores() -> Mapping[str, Callable[[Settings], SecretStorePort]]:
    """Secrets from files."""
    return {"local": _secrets}


@hookimpl
def octavia_heartbeat_address(settings: Settings) -> str | None:
    """In network namespaces, this machine's address on the management network."""
    local = settings.controller_worker.compute_driver == "local" and settings.state_directory
    if not local or settings.local.amphora == "process":
        return None
    from octavia_local.form import form_of

    if not form_of(settings).namespaces:
        return None
    from octavia_local.namespaces import plan_of

    return plan_of(settings).controller


def _compute(settings: Settings) -> ComputePort:
    from octavia_local.compute import LocalCompute

    return LocalCompute(settings)


def _network(settings: Settings) -> NetworkPort:
    from octavia_local.form import form_of

    if form_of(settings).namespaces:
        from octavia_local.namespace_network import NamespaceNetwork

        return NamespaceNetwork(settings)
    from octavia_local.network import LocalNetwork

    return LocalNetwork(settings)


def _secrets(settings: Settings) -> SecretStorePort:
    from octavia_local.secrets import FileSecrets

    return FileSecrets(settings)
