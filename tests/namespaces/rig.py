"""What the tests of amphorae in network namespaces are made of: a state directory that asks for them, members, a look."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core import NewMember
from octavia_core.settings import Settings
from octavia_local.form import form_of
from octavia_local.links import Link, Links, in_namespace, namespace_of
from octavia_local.namespaces import plan_of

__all__ = [
    "HOST",
    "NETWORK",
    "SETTINGS",
    "answer_of",
    "inside",
    "links_of",
    "links_of_ours",
    "member_at",
    "require_namespaces",
]

IP_FREEBIND = 15  # linux/in.h: an address that comes with the first amphora may be listened on before


def _free_network() -> str:
    """A test process has its own, so that those that run side by side never ask for the same one, nor for one that the bridges
    of a run that was killed still have.
    """
    taken = Path("/proc/net/fib_trie").read_text(encoding="ascii")
    thirds = [(os.getpid() + index) % 128 * 2 for index in range(128)]
    return next(f"198.18.{third}.0/23" for third in thirds if f" 198.18.{third + 1}.1\n" not in taken)


NETWORK = _free_network()
SETTINGS = f'[local]\namphora = "namespace"\nnamespace_network = "{NETWORK}"\n'
HOST = NETWORK.rpartition(".")[0] + ".1"
"""This machine, as amphorae see it."""


def require_namespaces() -> None:
    """Skip the test where nobody may make network namespaces, with the command that enables it."""
    form = form_of(Settings.load(("test", {"local": {"amphora": "auto"}})))
    if not form.namespaces:
        pytest.skip(f"{form.why}; to enable: sudo {sys.executable} -m pytest tests/namespaces")


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def member_at(name: str, address: str = HOST) -> Iterator[NewMember]:
    """A web server on this machine that answers with its name, where amphorae reach it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = name.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with (_Server6 if ":" in address else _Server)((address, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield NewMember(address, server.server_address[1], name=name)
        finally:
            server.shutdown()
            thread.join()


def links_of_ours() -> list[Link]:
    """Every interface of this machine that some state directory's amphorae have made."""
    with Links() as links:
        return [link for link in links.all() if link.name.startswith("oc") and link.alias.startswith("octavia-core")]


def inside(pid: int, *command: str) -> str:
    """What a command says in the network namespace of a process."""
    namespace = namespace_of(pid)
    try:
        done = in_namespace(
            namespace, lambda: subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        )
    finally:
        os.close(namespace)
    return done.stdout


def links_of(settings: Settings) -> list[str]:
    """The interfaces of this machine that belong to amphorae of these settings."""
    plan = plan_of(settings)
    return [link.name for link in links_of_ours() if link.name.startswith(f"oc{plan.tag}")]


def answer_of(url: str) -> str | None:
    """The body of one request over a new connection, or None when it failed for whatever reason of the network."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None
