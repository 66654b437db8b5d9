"""The simulator as a plugin: drivers named `noop`, like those of upstream that do nothing outside.

Settings choose them by name as any driver; the cloud is then the file `simulator.db` in the state directory. A test gives
a cloud of its own: `Plugins(extra={"simulator": Simulator(cloud)})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from octavia_core.errors import ConfigurationError
from octavia_core.hooks.specs import hookimpl
from octavia_core.ports.amphora import AmphoraPort
from octavia_core.ports.compute import ComputePort
from octavia_core.ports.network import NetworkPort
from octavia_core.ports.secrets import SecretStorePort
from octavia_core.settings import Settings
from octavia_core.testing.outside import SimulatedCloud
from octavia_core.testing.simulator import SimulatedAmphorae, SimulatedCompute, SimulatedNetwork, SimulatedSecrets

__all__ = ["Simulator"]


class Simulator:
    """The plugin object.

    Args:
        cloud: the cloud that all drivers share; None takes the one in the state directory.
    """

    def __init__(self, cloud: SimulatedCloud | None = None) -> None:
        self._cloud = cloud

    @hookimpl
    def octavia_compute_drivers(self) -> Mapping[str, Callable[[Settings], ComputePort]]:
        """Simulated servers."""
        return {"noop": lambda settings: SimulatedCompute(self._of(settings))}

    @hookimpl
    def octavia_network_drivers(self) -> Mapping[str, Callable[[Settings], NetworkPort]]:
        """Simulated addresses."""
        return {"noop": lambda settings: SimulatedNetwork(self._of(settings))}

    @hookimpl
    def octavia_amphora_drivers(self) -> Mapping[str, Callable[[Settings], AmphoraPort]]:
        """Simulated agents."""
        return {"noop": lambda settings: SimulatedAmphorae(self._of(settings))}

    @hookimpl
    def octavia_secret_stores(self) -> Mapping[str, Callable[[Settings], SecretStorePort]]:
        """Simulated secrets."""
        return {"noop": lambda settings: SimulatedSecrets(self._of(settings))}

    def _of(self, settings: Settings) -> SimulatedCloud:
        if self._cloud is not None:
            return self._cloud
        if not settings.state_directory:
            raise ConfigurationError("the noop drivers need a state directory, or a cloud: Simulator(SimulatedCloud())")
        return SimulatedCloud(Path(settings.state_directory) / "simulator.db")


_installed = Simulator()
octavia_compute_drivers = _installed.octavia_compute_drivers
octavia_network_drivers = _installed.octavia_network_drivers
octavia_amphora_drivers = _installed.octavia_amphora_drivers
octavia_secret_stores = _installed.octavia_secret_stores
