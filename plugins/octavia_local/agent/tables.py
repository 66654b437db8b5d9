"""Stick tables outlive a reload: what the agent has to say to a HAProxy that has just begun.

A HAProxy that is told to finish tells what is in its tables to the one that listens on the same socket, under the same name; but
only when it knows all itself, and one that has just begun waits for five seconds whether other peers have more. So that two
reloads in a row lose nothing, somebody tells it that nobody has: as the peer NOBODY, in the peers protocol of HAProxy
(doc/peers-v2.0.txt): a greeting of three lines, its request (class 0, type 0), "finished" (type 1), its confirmation (type 3).

In a failover the HAProxies of two amphorae accept from one socket until the first is told to end, and either may answer. Only
one that does not know all asks; if it was not that one, it is tried again now and then, and before that one has to tell.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from octavia_local.agent.root import log
from octavia_local.agent.translate import NOBODY

__all__ = ["Settling", "settle"]

_AT_FIRST, _IN_NEED = 0.05, 0.5
"""Seconds for tries: when it has just begun, and when it is about to tell, so that somebody waits for it in any case."""
_ANSWERS_WITHIN = 0.02
"""Seconds until one that asks nothing is taken for the wrong one. Each try waits for so much longer than the one before."""
_GIVES_UP_AFTER = 6.0
"""Seconds after which HAProxy has settled by itself (its own timeout is 5)."""
_OK, _REQUEST, _FINISHED, _CONFIRMED = b"200", (0, 0), b"\x00\x01", (0, 3)
_WITH_LENGTH = 128
"""Messages of this type or a higher one say how long they are, in bytes of which all but the last are as large as this or larger."""
_LONGEST_STATUS, _LONGEST_LENGTH = 64, 10


class Settling:
    """Whether the HAProxy that serves knows that it knows all. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place: tuple[str, int] | None = None
        self._name = ""
        self._due_until = 0.0

    def begun(self, place: tuple[str, int] | None, name: str) -> None:
        """A process listens there, under that name, and is told now if it answers at once; None: it has no such tables."""
        with self._lock:
            self._place, self._name = place, name
        self.begun_again()
        self.settle()

    def begun_again(self) -> None:
        """The same, another process, since the one before has died. It is told with the next `settle`."""
        with self._lock:
            self._due_until = time.monotonic() + _GIVES_UP_AFTER

    def settle(self, *, in_need: bool = False) -> None:
        """Tell it, unless it was told or has settled by itself. What goes wrong is logged.

        Args:
            in_need: it is about to tell another one.
        """
        with self._lock:
            if self._place is None or time.monotonic() > self._due_until:
                return
            if settle(self._place, self._name, _IN_NEED if in_need else _AT_FIRST):
                self._due_until = 0.0


def settle(place: tuple[str, int], name: str, within: float) -> bool:
    """Tell the HAProxy that listens there, under that name, that it knows everything.

    Args:
        place: where.
        name: the secret one.
        within: seconds in which a try may begin; at least one does.

    Returns:
        Whether one was told that did not know it. What goes wrong is logged.
    """
    deadline, tries, why = time.monotonic() + within, 0, "whoever answers asks for nothing"
    while not tries or time.monotonic() < deadline:
        tries += 1
        try:
            if _told(place, name, tries * _ANSWERS_WITHIN):
                return True
        except TimeoutError:
            continue
        except OSError as error:
            why = str(error)
            time.sleep(_ANSWERS_WITHIN)
    log(f"stick tables are not handed on yet: {why}")
    return False


def _told(place: tuple[str, int], name: str, within: float) -> bool:
    """One try: whether the one that has accepted asked for what there is, and was told that there is nothing.

    Raises:
        TimeoutError: it asks for nothing.
        OSError: it does not talk.
    """
    with socket.create_connection(place, timeout=within) as connection, connection.makefile("rb") as said:
        connection.sendall(f"HAProxyS 2.1\n{name}\n{NOBODY} 1 0\n".encode())
        status = said.readline(_LONGEST_STATUS).strip()
        if status != _OK:
            raise OSError(status.decode("ascii", "replace") or "no greeting")
        asked = False
        for message in _messages(said):
            if message == _REQUEST:
                asked = True
                connection.sendall(_FINISHED)
            elif message == _CONFIRMED and asked:
                return True
    return False


def _messages(said: BinaryIO) -> Iterator[tuple[int, int]]:
    """Class and type of each; what else is in them is passed over."""
    while len(head := said.read(2)) == 2:
        if head[1] >= _WITH_LENGTH:
            said.read(_length(said))
        yield head[0], head[1]


def _length(said: BinaryIO) -> int:
    """A number as peers write it: below 240 one byte; otherwise four bits in that one, and seven in each that follows."""
    parts = said.read(1)
    while parts and (parts[0] >= 240 if len(parts) == 1 else parts[-1] >= 128) and len(parts) < _LONGEST_LENGTH:
        part = said.read(1)
        if not part:
            break
        parts += part
    return sum(byte << (0 if not place else 7 * place - 3) for place, byte in enumerate(parts))
