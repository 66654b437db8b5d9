"""The socket that heartbeats come to: read in batches, with what the kernel dropped."""

from __future__ import annotations

import contextlib
import select
import socket
import struct

from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings

__all__ = ["Receiver", "bind_receiver"]

LARGEST_DATAGRAM = 65536
"""Bytes; upstream's receiver takes as many."""
BATCH = 512
"""Datagrams that are taken at once at most: a few milliseconds of work."""
PATIENCE = 0.5
"""Seconds until a receiver that hears nothing looks whether it should end."""
SO_MEMINFO = 55
"""Linux, asm-generic/socket.h; not in the socket module. Nine 32-bit counters, the last is sk_drops."""


def bind_receiver(settings: Settings) -> socket.socket:
    """The socket that heartbeats come to.

    Raises:
        ConfigurationError: address or port cannot be had; the sentence names them.
    """
    health = settings.health_manager
    family = socket.AF_INET6 if ":" in health.bind_ip else socket.AF_INET
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    if health.sock_rlimit:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, health.sock_rlimit)
    try:
        receiver.bind((health.bind_ip, health.bind_port))
    except OSError as error:
        receiver.close()
        raise ConfigurationError(
            f"heartbeats cannot be received on {health.bind_ip} port {health.bind_port}: {error.strerror}; "
            "choose others with [health_manager] bind_ip and bind_port"
        ) from error
    receiver.settimeout(PATIENCE)
    return receiver


class Receiver:
    """Reads a bound socket."""

    def __init__(self, bound: socket.socket) -> None:
        bound.setblocking(False)  # with a time limit, Python would wait before each read of a batch
        self._socket = bound
        self._poll = select.poll()
        self._poll.register(bound, select.POLLIN)
        self._dropped = 0

    def batch(self) -> list[bytes]:
        """All datagrams that are there, up to `BATCH`; waits for the first. Empty after `PATIENCE` seconds of silence.

        Raises:
            OSError: the socket is closed or broken.
        """
        packets: list[bytes] = []
        if self._poll.poll(PATIENCE * 1000):
            with contextlib.suppress(BlockingIOError):
                while len(packets) < BATCH:
                    packets.append(self._socket.recv(LARGEST_DATAGRAM))
        return packets

    def dropped(self) -> int:
        """Datagrams that the kernel dropped since the last call, because nobody read in time; 0 where it does not say."""
        try:
            counters = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
        except OSError:
            return 0
        if len(counters) < 36:
            return 0
        total = int(struct.unpack("9I", counters)[8])
        news, self._dropped = (total - self._dropped) % 2**32, total
        return news

    def close(self) -> None:
        """Twice is harmless."""
        self._socket.close()
