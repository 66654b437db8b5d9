"""The HTTP server that Prometheus asks: few at a time, and nobody who says nothing for long."""

from __future__ import annotations

import contextlib
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

__all__ = ["AT_ONCE", "ScrapeServer"]

AT_ONCE = 8
"""Connections that there are at the same time; for a further one the oldest gives way. Prometheus opens one, two where it is doubled."""
PATIENCE = 10.0
"""Seconds that a connection may say nothing; as long as Prometheus waits for an answer by itself."""


class _Quiet(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, *_: object) -> None:
        """Nothing: a line every few seconds tells nobody anything."""


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """Answers on threads of its own until `stop`.

    Args:
        host: IPv4 or IPv6 address, or a name.
        port: 0 for any that is free.
        application: WSGI.

    Raises:
        OSError: the address cannot be had.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # five, as by itself: whoever asks beside many that come at once is let in seconds later

    def __init__(self, host: str, port: int, application: Any) -> None:
        self.address_family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._lock, self._open = threading.Lock(), list[socket.socket]()
        super().__init__((host, port), _Quiet)
        self.set_app(application)
        threading.Thread(target=self.serve_forever, args=(0.1,), name="octavia-metrics", daemon=True).start()

    def stop(self) -> None:
        """No more connections."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """See `socketserver.ThreadingMixIn`."""
        with self._lock:
            self._open.append(request)
            oldest = self._open.pop(0) if len(self._open) > AT_ONCE else None
        if oldest is not None:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """See there."""
        with self._lock:
            if request in self._open:
                self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: it hung up, or said nothing in time."""
