"""Where amphorae are: what fails together."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping

from octavia_core.ports.hearts import Liveness

__all__ = ["domains"]


def domains(heart: Liveness) -> Mapping[str, str]:
    """Kind ("host", "zone", "network") -> name; what is not known is left out. A network is a /24 or /64."""
    places = {}
    if heart.host:
        places["host"] = heart.host
    if heart.zone:
        places["zone"] = heart.zone
    network = _network(heart.address) if heart.address else None
    if network is not None:
        places["network"] = network
    return places


_IPV4 = re.compile(
    r"((?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3})(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])", re.ASCII
)
"""As nearly all amphorae have it; taking it apart is a twentieth of what `ipaddress` takes over it."""


@functools.lru_cache(maxsize=200_000)
def _network(text: str) -> str | None:
    if found := _IPV4.fullmatch(text):
        return f"{found[1]}0/24"
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    length = 24 if address.version == 4 else 64
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))
