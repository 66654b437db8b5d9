"""Addresses that mean the amphora itself where it has a network namespace of its own. Members and their checks cannot be there."""

from __future__ import annotations

import socket

__all__ = ["OWN", "is_own"]

OWN = (
    "{} would be the amphora itself, which has a network namespace of its own; give the member an address of this "
    "machine that others can reach"
)
_IPV4_IN_IPV6 = b"\0" * 10 + b"\xff\xff"
_NOWHERE_4, _NOWHERE_6, _LOOPBACK_6 = b"\0" * 4, b"\0" * 16, b"\0" * 15 + b"\1"


def is_own(address: str) -> bool:
    """Whether an address, without brackets and port, is a loopback one or none at all, as IPv4, IPv6 or IPv4 within IPv6.

    Linux takes connections to 0.0.0.0 and `::` for such to the machine itself.
    """
    try:
        found = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (OSError, ValueError):
        return address.startswith("127.")  # a short form, which a resolver understands
    found = found.removeprefix(_IPV4_IN_IPV6)
    return found in (_NOWHERE_4, _NOWHERE_6, _LOOPBACK_6) or (len(found) == len(_NOWHERE_4) and found[0] == 127)
