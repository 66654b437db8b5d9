"""Which addresses of 127.0.0.0/8 belong to a state directory: a /23, its lower half for VIPs, its upper for agents."""

from __future__ import annotations

import ipaddress

import attrs

from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings

__all__ = ["LOOPBACK", "Ranges"]

LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")


@attrs.frozen
class Ranges:
    """The two halves of `[local] network`."""

    vips: ipaddress.IPv4Network
    agents: ipaddress.IPv4Network

    @classmethod
    def of(cls, settings: Settings) -> Ranges:
        """Read `[local] network`.

        Raises:
            ConfigurationError: it is missing, no network, too small, or outside 127.0.0.0/8.
        """
        text, where = settings.local.network, settings.origin("local.network")
        if not text:
            raise ConfigurationError(
                "[local] network is not set; let octavia-admin up make the state directory, or give a /23 of 127.64.0.0/10"
            )
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError as error:
            raise ConfigurationError(f"{where}: [local] network {text!r} is no IPv4 network: {error}") from error
        if not network.subnet_of(LOOPBACK) or network.prefixlen > 29:
            raise ConfigurationError(
                f"{where}: [local] network {text} must be a /23 (at least a /29) inside 127.0.0.0/8, for example 127.65.2.0/23"
            )
        vips, agents = network.subnets()
        return cls(vips, agents)
