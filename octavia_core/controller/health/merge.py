"""Traffic of one listener on one amphora, put together from several times."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from octavia_core.ports.hearts import TrafficDelta

__all__ = ["merged"]


def merged(deltas: Iterable[TrafficDelta]) -> list[TrafficDelta]:
    """One per listener and amphora, in the order of time: totals replace, and what follows is added to them."""
    merged: dict[tuple[str, str], TrafficDelta] = {}
    for delta in deltas:
        key = (delta.listener_id, delta.amphora_id)
        before = merged.get(key)
        if before is None or delta.absolute:
            merged[key] = delta
            continue
        merged[key] = attrs.evolve(
            delta,
            bytes_in=before.bytes_in + delta.bytes_in,
            bytes_out=before.bytes_out + delta.bytes_out,
            total_connections=before.total_connections + delta.total_connections,
            request_errors=before.request_errors + delta.request_errors,
            absolute=before.absolute,
        )
    return list(merged.values())
