"""Drivers of the simulated cloud: compute, network, amphora agents and a secret store, in no machine but SQLite.

They pass the same contract tests as the real drivers. Amphorae accept any configuration, remember it and serve nobody.
"""

from __future__ import annotations

from octavia_core.testing.simulator.amphorae import SimulatedAmphorae
from octavia_core.testing.simulator.compute import SimulatedCompute
from octavia_core.testing.simulator.network import SimulatedNetwork
from octavia_core.testing.simulator.places import MANAGEMENT, VIPS
from octavia_core.testing.simulator.secrets import SimulatedSecrets

__all__ = ["MANAGEMENT", "VIPS", "SimulatedAmphorae", "SimulatedCompute", "SimulatedNetwork", "SimulatedSecrets"]
