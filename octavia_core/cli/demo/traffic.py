"""Steady traffic through the VIP: plain and TLS, over new connections and over kept ones; every answer is checked.

A kept connection that was closed before the first byte of an answer is opened again and the request sent once more, as
every HTTP client does (RFC 9110, section 9.2.2); that is no failure. Everything else that is not the right answer is.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter, deque

import attrs

__all__ = ["Failure", "Target", "Traffic"]

PAUSE = 0.008
"""Seconds between two requests of one client."""
AFTER_FAILURE = 0.02
PATIENCE = 15.0
"""Seconds until a request counts as failed: a machine may stand still for some, and nobody has failed then."""
LARGEST = 65536


@attrs.frozen(kw_only=True)
class Target:
    """Where to send requests. With `tls` over TLS, asking for `name`."""

    host: str
    port: int
    name: str
    tls: ssl.SSLContext | None = None


@attrs.frozen(kw_only=True)
class Failure:
    """A request that was not answered rightly. Times are of the monotonic clock."""

    began: float
    ended: float
    client: str
    why: str


class _Closed(ConnectionError):
    """The other side closed before the first byte of an answer."""


class Traffic:
    """Clients, each a thread, until `stop`.

    Args:
        targets: each gets one client with new connections and one that keeps its connection.

    Attributes:
        sent: requests that are over.
        failures: those that failed.
        by_member: answers of each member.
        spans: (tenths of a second since the start, right answers, failures), the newest last; for a chart.
    """

    def __init__(self, targets: dict[str, Target]) -> None:
        self.sent = 0
        self.failures: list[Failure] = []
        self.by_member: Counter[str] = Counter()
        self.spans: deque[list[int]] = deque(maxlen=600)
        self._successes: deque[tuple[float, float, str]] = deque(maxlen=20_000)
        self._members: set[str] = set()
        self._under_way: dict[str, float] = {}
        self._lock, self._stop = threading.Condition(), threading.Event()
        self._begun = time.monotonic()
        self._threads = [
            threading.Thread(target=self._client, args=(f"{name} {how}", target, how == "kept"), daemon=True)
            for name, target in targets.items()
            for how in ("new", "kept")
        ]

    def allow(self, member: str) -> None:
        """A member that may answer; an answer of another one is a failure."""
        with self._lock:
            self._members.add(member)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the clients finish what they are at, and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE + 1)

    def mark(self) -> int:
        """How many failures there are, to count from later."""
        with self._lock:
            return len(self.failures)

    def since(self, mark: int) -> list[Failure]:
        """The failures after a mark."""
        with self._lock:
            return self.failures[mark:]

    def answered_after(self, moment: float) -> float | None:
        """When the first request that began after `moment` was answered rightly, or None."""
        with self._lock:
            ends = [ended for began, ended, _ in self._successes if began > moment]
        return min(ends, default=None)

    def wait_for_answers(self, count: int, within: float, *, member: str | None = None) -> bool:
        """Wait until `count` more right answers have come (of that member); False when they did not in time."""

        def seen() -> int:
            return self.by_member[member] if member else self.sent - len(self.failures)

        with self._lock:
            wanted = seen() + count
            return self._lock.wait_for(lambda: seen() >= wanted, within)

    def wait_for_begun(self, within: float) -> bool:
        """Wait until every request that has begun by now is over, one way or the other; False when one is not in time."""
        now = time.monotonic()
        with self._lock:
            return self._lock.wait_for(lambda: all(began > now for began in self._under_way.values()), within)

    # -- clients ---------------------------------------------------------------------------------------------------
    def _client(self, name: str, target: Target, keep: bool) -> None:
        connection: socket.socket | None = None
        number = 0
        while not self._stop.wait(PAUSE):
            number += 1
            path = f"/{name.replace(' ', '/')}/{number}"
            with self._lock:
                began = self._under_way[name] = time.monotonic()
            reused = connection is not None
            try:
                try:
                    connection = connection or _connect(target)
                    member = _ask(connection, target, path, keep)
                except (_Closed, ConnectionResetError):
                    if not reused:
                        raise
                    _close(connection)
                    connection = None  # should nobody listen any more
                    connection = _connect(target)
                    member = _ask(connection, target, path, keep)
                with self._lock:
                    known = member in self._members
                if not known:
                    raise ValueError(f"answered by {member}, which is no member now")
            except (OSError, ValueError) as error:
                self._failed(Failure(began=began, ended=time.monotonic(), client=name, why=_words(error)))
                _close(connection)
                connection = None
                self._stop.wait(AFTER_FAILURE)
                continue
            self._answered(name, began, time.monotonic(), member)
            if not keep:
                _close(connection)
                connection = None
        _close(connection)

    def _answered(self, client: str, began: float, ended: float, member: str) -> None:
        with self._lock:
            del self._under_way[client]
            self.sent += 1
            self.by_member[member] += 1
            self._successes.append((began, ended, member))
            self._span(ended)[1] += 1
            self._lock.notify_all()

    def _failed(self, failure: Failure) -> None:
        with self._lock:
            del self._under_way[failure.client]
            self.sent += 1
            self.failures.append(failure)
            self._span(failure.ended)[2] += 1
            self._lock.notify_all()

    def _span(self, at: float) -> list[int]:
        tenth = int((at - self._begun) * 10)
        while not self.spans or self.spans[-1][0] < tenth:
            self.spans.append([self.spans[-1][0] + 1 if self.spans else tenth, 0, 0])
        return self.spans[-1]


def _connect(target: Target) -> socket.socket:
    plain = socket.create_connection((target.host, target.port), timeout=PATIENCE)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls is None:
            return plain
        return target.tls.wrap_socket(plain, server_hostname=target.name)
    except BaseException:  # no socket is left open, Ctrl-C included
        plain.close()
        raise


def _ask(connection: socket.socket, target: Target, path: str, keep: bool) -> str:
    """One request; the name of the member that gave the right answer.

    Raises:
        _Closed: closed before the first byte of an answer.
        OSError: anything else of the connection.
        ValueError: a wrong answer.
    """
    last = "" if keep else "Connection: close\r\n"
    request = f"GET {path} HTTP/1.1\r\nHost: {target.name}\r\n{last}\r\n".encode()
    try:
        connection.sendall(request)
        data = connection.recv(LARGEST)
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise _Closed(f"closed before an answer: {error}") from error
    if not data:
        raise _Closed("closed before an answer")
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if first.split(" ")[1:2] != ["200"]:
        raise ValueError(f"answer: {first}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += _more(connection)
    member, _, echoed = body.decode("utf-8", "replace").strip().partition(" ")
    if echoed != path:
        raise ValueError(f"the body of another request: {echoed!r} for {path!r}")
    return member


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(LARGEST)
    if not data:
        raise ConnectionError("closed in the middle of an answer")
    return data


def _close(connection: socket.socket | None) -> None:
    if connection is not None:
        connection.close()


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
