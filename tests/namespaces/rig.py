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
from octavia_core.controller.state import prepare_state
from octavia_core.settings import Settings
from octavia_local.compute import LocalCompute
from octavia_local.form import form_of
from octavia_local.links import Link, Links, in_namespace, namespace_of
from octavia_local.namespaces import plan_of
from tests.main_job.stage import Stage, open_stage

__all__ = [
    "HOST",
    "NETWORK",
    "SETTINGS",
    "answer_of",
    "inside",
    "links_of",
    "links_of_ours",
    "member_at",
    "open_stage_inside",
    "require_namespaces",
]

IP_FREEBIND = 15  # linux/in.h: an address that comes with the first amphora may be listened on before


def _free_network() -> str:
    """A test process has its own for as long as it lives: whoever holds the name has the network, in this network namespace
    as everything here. Bridges of a run that was killed may still have theirs.
    """
    taken = Path("/proc/net/fib_trie").read_text(encoding="ascii")
    for third in ((os.getpid() + index) % 128 * 2 for index in range(128)):
        if f" 198.18.{third + 1}.1\n" not in taken and _held(f"octavia-core-tests-198.18.{third}"):
            return f"198.18.{third}.0/23"
    raise AssertionError("all of 198.18.0.0/16 is used by tests")


def _held(name: str) -> bool:
    """Take a name that ends with this process (unix(7), abstract sockets); False when another one has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        try:
            made.bind(f"\0{name}")
        except OSError:
            return False
        made.detach()  # for ever
    return True


NETWORK = _free_network()
SETTINGS = f"""\
[local]
amphora = "namespace"
namespace_network = "{NETWORK}"
[health_manager]
heartbeat_timeout = 8  # a machine that stands still for a moment has lost no amphora; those that are killed are told of
"""
HOST = NETWORK.rpartition(".")[0] + ".1"
"""This machine, as amphorae see it."""


def require_namespaces() -> None:
    """Skip the test where nobody may make network namespaces, with the command that enables it."""
    form = form_of(Settings.load(("test", {"local": {"amphora": "auto"}})))
    if not form.namespaces:
        pytest.skip(f"{form.why}; to enable: sudo {sys.executable} -m pytest tests/namespaces")


@contextlib.contextmanager
def open_stage_inside(state: Path) -> Iterator[Stage]:
    """A stage whose amphorae have namespaces. What a story that went wrong leaves ends all the same: the next one has its network."""
    try:
        with open_stage(state, SETTINGS) as stage:
            yield stage
    finally:
        homes = state / "amphorae"
        if homes.is_dir() and (left := os.listdir(homes)):
            compute = LocalCompute(prepare_state(state).settings())
            for name in left:
                compute.destroy(name)


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
