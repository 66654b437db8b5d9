"""The socket that heartbeats come to: read in batches, with what the kernel dropped."""

from __future__ import annotations

import logging
import select
import socket
import struct
import time

from octavia_core.errors import ConfigurationError
from octavia_core.settings import OF_A_PLUGIN, Settings

__all__ = ["Receiver", "bind_receiver"]

log = logging.getLogger("octavia_core.health")

LARGEST_DATAGRAM = 65536
"""Bytes; upstream's receiver takes as many."""
BATCH = 512
"""Datagrams that are taken at once at most: a few milliseconds of work."""
PATIENCE = 0.5
"""Seconds until a receiver that hears nothing looks whether it should end."""
WAITED = 0.2
"""Seconds from which on a datagram's time in the socket counts; what is read sooner came when it was read."""
BEFORE = 30.0
"""Seconds that a datagram may have waited before its socket was first looked at here, at most."""
SO_MEMINFO = 55
"""Linux, asm-generic/socket.h; not in the socket module. Nine 32-bit counters, the last is sk_drops."""
IP_FREEBIND = 15
"""Linux, linux/in.h; not in the socket module. Covers IPv6 sockets too."""
SO_RCVBUFFORCE = 33
"""Linux, asm-generic/socket.h; needs CAP_NET_ADMIN."""
SO_TIMESTAMPNS = 35
"""Linux, asm-generic/socket.h: each message comes with the time of its arrival, two longs (seconds, nanoseconds)."""
_STAMP = struct.Struct("2l")


def bind_receiver(settings: Settings, *, beside: bool = False) -> socket.socket:
    """The socket that heartbeats come to.

    Args:
        settings: address, port, receive buffer, and whether others will share the port.
        beside: whether it shares the port with a socket of ours that is bound already.

    Raises:
        ConfigurationError: address or port cannot be had; the sentence names them.
    """
    health = settings.health_manager
    family = socket.AF_INET6 if ":" in health.bind_ip else socket.AF_INET
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    if health.sock_rlimit:
        _make_room(receiver, health.sock_rlimit)
    if settings.origin("health_manager.bind_ip") == OF_A_PLUGIN:
        receiver.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)  # the address may come with the first amphora
    try:
        if beside or (health.health_update_threads > 1 and _free(family, health.bind_ip, health.bind_port)):
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        receiver.bind((health.bind_ip, health.bind_port))
    except (OSError, OverflowError, TypeError, ValueError) as error:  # no such port; a name that cannot be one
        receiver.close()
        raise ConfigurationError(
            f"heartbeats cannot be received on {health.bind_ip} port {health.bind_port}:"
            f" {getattr(error, 'strerror', None) or error}; "
            "choose others with [health_manager] bind_ip and bind_port"
        ) from error
    receiver.settimeout(PATIENCE)
    return receiver


def _make_room(receiver: socket.socket, size: int) -> None:
    """A receive buffer of that many bytes: beyond net.core.rmem_max where we may, else as many as that allows."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except OSError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    granted = receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it for its own needs
    if granted < size:
        log.warning(
            "the kernel gives heartbeats a buffer of %d bytes, not the %d of [health_manager] sock_rlimit; raise net.core.rmem_max",
            granted,
            size,
        )


def _free(family: int, address: str, port: int) -> bool:
    """Whether nobody has the port, not even somebody who would share it. Raises OSError when somebody has."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, port))
    return True


class Receiver:
    """Reads a bound socket.

    Args:
        bound: the socket.
        wake: a descriptor that ends the waiting when it can be read, too.
    """

    def __init__(self, bound: socket.socket, *, wake: int | None = None) -> None:
        bound.setblocking(False)  # with a time limit, Python would wait before each read of a batch
        self._socket = bound
        self._poll = select.poll()
        self._poll.register(bound, select.POLLIN)
        if wake is not None:
            self._poll.register(wake, select.POLLIN)
        self._dropped = 0
        self._stamped = True
        try:
            bound.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        except OSError:
            self._stamped = False
        self.oldest = 0.0
        """When the first datagram of the last batch reached this machine, seconds since the epoch."""
        self.late: list[float] = []
        """When the first few of the last batch reached this machine, monotonic: those that waited, since this process stood still. All
        others came just now.
        """
        self._empty_at = time.monotonic() - BEFORE
        """When the socket held nothing, monotonic: all that is read came later, whatever the machine's clock was set to since."""

    def batch(self, patience: float | None = None) -> list[bytes]:
        """All datagrams that are there, up to `BATCH`; waits for the first. Empty after so many seconds of silence.

        Args:
            patience: seconds; None: `PATIENCE`.

        Raises:
            OSError: the socket is closed or broken.
        """
        packets: list[bytes] = []
        self.late = []
        began = time.monotonic()
        if not self._poll.poll(PATIENCE * 1000 if patience is None else patience * 1000):
            self._empty_at = began  # or later
            return packets
        receive, began = self._socket.recv, time.monotonic()
        try:
            while len(packets) < BATCH and len(packets) == len(self.late):
                packets.append(self._stamped_one(first=not packets))
            for _ in range(BATCH - len(packets)):
                packets.append(receive(LARGEST_DATAGRAM))  # noqa: PERF401 - those before an error count
        except BlockingIOError:
            self._empty_at = began  # or later
        return packets

    def _stamped_one(self, *, first: bool) -> bytes:
        """One datagram, and when it came, if it waited."""
        now = time.monotonic()  # beside the other clock: what passes between the two is taken for time in the socket
        wall = came = time.time()
        if not self._stamped:
            packet = self._socket.recv(LARGEST_DATAGRAM)
        else:
            packet, notes, *_ = self._socket.recvmsg(LARGEST_DATAGRAM, 64)
            for level, kind, note in notes:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(note) == _STAMP.size:
                    seconds, nanoseconds = _STAMP.unpack(note)
                    came = seconds + nanoseconds / 1e9
        if first:
            self.oldest = came
        if wall - came > WAITED:
            self.late.append(max(now - (wall - came), min(now, self._empty_at)))
        return packet

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
