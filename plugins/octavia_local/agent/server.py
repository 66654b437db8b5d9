"""Connections: mutual TLS, limits, and one thread for each of the few there can be.

Before a client is known it gets no more than a handshake of five seconds, and takes no place of those who are known:
there are sixteen places for strangers, and the one that has been a stranger longest gives way to the next. There are
sixteen for known clients too; when one more comes, the one that has been idle longest is closed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from octavia_local.agent.root import log
from octavia_local.agent.wire import BadHttp, Reader, Request, Response, framework_error

__all__ = ["MOST_CONNECTIONS", "MOST_STRANGERS", "Server", "TlsFiles", "bind_first_free"]

HANDSHAKE_WITHIN = 5.0
"""Seconds for TLS before the client is known."""
MOST_CONNECTIONS = 16
"""Of clients that have shown their certificate."""
MOST_STRANGERS = 16
"""Of clients that have not yet."""
_IDLE_WITHIN = 120.0
"""Seconds that a kept connection may be silent."""
_BACKLOG = 128


def bind_first_free(addresses: Collection[str], port: int) -> socket.socket:
    """Listen on the first of these addresses where the port is free, exclusively: neither SO_REUSEPORT nor SO_REUSEADDR.

    Raises:
        OSError: none is free; the last one's reason.
    """
    failure = OSError("no address to bind")
    for address in addresses:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.bind((address, port))
            made.listen(_BACKLOG)
        except OSError as error:
            made.close()
            failure = error
            continue
        return made
    raise failure


class TlsFiles:
    """The TLS context of two files, made again when one of them has changed.

    Args:
        certificate: PEM, certificate then key.
        authority: PEM, the authority whose client certificates are accepted.
    """

    def __init__(self, certificate: str, authority: str) -> None:
        self._certificate, self._authority = certificate, authority
        self._made_of: object = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """The context for the next connection.

        Raises:
            OSError: a file cannot be read (ssl.SSLError is one).
        """
        now = tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in map(os.stat, (self._certificate, self._authority)))
        if self._context is None or now != self._made_of:
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(self._authority)
            made.load_cert_chain(self._certificate, password="")  # an encrypted key must fail, not ask on a terminal
            self._context, self._made_of = made, now
        return self._context


class _Connection:
    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.idle_since: float | None = None

    def hang_up(self) -> None:
        """End it from outside of its thread, which notices."""
        with contextlib.suppress(OSError):  # it is going by itself
            self.raw.shutdown(socket.SHUT_RDWR)


class Server:
    """Accepts, authenticates, reads, answers.

    Args:
        listening: bound and listening already.
        tls: context for each connection.
        names: accepted names of client certificates; empty accepts any of the authority.
        handle: answers a request; called from many threads.
        read_timeout: seconds that reading one request may take.
    """

    def __init__(
        self,
        listening: socket.socket,
        tls: TlsFiles,
        names: Collection[str],
        handle: Callable[[Request], Response],
        read_timeout: float,
    ) -> None:
        self._listening, self._tls, self._names, self._handle = listening, tls, names, handle
        self._read_timeout = read_timeout
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._strange_places = threading.BoundedSemaphore(MOST_STRANGERS)
        self._lock = threading.Lock()
        self._known: set[_Connection] = set()
        self._strangers: dict[_Connection, None] = {}  # the oldest first

    def start(self) -> None:
        """Serve from now on, until the process ends."""
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError as error:  # too many open files, a client that left at once
                log(f"accept: {error}")
                time.sleep(0.05)
                continue
            if not self._strange_places.acquire(blocking=False):
                self._close_the_oldest_stranger()
                self._strange_places.acquire()
            connection = _Connection(raw)
            with self._lock:
                self._strangers[connection] = None
            try:
                threading.Thread(target=self._serve, args=(connection,), name="connection", daemon=True).start()
            except RuntimeError as error:  # no more threads
                self._no_stranger(connection)
                raw.close()
                log(f"accept: {error}")

    def _close_the_oldest_stranger(self) -> None:
        with self._lock:
            oldest = next(iter(self._strangers), None)
            if oldest is not None:
                oldest.hang_up()

    def _close_an_idle_one(self) -> None:
        with self._lock:
            idle = [(one.idle_since, id(one), one) for one in self._known if one.idle_since is not None]
            if idle:
                min(idle)[2].hang_up()

    def _no_stranger(self, connection: _Connection) -> None:
        """It has shown who it is, or is gone: its place is free, once."""
        with self._lock:
            if connection not in self._strangers:
                return
            del self._strangers[connection]
        self._strange_places.release()

    def _serve(self, connection: _Connection) -> None:
        raw = connection.raw
        try:
            raw.settimeout(HANDSHAKE_WITHIN)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._handshake(connection) as secured:
                self._no_stranger(connection)
                self._serve_known(connection, secured)
        except (OSError, ValueError):
            return  # refused by TLS, silent for too long, or gone
        finally:
            self._no_stranger(connection)
            connection.raw.close()

    def _serve_known(self, connection: _Connection, secured: ssl.SSLSocket) -> None:
        if not self._places.acquire(blocking=False):
            self._close_an_idle_one()
            if not self._places.acquire(timeout=self._read_timeout):
                return
        with self._lock:
            self._known.add(connection)
        try:
            self._converse(connection, secured)
        finally:
            with self._lock:
                self._known.discard(connection)
            self._places.release()

    def _handshake(self, connection: _Connection) -> ssl.SSLSocket:
        """The handshake; the socket's time limit holds for all of it, so a client cannot stretch it byte by byte."""
        context = self._tls.context()
        try:
            with self._lock:  # whoever hangs up meets one of both: wrapping takes the first one's file away
                secured = context.wrap_socket(connection.raw, server_side=True, do_handshake_on_connect=False)
                connection.raw = secured
            secured.do_handshake()
        except ssl.SSLError as error:
            log(f"a client was refused: {error.reason or 'TLS handshake failed'}")
            raise
        return secured

    def _converse(self, connection: _Connection, secured: ssl.SSLSocket) -> None:
        if self._names and not _certified_names(secured.getpeercert() or {}) & set(self._names):
            self._refuse(
                secured, framework_error(403, "this certificate does not belong to a controller of this amphora")
            )
            log("a client was refused: its certificate has none of the controllers' names")
            return
        clock = _Clock(secured, self._read_timeout)
        reader = Reader(clock.receive, secured.sendall)
        keep = True
        while keep:
            connection.idle_since = time.monotonic()
            clock.wait_for_first_byte()
            try:
                request = reader.next()
            except BadHttp as error:
                self._refuse(secured, error.response)
                return
            if request is None:
                return
            connection.idle_since = None
            response = self._handle(request)
            keep = request.keep_alive
            secured.settimeout(self._read_timeout)
            secured.sendall(response.serialise(keep_alive=keep))

    @staticmethod
    def _refuse(secured: ssl.SSLSocket, response: Response) -> None:
        """Answer and close so that the answer arrives, though what the client still sends is not read as a request."""
        secured.settimeout(HANDSHAKE_WITHIN)
        secured.sendall(response.serialise(keep_alive=False))
        secured.settimeout(0.5)
        deadline = time.monotonic() + 2
        try:
            while time.monotonic() < deadline and secured.recv(65536):
                continue  # a reset because of unread bytes would take the answer with it
        except OSError:
            return


class _Clock:
    """Reading with a deadline for the whole request, once its first byte is there."""

    def __init__(self, source: ssl.SSLSocket, seconds: float) -> None:
        self._source, self._seconds = source, seconds
        self._deadline: float | None = None

    def wait_for_first_byte(self) -> None:
        self._deadline = None

    def receive(self, size: int) -> bytes:
        now = time.monotonic()
        left = _IDLE_WITHIN if self._deadline is None else self._deadline - now
        if left <= 0:
            raise TimeoutError("the request did not arrive in time")
        self._source.settimeout(left)
        data = self._source.recv(size)
        if self._deadline is None:
            self._deadline = time.monotonic() + self._seconds
        return data


def _certified_names(certificate: Any) -> set[str]:
    names = {value.lower() for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    names |= {value.lower() for group in certificate.get("subject", ()) for key, value in group if key == "commonName"}
    return names
