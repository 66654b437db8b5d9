"""Real web servers to put behind a pool, and a client for what is in front of it."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
import urllib.request
from collections.abc import Iterator

from octavia_core import NewMember

__all__ = ["ask", "ask_quietly", "member"]

PATIENCE = 60.0
"""Seconds after which an answer is taken for one that does not come."""


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


@contextlib.contextmanager
def member(name: str) -> Iterator[NewMember]:
    """A real web server that answers with its name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = name.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield NewMember("127.0.0.1", server.server_address[1], name=name)
        finally:
            server.shutdown()
            thread.join()


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310
        return str(answer.read().decode())


def ask_quietly(host: str, port: int, timeout: float = PATIENCE) -> str | None:
    """The body of one request over a new connection, or None when it failed for whatever reason of the network."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None
