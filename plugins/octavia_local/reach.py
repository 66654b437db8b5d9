"""At which port something asked for on a VIP can be reached, when nobody gave us privileges.

A port that needs a privilege is served 8000 higher on the same address (80 at 8080, 443 at 8443). The agent that binds
and the network driver that tells people where to connect share this rule.
"""

from __future__ import annotations

__all__ = ["PRIVILEGED_PORT_OFFSET", "may_bind", "privileged_below", "reachable_port", "shifted"]

PRIVILEGED_PORT_OFFSET = 8000
"""How much higher a privileged port is served."""

_CAP_NET_BIND_SERVICE = 10  # linux/capability.h
_DEFAULT_PRIVILEGED_BELOW = 1024  # the kernel's default of net.ipv4.ip_unprivileged_port_start


def shifted(port: int, *, below: int, capable: bool, offset: int = PRIVILEGED_PORT_OFFSET) -> int:
    """The rule itself: `port`, or `port + offset` when it is under `below` and this process is not `capable`."""
    return port if capable or port >= below else port + offset


def privileged_below() -> int:
    """The first port that anybody may bind (sysctl net.ipv4.ip_unprivileged_port_start; 1024 where it is unknown)."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return _DEFAULT_PRIVILEGED_BELOW


def may_bind() -> bool:
    """True when this process holds CAP_NET_BIND_SERVICE (by /proc/self/status; by effective uid 0 without /proc)."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> _CAP_NET_BIND_SERVICE & 1)
    except (OSError, ValueError, IndexError):
        pass
    from os import geteuid

    return geteuid() == 0


def reachable_port(port: int, *, offset: int = PRIVILEGED_PORT_OFFSET) -> int:
    """Where a service asked for on `port` is really reached on this machine: `port` itself, or `port + offset`.

    Args:
        port: the protocol_port that was asked for.
        offset: how much higher a privileged port is served.
    """
    return shifted(port, below=privileged_below(), capable=may_bind(), offset=offset)
