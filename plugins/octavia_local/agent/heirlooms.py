"""Listening sockets that go from an amphora to the one that follows it, so that nobody is refused in between.

An agent on loopback has a datagram socket ROOT/heirlooms from its start on. Where another one of its load balancer is to
take its place, the first sends its VIP's sockets there (SIGUSR2, with ROOT/heir.json; unix(7), SCM_RIGHTS), says so in
ROOT/shared.json, and goes on. The heir finds a socket here instead of binding it; then the HAProxies of both accept from
the same queues, until the first is told to end (SIGUSR1): it lets what it serves finish. One that is told to end and has not
shared yet does so then; who connects in between waits in the queues. With the heir's first configuration for HAProxy what
it has not taken is closed; without any, after a while.

A socket by which a HAProxy tells the next one what is in its stick tables comes with a label, since its address says nothing:
when the first one finishes, it tells the heir's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from octavia_local.agent.root import log

__all__ = ["HEIR", "SHARED", "Heirlooms", "bequeath", "heir_of"]

HEIR, SHARED = "heir.json", "shared.json"
"""In an amphora's folder: {"folder"} of the one that gets its sockets, which drivers write, and of the one that has them."""
_NAME, _LABEL = "heirlooms", b"labelled "
_KEPT = 10.0
"""Seconds from the death of the one to the first configuration of the other, on a busy machine."""
_AT_A_TIME = 100  # the kernel passes 253 with one datagram (SCM_MAX_FD)
_LARGEST = 64 * 1024
_SENT_WITHIN = 0.2


class Heirlooms:
    """What this agent inherits. Thread-safe.

    Args:
        folder: the amphora's.
        kept: seconds after which what nobody has taken is closed.

    Raises:
        OSError: the socket cannot be made there.
    """

    def __init__(self, folder: str, kept: float = _KEPT) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._found: dict[tuple[int, str, int], socket.socket] = {}
        self._since = 0.0
        with _within(folder) as name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)  # of an earlier agent
            self._socket.bind(name)

    def take(self, kind: int, host: str, port: int) -> socket.socket | None:
        """The inherited socket of that kind (SOCK_STREAM, SOCK_DGRAM) and place, or of that label (and 0); None when there
        is none.
        """
        with self._lock:
            self._receive()
            return self._found.pop((kind, host, port), None)

    def let_go(self) -> None:
        """Close what was not taken: this amphora has its configuration, and who connects there is to be refused."""
        with self._lock:
            self._receive()
            self._close_all()

    def tidy(self) -> None:
        """Close what nobody has wanted for a while."""
        with self._lock:
            self._receive()
            if not self._found or time.monotonic() - self._since < self._kept:
                return
            log(f"{len(self._found)} sockets of the amphora before are not used; they are closed")
            self._close_all()

    def close(self) -> None:
        """Inherit nothing any more."""
        with self._lock:
            self._close_all()
            self._socket.close()

    def _close_all(self) -> None:
        for one in self._found.values():
            one.close()
        self._found.clear()

    def _receive(self) -> None:
        while True:
            try:
                said, descriptors, _, _ = socket.recv_fds(self._socket, _LARGEST, _AT_A_TIME)
            except OSError:
                return  # nothing more
            self._since = time.monotonic()
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
                one = socket.socket(fileno=descriptor)
                host, port = (said[len(_LABEL) :].decode(), 0) if said.startswith(_LABEL) else one.getsockname()[:2]
                old = self._found.pop((one.type, host, port), None)
                if old is not None:
                    old.close()
                self._found[one.type, host, port] = one


def heir_of(folder: str) -> str:
    """The folder of the amphora that follows this one; empty: none does."""
    try:
        with open(f"{folder}/{HEIR}", "rb") as file:
            return str(json.load(file)["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def bequeath(
    folder: str, sockets: Collection[socket.socket], labelled: Mapping[str, socket.socket] = MappingProxyType({})
) -> bool:
    """Send sockets to the agent in that folder. False when they do not get there: then they end with this agent."""
    todo = list(sockets)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, _within(folder) as name:
            sender.settimeout(_SENT_WITHIN)
            sender.connect(name)
            while todo:
                some, todo = todo[:_AT_A_TIME], todo[_AT_A_TIME:]
                socket.send_fds(sender, [b"sockets"], [one.fileno() for one in some])
            for label, one in labelled.items():
                socket.send_fds(sender, [_LABEL + label.encode()], [one.fileno()])
    except OSError as error:
        log(f"the sockets of this amphora do not get to the next one: {error.strerror or error}")
        return False
    return True


@contextlib.contextmanager
def _within(folder: str) -> Iterator[str]:
    """The name of the socket: by the folder's descriptor, since an address of AF_UNIX is short."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)
