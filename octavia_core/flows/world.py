"""The outside, as flows see it: one value with every port, passed in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import attrs

from octavia_core.policy.marks import marks_of
from octavia_core.ports.amphora import AmphoraPort
from octavia_core.ports.clock import Clock
from octavia_core.ports.compute import ComputePort
from octavia_core.ports.network import NetworkPort
from octavia_core.ports.secrets import CertificatesPort, IssuerPort
from octavia_core.ports.statistics import StatisticsPort
from octavia_core.settings import Settings

__all__ = ["World"]


@attrs.frozen(kw_only=True)
class World:
    """The drivers in use. Flows call them inside steps only.

    Attributes:
        statistics: makes the places that count traffic, by name; asked by the one that writes it.
    """

    compute: ComputePort
    network: NetworkPort
    amphora: AmphoraPort
    certificates: CertificatesPort
    issuer: IssuerPort
    settings: Settings
    clock: Clock
    statistics: Callable[[], Mapping[str, StatisticsPort]] = dict

    @functools.cached_property
    def marks(self) -> Mapping[str, str]:
        """Fingerprints of what these settings give to agents; see `octavia_core.policy.marks`."""
        return marks_of(self.settings)
