"""The frames that tell neighbours of a moved address, byte by byte."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from octavia_local.agent.announce import advertisement, gratuitous_arp

MAC = bytes.fromhex("fa163e010203")


def test_a_gratuitous_arp_asks_everybody_for_its_own_address():
    frame = gratuitous_arp(MAC, "198.18.4.7")
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
    assert frame[14:22] == bytes.fromhex("0001080006040001")
    assert frame[22:] == MAC + bytes([198, 18, 4, 7]) + bytes(6) + bytes([198, 18, 4, 7])


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_an_advertisement_adds_up(address):
    frame = advertisement(MAC, str(address))
    header, message = frame[14:54], frame[54:]
    assert header[:4] == bytes([0x60, 0, 0, 0])
    assert struct.unpack("!HBB", header[4:8]) == (len(message), 58, 255)
    assert header[8:24] == address.packed
    words = header[8:40] + struct.pack("!II", len(message), 58) + message
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071: with its checksum a message sums up to all ones
    assert message[4] & 0x20  # to be believed although another one had the address
