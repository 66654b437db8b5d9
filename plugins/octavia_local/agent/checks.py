"""Health checks of members that no HAProxy checks: those of UDP and SCTP listeners. One thread, sockets that never block.

| kind | up when |
|---|---|
| TCP | a connection is made |
| SCTP | an association is made; needs a kernel with SCTP |
| HTTP | the answer to a GET has one of the expected codes |
| UDP-CONNECT | an empty datagram is answered, or not refused (ICMP port unreachable) within the timeout |

As with keepalived, one good check brings a member back, and `fall` bad ones in a row take it out; a member that was not
looked at yet is given traffic.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping

from octavia_local.agent.lvs import Check
from octavia_local.agent.root import log

__all__ = ["Checks", "has_sctp"]

IPPROTO_SCTP = 132
_MOST_ANSWER = 64 * 1024


def has_sctp() -> bool:
    """Whether this kernel makes SCTP sockets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


class _Watched:
    """A member that is checked, and what is known of it."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.up: bool | None = None
        self.failures = 0
        self.gone = False


class _Try:
    """One check under way."""

    def __init__(self, key: tuple[str, str], watched: _Watched) -> None:
        self.key, self.watched, self.check = key, watched, watched.check
        self.deadline = time.monotonic() + self.check.timeout
        self.answer = b""
        kind, number = {
            "UDP-CONNECT": (socket.SOCK_DGRAM, 0),
            "SCTP": (socket.SOCK_STREAM, IPPROTO_SCTP),
        }.get(self.check.kind, (socket.SOCK_STREAM, 0))
        family = socket.AF_INET6 if ":" in self.check.address else socket.AF_INET
        self.socket = socket.socket(family, kind, number)
        self.socket.setblocking(False)

    def begin(self) -> int:
        """Returns which event to wait for.

        Raises:
            OSError: it failed at once.
        """
        place = (self.check.address, self.check.port)
        if self.check.kind == "UDP-CONNECT":
            self.socket.connect(place)
            self.socket.send(b"")
            return selectors.EVENT_READ
        number = self.socket.connect_ex(place)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
        return selectors.EVENT_WRITE

    def go_on(self) -> bool | None:
        """Something happened: True or False is the outcome, None means that reading goes on."""
        if self.check.kind == "UDP-CONNECT":
            self.socket.recv(_MOST_ANSWER)
            return True
        if self.answer == b"" and (number := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            raise OSError(number, os.strerror(number))
        if self.check.kind != "HTTP":
            return True
        return self._http()

    def _http(self) -> bool | None:
        if self.answer == b"":
            host = f"[{self.check.address}]" if ":" in self.check.address else self.check.address
            head = f"GET {self.check.path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: octavia-core\r\n\r\n"
            self.socket.send(head.encode("ascii", "replace"))
            self.answer = b"\n"  # asked; what comes now is the answer
            return None
        part = self.socket.recv(4096)
        self.answer += part
        line, end, _ = self.answer[1:].partition(b"\n")
        if end or not part:
            words = line.split(None, 2)
            good = len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit()
            return good and int(words[1]) in self.check.codes
        return None if len(self.answer) < _MOST_ANSWER else False


class Checks:
    """What is known of members. Thread-safe; the thread starts with the first check.

    Args:
        changed: told the owner whose member went down or came up; called on the checking thread.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._due: list[tuple[float, int, tuple[str, str], _Watched]] = []
        self._order = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread: threading.Thread | None = None

    def watch(self, owner: str, members: Mapping[str, Check]) -> None:
        """From now on check exactly these members of an owner; what is known of one that is checked as before stays."""
        with self._lock:
            for key in [key for key in self._watched if key[0] == owner]:
                if members.get(key[1]) != self._watched[key].check:
                    self._watched.pop(key).gone = True
            for id, check in members.items():
                if (owner, id) not in self._watched:
                    watched = self._watched[owner, id] = _Watched(check)
                    heapq.heappush(self._due, (time.monotonic(), next(self._order), (owner, id), watched))
            if members and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checks", daemon=True)
                self._thread.start()
        try:
            os.write(self._wake, b"!")
        except BlockingIOError:
            return  # full: it is awake for a long time

    def up(self, owner: str, member: str) -> bool | None:
        """True or False by its last checks; None: not looked at yet, or not checked at all."""
        with self._lock:
            watched = self._watched.get((owner, member))
            return watched.up if watched is not None else None

    # -- the thread ------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        self._selector.register(self._woken, selectors.EVENT_READ)
        while True:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - members that nobody checks any more would stay as they are for ever
                log(f"health checks: {type(error).__name__}: {error}")
                time.sleep(1.0)

    def _turn(self) -> None:
        for watched, key in self._ready():
            self._begin(key, watched)
        under_way: list[_Try] = [entry.data for entry in self._selector.get_map().values() if entry.data]
        with self._lock:
            next_due = self._due[0][0] if self._due else None
        times = [one.deadline for one in under_way] + ([next_due] if next_due is not None else [])
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        for entry, _ in self._selector.select(timeout):
            if entry.data is None:
                os.read(self._woken, 4096)
                continue
            self._step(entry.data)
        now = time.monotonic()
        for one in [entry.data for entry in list(self._selector.get_map().values()) if entry.data]:
            if one.deadline <= now:
                self._end(one, good=one.check.kind == "UDP-CONNECT")  # nobody refused it

    def _ready(self) -> list[tuple[_Watched, tuple[str, str]]]:
        found = []
        with self._lock:
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, key, watched = heapq.heappop(self._due)
                if not watched.gone:
                    found.append((watched, key))
        return found

    def _begin(self, key: tuple[str, str], watched: _Watched) -> None:
        one = None
        try:
            one = _Try(key, watched)
            self._selector.register(one.socket, one.begin(), one)
        except OSError:
            if one is not None:
                one.socket.close()
            self._judge(key, watched, good=False)

    def _step(self, one: _Try) -> None:
        try:
            outcome = one.go_on()
        except BlockingIOError:
            return
        except OSError:
            outcome = False
        if outcome is None:
            self._selector.modify(one.socket, selectors.EVENT_READ, one)
        else:
            self._end(one, good=outcome)

    def _end(self, one: _Try, *, good: bool) -> None:
        self._selector.unregister(one.socket)
        one.socket.close()
        self._judge(one.key, one.watched, good=good)

    def _judge(self, key: tuple[str, str], watched: _Watched, *, good: bool) -> None:
        with self._lock:
            if watched.gone:
                return
            watched.failures = 0 if good else watched.failures + 1
            before = watched.up
            if good:
                watched.up = True
            elif watched.failures >= watched.check.fall:
                watched.up = False
            changed = watched.up is not before
            when = time.monotonic() + watched.check.delay
            heapq.heappush(self._due, (when, next(self._order), key, watched))
        if changed:
            self._changed(key[0])
