"""Telling neighbours that an address has moved here: gratuitous ARP, and unsolicited neighbour advertisements for IPv6.

Without it a neighbour goes on sending to the amphora that had the address before, for as long as its table says so.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

__all__ = ["advertisement", "announce", "gratuitous_arp"]

_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC, _ALL_NODES = bytes.fromhex("333300000001"), socket.inet_pton(socket.AF_INET6, "ff02::1")
_OVERRIDE = 0x20000000  # RFC 4861, 4.4: neither router nor solicited, and to be believed


def announce(interface: str, mac: str, addresses: Iterable[str]) -> None:
    """Send one frame for each address.

    Raises:
        OSError: the interface is gone or down.
    """
    own = bytes.fromhex(mac.replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        for address in addresses:
            sender.send(advertisement(own, address) if ":" in address else gratuitous_arp(own, address))


def gratuitous_arp(mac: bytes, address: str) -> bytes:
    """An Ethernet frame with an ARP request (RFC 826) in which an address asks for itself (RFC 5227, 3)."""
    packed = socket.inet_pton(socket.AF_INET, address)
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + packed + bytes(6) + packed
    return _BROADCAST + mac + struct.pack("!H", 0x0806) + arp


def advertisement(mac: bytes, address: str) -> bytes:
    """An Ethernet frame with a neighbour advertisement (RFC 4861, 4.4) for all nodes, with our link-layer address."""
    packed = socket.inet_pton(socket.AF_INET6, address)
    body = struct.pack("!I", _OVERRIDE) + packed + b"\x02\x01" + mac
    length = 4 + len(body)
    pseudo = packed + _ALL_NODES + struct.pack("!II", length, socket.IPPROTO_ICMPV6)  # RFC 8200, 8.1
    message = struct.pack("!BBH", 136, 0, _checksum(pseudo + struct.pack("!BBH", 136, 0, 0) + body)) + body
    header = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_ICMPV6, 255) + packed + _ALL_NODES
    return _ALL_NODES_MAC + mac + struct.pack("!H", 0x86DD) + header + message


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
