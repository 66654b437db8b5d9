"""`python ping.py ADDRESS`: exit code 0 when the address answers an ICMP echo request; HAProxy runs it as external check.

Standard library only, and little of it: it is started for every check. HAProxy ends it when its time is over; when HAProxy has
ended before, it ends within a second by itself.
"""

import os
import select
import socket
import struct
import sys
import time

ECHO = {socket.AF_INET: (socket.IPPROTO_ICMP, 8, 0), socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128, 129)}
"""Protocol, and the types of a request and of its answer (RFC 792, RFC 4443)."""
AGAIN = 1.0  # seconds after which the request is repeated: it may have been lost


def may_ping() -> bool:
    """Whether this process may send ICMP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except OSError:
        return False
    return True


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answers(address: str, within: float) -> bool:
    """Whether it answers within so many seconds."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol, request, answer = ECHO[family]
    number = os.getpid() & 0xFFFF
    deadline, sequence, asked_by = time.monotonic() + within, 0, os.getppid()
    try:
        with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
            raw.connect((address, 0))
            while time.monotonic() < deadline and os.getppid() == asked_by:
                sequence += 1
                body = struct.pack("!HH", number, sequence) + b"octavia-core"
                head = struct.pack("!BBH", request, 0, 0)
                if family == socket.AF_INET:  # of IPv6 the kernel does it
                    head = struct.pack("!BBH", request, 0, checksum(head + body))
                raw.send(head + body)
                again = min(deadline, time.monotonic() + AGAIN)
                while select.select([raw], [], [], max(0.0, again - time.monotonic()))[0]:
                    packet = raw.recv(2048)
                    if family == socket.AF_INET:
                        packet = packet[(packet[0] & 15) * 4 :]
                    if packet[0] == answer and packet[4:6] == body[:2]:
                        return True
    except OSError:
        return False
    return False


if __name__ == "__main__":
    sys.exit(0 if answers(sys.argv[1], 3600.0) else 1)
