"""The outside, as flows see it: one value with every port, passed in."""

from __future__ import annotations

import attrs

from octavia_core.ports.amphora import AmphoraPort
from octavia_core.ports.clock import Clock
from octavia_core.ports.compute import ComputePort
from octavia_core.ports.network import NetworkPort
from octavia_core.ports.secrets import CertificatesPort, IssuerPort
from octavia_core.settings import Settings

__all__ = ["World"]


@attrs.frozen(kw_only=True)
class World:
    """The drivers in use. Flows call them inside steps only."""

    compute: ComputePort
    network: NetworkPort
    amphora: AmphoraPort
    certificates: CertificatesPort
    issuer: IssuerPort
    settings: Settings
    clock: Clock
