"""Small real web servers to stand behind the load balancer, each a process of its own that can be killed.

`python -m octavia_core.cli.demo.members NAME` serves on a free port of loopback, says the port on stdout, and ends when
its standard input does: with whoever started it.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading

__all__ = ["MemberServer"]

_STARTS_WITHIN = 60.0


class MemberServer:
    """A web server process that answers `NAME PATH`.

    Args:
        name: how it calls itself.
        patience: seconds that it may take to start.
    """

    def __init__(self, name: str, *, patience: float = _STARTS_WITHIN) -> None:
        self.name, self.address = name, "127.0.0.1"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "octavia_core.cli.demo.members", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C is for the demo, which ends them in its own order
        )
        assert self._process.stdout is not None
        timer = threading.Timer(patience, self._process.kill)
        timer.start()
        try:
            said = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not said.strip().isdigit():
            self.end()
            raise RuntimeError(f"the web server {name} did not start")
        self.port = int(said)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; returns when its sockets are closed."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """End it, if it still runs. Twice is harmless."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    name = ""

    def do_GET(self) -> None:
        body = f"{self.name} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def serve(name: str) -> None:
    """Serve until standard input ends."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"name": name}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    serve(sys.argv[1])
