"""Stick tables outlive a reload: what the agent has to say to a HAProxy that has just begun.

A HAProxy that is told to finish tells what is in its tables to the one that listens on the same socket, under the same name; but
only when it knows all itself, and one that has just begun waits for five seconds whether other peers have more. So that two
reloads in a row lose nothing, somebody tells it that nobody has: as the peer NOBODY, in the peers protocol of HAProxy
(doc/peers-v2.0.txt): a greeting of three lines, its request (class 0, type 0), "finished" (type 1), its confirmation (type 3).
"""

from __future__ import annotations

import socket

from octavia_local.agent.root import log
from octavia_local.agent.translate import NOBODY

__all__ = ["settle"]

_WITHIN = 0.3
"""Seconds for each answer. It is not waited for longer: then tables are handed on when the process is five seconds old."""
_REQUEST, _FINISHED = b"\x00\x00", b"\x00\x01"
_LONGEST = 256


def settle(place: tuple[str, int], name: str) -> None:
    """Tell the HAProxy that listens there, under that name, that it knows everything. What goes wrong is logged."""
    try:
        with socket.create_connection(place, timeout=_WITHIN) as connection:
            connection.sendall(f"HAProxyS 2.1\n{name}\n{NOBODY} 1 0\n".encode())
            said = bytearray()
            while _REQUEST not in said and len(said) < _LONGEST:
                part = connection.recv(_LONGEST)
                if not part:
                    raise OSError(said.decode("ascii", "replace").strip() or "no greeting")
                said += part
            connection.sendall(_FINISHED)
            connection.recv(_LONGEST)
    except OSError as error:
        log(f"stick tables are not handed on for the next five seconds: {error}")
