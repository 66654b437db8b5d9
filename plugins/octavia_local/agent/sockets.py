"""The listening sockets of the VIP. The agent holds them, so that nobody is refused while HAProxy is away.

They are bound exclusively: SO_REUSEADDR, so that old connections do not matter, and never SO_REUSEPORT. Linux refuses
the second listener of an address and port at bind or, when both are bound already, at listen.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from octavia_local.agent.wire import Refusal
from octavia_local.reach import reachable_port

__all__ = ["Bind", "HeldSockets", "Inherit"]

Inherit = Callable[[int, str, int], socket.socket | None]
"""Finds a socket of that kind, host and port that another amphora has left, or label and 0: `Heirlooms.take`."""

_IP_FREEBIND = 15  # linux/in.h; it counts for IPv6 sockets too
_LET_GO_WITHIN, _LOOK_AGAIN = 1.0, 0.01
"""Seconds that a dying process may need to close its sockets on a busy machine, and between two looks."""
_BACKLOG = 65535  # the kernel cuts it down to net.core.somaxconn


class Bind(NamedTuple):
    """A place where the configuration wants to be reached: address and port as asked; port 0 is any free one."""

    host: str
    port: int
    label: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HeldSockets:
    """The sockets held for one load balancer.

    Args:
        offset: how much higher a port is served that needs privileges.
        anywhere: listen on addresses that are not here (now) as well: of a pair only one holds the VIP.
        datagrams: UDP rather than TCP.
        inherit: what finds sockets that need not be bound.
    """

    def __init__(
        self,
        offset: int,
        *,
        anywhere: bool = False,
        datagrams: bool = False,
        inherit: Inherit = lambda kind, host, port: None,
    ) -> None:
        self._offset, self._anywhere, self._datagrams = offset, anywhere, datagrams
        self._inherit = inherit
        self._held: dict[Bind, socket.socket] = {}

    @property
    def all(self) -> list[socket.socket]:
        """Every socket that is held now."""
        return list(self._held.values())

    def labelled(self, label: str) -> list[socket.socket]:
        """Those of them that were asked for with that label."""
        return [held for bind, held in list(self._held.items()) if bind.label == label]

    def hold(self, binds: Iterable[Bind]) -> list[Bind]:
        """Listen on all of them; those already held stay as they are. Returns the new ones.

        Raises:
            Refusal: 400, one of them cannot be had; none of the new ones is held then.
        """
        new: list[Bind] = []
        try:
            for bind in binds:
                if bind not in self._held:
                    self._held[bind] = self._listen(bind)
                    new.append(bind)
        except Refusal:
            self.release(new)
            raise
        return new

    def release(self, binds: Iterable[Bind]) -> None:
        """Close these; unknown ones are ignored."""
        for bind in binds:
            held = self._held.pop(bind, None)
            if held is not None:
                held.close()

    def keep_only(self, binds: Collection[Bind]) -> None:
        """Close all others."""
        self.release([bind for bind in self._held if bind not in binds])

    def descriptor(self, bind: Bind) -> int:
        """The number under which a child finds the socket; it stays valid as long as the socket is held."""
        return self._held[bind].fileno()

    def inode(self, bind: Bind) -> int:
        """The number by which /proc knows the socket, in whatever process it is open."""
        return os.fstat(self._held[bind].fileno()).st_ino

    def with_descriptors(self, descriptors: Collection[int]) -> set[Bind]:
        """The binds whose sockets have these numbers."""
        return {bind for bind, held in self._held.items() if held.fileno() in descriptors}

    def address(self, bind: Bind) -> tuple[str, int]:
        """Where it really listens."""
        host, port = self._held[bind].getsockname()[:2]
        return str(host), int(port)

    def _listen(self, bind: Bind) -> socket.socket:
        """Listen; on what is in use after a moment's patience, since a killed amphora holds the VIP until it has ended."""
        deadline = time.monotonic() + _LET_GO_WITHIN
        while True:
            try:
                return self._listen_now(bind)
            except Refusal as refusal:
                cause = refusal.__cause__
                in_use = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
                if not in_use or time.monotonic() > deadline:
                    raise
            time.sleep(_LOOK_AGAIN)

    def _listen_now(self, bind: Bind) -> socket.socket:
        port = reachable_port(bind.port, offset=self._offset) if bind.port else 0
        there = str(bind._replace(port=port))
        place = there if port == bind.port else f"{there} (asked for as port {bind.port})"
        kind = socket.SOCK_DGRAM if self._datagrams else socket.SOCK_STREAM
        inherited = self._inherit(kind, bind.host if port else bind.label, port)
        if inherited is not None:
            return inherited
        made = socket.socket(socket.AF_INET6 if ":" in bind.host else socket.AF_INET, kind)
        try:
            if made.family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if self._anywhere:
                made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if not self._datagrams:  # of UDP it would let a second one in
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((bind.host, port))
            if not self._datagrams:
                made.listen(_BACKLOG)
            made.setblocking(False)
        except OSError as error:
            made.close()
            own = next((one for one in self._held if self.address(one) == (bind.host, port)), None)
            if error.errno == errno.EADDRINUSE and own is not None:
                raise Refusal(
                    400, "Invalid request", f"{place} serves port {own.port} of the same load balancer"
                ) from None
            raise Refusal(400, "Invalid request", _why_not(place, error)) from error
        return made


def _why_not(place: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{place} is already in use on this machine; free it or choose another protocol_port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place} cannot be bound: the address is not one of this machine"
    if error.errno == errno.EACCES:
        return f"{place} cannot be bound without privileges; choose a protocol_port of 1024 or above"
    return f"{place} cannot be bound: {error.strerror}"
