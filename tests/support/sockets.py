"""What the kernel says of sockets."""

from __future__ import annotations

from pathlib import Path

__all__ = ["unread"]


def unread(port: int) -> int:
    """Bytes that wait in the UDP sockets on that port, IPv4 (proc(5), net/udp)."""
    lines = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    return sum(int(line.split()[4].split(":")[1], 16) for line in lines if line.split()[1].endswith(f":{port:04X}"))
