"""A knock between processes of one machine that work on one database: who stored an operation wakes who looks for work.

An abstract unix datagram socket (Linux, unix(7)), named after the database without its password. Nobody depends on it: a
knock that is not sent or not heard costs at most a poll interval. It carries nothing, and only this user's and root's count.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
from urllib.parse import urlsplit

from octavia_core.settings import Settings

__all__ = ["Door", "Knocker"]

_CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


def _name(settings: Settings) -> bytes:
    place = urlsplit(settings.database.connection.reveal().decode(errors="replace"))
    query = "&".join(part for part in place.query.split("&") if "pass" not in part.lower())
    where = f"{place.scheme}//{place.netloc.rpartition('@')[2]}{place.path}?{query}"
    return b"\0octavia-core/" + hashlib.sha256(where.encode()).hexdigest()[:32].encode()


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class Knocker:
    """Knocks when it is called. Thread-safe.

    Args:
        settings: say which database.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = _name(settings)

    def __call__(self) -> None:
        """Say that something was stored, to whoever listens."""
        with contextlib.suppress(OSError), _socket() as one:  # nobody is there, or has been told often enough
            one.sendto(b"!", self._name)


class Door:
    """Where knocks are heard. A second one for the same database on this machine hears none, and is polled for.

    Args:
        settings: say which database.
    """

    def __init__(self, settings: Settings) -> None:
        self._socket = _socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind(_name(settings))
        except OSError:
            self._socket.close()

    def fileno(self) -> int:
        """What to wait for; -1 when nothing can be heard here."""
        return self._socket.fileno()

    def heard(self) -> bool:
        """Take all knocks; whether one of them counts."""
        found = False
        with contextlib.suppress(OSError):
            while True:
                _, extra, _, _ = self._socket.recvmsg(16, socket.CMSG_SPACE(_CREDENTIALS.size))
                for level, kind, data in extra:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                        found |= _CREDENTIALS.unpack(data)[1] in (0, os.geteuid())
        return found

    def close(self) -> None:
        """Hear no more. Twice is harmless."""
        self._socket.close()
