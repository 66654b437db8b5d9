"""Where things of the simulated cloud are."""

from __future__ import annotations

import ipaddress
import uuid

__all__ = ["FURTHER", "HOSTS", "MANAGEMENT", "NETWORK_ID", "SUBNET_ID", "VIPS", "further_subnet"]

MANAGEMENT = ipaddress.IPv4Network("10.64.0.0/12")
"""Where simulated agents are."""

VIPS = ipaddress.IPv4Network("10.128.0.0/16")
"""Where simulated VIPs are."""

FURTHER = ipaddress.IPv4Network("10.144.0.0/16")
"""Where simulated additional VIPs are."""

HOSTS = 4
"""Machines that simulated servers are spread over, one after the other."""

NETWORK_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "vips.octavia-core.invalid"))
"""The network of the VIPs."""
SUBNET_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "subnet.vips.octavia-core.invalid"))
"""The subnet of the VIPs."""


def further_subnet(place: int) -> str:
    """The subnet that an additional VIP gets which leaves it open; `place` counts from 1."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"subnet-{place}.vips.octavia-core.invalid"))
