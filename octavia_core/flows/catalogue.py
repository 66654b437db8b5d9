"""Every flow of the product, by name and version. What is not here cannot be claimed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from octavia_core.flows.failovers import FAILOVER
from octavia_core.flows.flow import Flow
from octavia_core.flows.load_balancers import CONFIGURE, CREATE, DELETE
from octavia_core.flows.single import CONFIGURE_AGENT, CREATE_SPARE, DELETE_AMPHORA

__all__ = ["CLEANUP", "FLOWS", "claimable", "flow_of"]

CLEANUP = "cleanup"
"""Operations that finish an undo which could not be finished in time; the runner carries them out itself."""

_ALL = (CREATE, CONFIGURE, DELETE, FAILOVER, DELETE_AMPHORA, CONFIGURE_AGENT, CREATE_SPARE)

FLOWS: Mapping[tuple[str, int], Flow] = MappingProxyType({(flow.name, flow.version): flow for flow in _ALL})


def flow_of(name: str, version: int) -> Flow | None:
    """The flow, or None when this release does not know it."""
    return FLOWS.get((name, version))


def claimable() -> Mapping[str, Collection[int]]:
    """Names and versions that a worker of this release may claim."""
    known: dict[str, set[int]] = {CLEANUP: {1}}
    for name, version in FLOWS:
        known.setdefault(name, set()).add(version)
    return known
