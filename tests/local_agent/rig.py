"""What the agent's tests are made of: authorities, a root folder, the agent's process, web servers, a controller."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import trustme

from octavia_core.domain.heartbeat import Heartbeat, decode
from tests.local_agent.waiting import PATIENCE, is_alive, parent_of, started, until
from tests.support.haproxies import chosen

__all__ = [
    "CONTROLLER", "KEY", "PATIENCE", "Answer", "Authorities", "Load", "Member", "Rig", "Server", "config", "get", "is_alive",
    "loopback_address", "members_of", "until",
]  # fmt: skip

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = "a-heartbeat-key"
CONTROLLER = "controller.octavia.test"
_TOLD = """
import importlib, json, sys
for place, value in json.loads(sys.argv[1]).items():
    module, _, name = place.rpartition(".")
    vars(found := importlib.import_module(f"octavia_local.agent.{module}"))[name]
    setattr(found, name, value)
from octavia_local.agent.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
"""An agent that waits longer than others do, where how long is not what a test asks."""


def loopback_address() -> str:
    """An address of this machine that hardly anybody else uses now."""
    return f"127.{random.randint(65, 120)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


class Authorities:
    """One authority for agents, one for controllers, one for nobody; certificates made once."""

    def __init__(self) -> None:
        self.agents, self.controllers, self.strangers = trustme.CA(), trustme.CA(), trustme.CA()
        self.controller = _pem(self.controllers.issue_cert(CONTROLLER))
        self.other_controller = _pem(self.controllers.issue_cert("somebody.else.test"))
        self.stranger = _pem(self.strangers.issue_cert(CONTROLLER))

    def agent(self, amphora_id: str) -> bytes:
        """A server.pem: certificate, then key."""
        return _pem(self.agents.issue_cert(amphora_id))


def _pem(issued: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems) + issued.private_key_pem.bytes()


@attrs.frozen
class Answer:
    """What the agent answered."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Rig:
    """One agent with its root, its controller's side and its heartbeats' receiver.

    Args:
        root: an empty folder to be ROOT.
        authorities: who signed what.
        local: what to change in local.json.
        conf: what to change in amphora-agent.conf: (group, name) to value.
        limits: what to change of the agent's own time limits: module and name to seconds.
    """

    def __init__(
        self,
        root: Path,
        authorities: Authorities,
        *,
        local: dict[str, Any] | None = None,
        conf: dict[tuple[str, str], str] | None = None,
        limits: dict[str, float] | None = None,
    ) -> None:
        self.root, self.authorities, self._limits = root, authorities, limits
        self.amphora_id, self.lb = str(uuid.uuid4()), str(uuid.uuid4())
        self.vip = loopback_address()
        self.beats = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.beats.bind(("127.0.0.1", 0))
        self.beats.settimeout(PATIENCE)
        self.process: subprocess.Popen[bytes] | None = None
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        self.put("etc/octavia/certs/server.pem", authorities.agent(self.amphora_id))
        self.put("etc/octavia/certs/client_ca.pem", authorities.controllers.cert_pem.bytes())
        self.put("etc/octavia/amphora-agent.conf", self.conf(conf).encode())
        document = {
            "addresses": [loopback_address() for _ in range(3)],
            "port": 9443,
            "haproxy": chosen().path,
            "orphan_after": 3600,
            "controller_names": [CONTROLLER],
            "privileged_port_offset": 8000,
        }
        self.put("local.json", json.dumps(document | (local or {})).encode())

    def conf(self, changes: dict[tuple[str, str], str] | None = None) -> str:
        """The text of amphora-agent.conf."""
        values = {
            ("haproxy_amphora", "base_cert_dir"): "/var/lib/octavia/certs",
            ("haproxy_amphora", "base_path"): "/var/lib/octavia",
            ("health_manager", "controller_ip_port_list"): f"127.0.0.1:{self.beats.getsockname()[1]}",
            ("health_manager", "heartbeat_interval"): "0.2",
            ("health_manager", "heartbeat_key"): KEY,
            ("amphora_agent", "agent_server_ca"): "/etc/octavia/certs/client_ca.pem",
            ("amphora_agent", "agent_server_cert"): "/etc/octavia/certs/server.pem",
            ("amphora_agent", "amphora_id"): self.amphora_id,
            ("controller_worker", "loadbalancer_topology"): "SINGLE",
            **(changes or {}),
        }
        lines = []
        for group, settings in itertools.groupby(sorted(values.items()), key=lambda item: item[0][0]):
            lines += [f"[{group}]", *(f"{name} = {value}" for (_, name), value in settings)]
        return "\n".join(lines) + "\n"

    def put(self, path: str, data: bytes) -> None:
        """Write a file of the root."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.write_bytes(data)
        target.chmod(0o600)

    # -- the process -----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the agent and wait until it is ready."""
        self.launch()
        return self.wait_until_ready()

    def wait_until_ready(self) -> Self:
        """After `launch`."""
        until(self._ready, "agent.json")
        return self

    def launch(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start the agent as the compute driver does: a session of its own, its words in agent.log."""
        paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins")])
        environment = {"PYTHONPATH": paths, "PATH": os.environ["PATH"]}
        program = ["-c", _TOLD, json.dumps(self._limits)] if self._limits else ["-m", "octavia_local.agent"]
        with open(self.root / "agent.log", "ab") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *program, str(self.root)],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        return self.process

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the agent ended: {self.log}"
        try:
            return bool(self.facts["pid"] == self.pid)  # the file of a killed agent may still be there
        except FileNotFoundError:
            return False

    @property
    def facts(self) -> dict[str, Any]:
        """agent.json."""
        found: dict[str, Any] = json.loads((self.root / "agent.json").read_bytes())
        return found

    @property
    def log(self) -> str:
        """agent.log."""
        return (self.root / "agent.log").read_text()

    @property
    def pid(self) -> int:
        """The agent's process."""
        assert self.process is not None
        return self.process.pid

    def haproxies(self) -> list[int]:
        """The agent's HAProxy processes that run, the newest last."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        found = [pid for pid in pids if parent_of(pid) == self.pid and is_alive(pid)]
        return sorted(found, key=lambda pid: (started(pid), pid))  # pids begin anew now and then

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.beats.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait(PATIENCE)
        if error is not None and (self.root / "agent.log").exists():
            print(self.log)

    def kill(self) -> None:
        """SIGKILL, as a machine dies; what the agent has started has ended, too."""
        assert self.process is not None
        children = self.haproxies()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        until(lambda: not any(map(is_alive, children)), "the end of what it has started")

    # -- the controller --------------------------------------------------------------------------------------------

    def context(self, certificate: bytes | None) -> ssl.SSLContext:
        """A TLS client context: trusts the agents' authority, shows this certificate."""
        context = ssl.create_default_context(cadata=self.authorities.agents.cert_pem.bytes().decode())
        if certificate is not None:
            with trustme.Blob(certificate).tempfile() as path:
                context.load_cert_chain(path)
        return context

    def connect(self, certificate: bytes | None = None) -> ssl.SSLSocket:
        """A TLS connection to the agent, which must show its amphora's id."""
        raw = socket.create_connection((self.facts["host"], self.facts["port"]), timeout=PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self.context(certificate or self.authorities.controller)
        return context.wrap_socket(raw, server_hostname=self.amphora_id)

    def ask(
        self, method: str, path: str, body: bytes | str | dict[str, Any] | list[Any] | None = None, **headers: str
    ) -> Answer:
        """One request on a connection of its own."""
        if isinstance(body, dict | list):
            body = json.dumps(body)
        connection = http.client.HTTPConnection("agent")
        connection.sock = self.connect()
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            answer_headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, response.read(), answer_headers)

    def push(self, config: str) -> Answer:
        """Upload a configuration and reload; the answer of the first call that was not accepted, else of the reload."""
        answer = self.ask("PUT", f"/1.0/loadbalancer/{self.amphora_id}/{self.lb}/haproxy", config)
        return answer if answer.status != 202 else self.ask("PUT", f"/1.0/loadbalancer/{self.lb}/reload")

    def certificate(self, name: str, data: bytes) -> str:
        """Upload a PEM file; its path in the image."""
        assert self.ask("PUT", f"/1.0/loadbalancer/{self.lb}/certificates/{name}", data).status == 200
        return f"/var/lib/octavia/certs/{self.lb}/{name}"

    def heartbeat(self, wanted: Callable[[Heartbeat], object] = lambda _: True) -> Heartbeat:
        """The next heartbeat of which `wanted` is true."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            beat = decode(self.beats.recv(65536), [KEY])
            if wanted(beat):
                return beat
        raise AssertionError("no such heartbeat")


def members_of(beat: Heartbeat) -> dict[str, str]:
    """Member id to status, over all pools of a heartbeat."""
    return {name: status for pool in beat.pools.values() for name, status in pool.members.items()}


class Member:
    """A web server that answers with its name."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name, self.served = name, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.served += 1
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                for header in ("X-Forwarded-For", "X-Forwarded-Port"):
                    if header in self.headers:
                        self.send_header(f"Seen-{header}", self.headers[header])
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 512
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A killed HAProxy resets its connections."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@attrs.frozen
class Server:
    """A server line."""

    name: str
    port: int
    weight: int = 1
    extra: str = ""

    def __str__(self) -> str:
        return (
            f"    server {self.name} 127.0.0.1:{self.port} weight {self.weight}{' ' if self.extra else ''}{self.extra}"
        )


def config(
    rig: Rig,
    servers: Sequence[Server],
    *,
    port: int = 8080,
    bind: str = "",
    listener: str = "listener-1",
    pool: str = "pool-1",
    monitor: bool = False,
    frontend: Sequence[str] = (),
    backend: Sequence[str] = ("balance roundrobin",),
    globals: Sequence[str] = (),
) -> str:
    """A configuration in the form that controllers render."""
    check = [
        "    load-server-state-from-file global",
        "    timeout check 1s",
        "    option httpchk GET /",
        "    http-check expect rstatus 200",
    ]
    return "\n".join([
        f"# Configuration for loadbalancer {rig.lb}",
        "global",
        "    daemon",
        "    user nobody",
        "    log /run/rsyslog/octavia/log local0",
        "    log /run/rsyslog/octavia/log local1 notice",
        f"    stats socket /var/lib/octavia/{rig.lb}.sock mode 0666 level user",
        f"    server-state-file /var/lib/octavia/{rig.lb}/servers-state",
        "    maxconn 50000",
        *(f"    {line}" for line in globals),
        "",
        "defaults",
        "    log global",
        "    retries 3",
        "    option redispatch",
        "    option splice-request",
        "    option splice-response",
        "    option http-keep-alive",
        "",
        f"frontend {listener}",
        "    maxconn 50000",
        f"    bind {rig.vip}:{port}{' ' if bind else ''}{bind}",
        "    mode http",
        *(f"    {line}" for line in frontend),
        f"    default_backend {pool}:{listener}",
        "    timeout client 50000",
        "",
        f"backend {pool}:{listener}",
        "    mode http",
        "    http-reuse safe",
        *(f"    {line}" for line in backend),
        *(check if monitor else ()),
        "    option forwardfor",
        "    fullconn 50000",
        "    option allbackups",
        "    timeout connect 5000",
        "    timeout server 50000",
        *(str(server) for server in servers),
        "",
    ])  # fmt: skip


def get(address: str, port: int = 8080, timeout: float = PATIENCE) -> str:
    """The body of one request through the VIP, on a connection of its own."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read().decode()
        if response.status != 200:
            raise http.client.HTTPException(f"{response.status}: {body}")
        return body


@attrs.frozen
class Count:
    """What a load saw."""

    good: int
    refused: int
    failed: int


class Load:
    """Steady requests through the VIP, each on a new connection, from a few threads."""

    def __init__(self, address: str, port: int = 8080, threads: int = 3) -> None:
        self._place = (address, port)
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._good = self._refused = self._failed = 0
        self.failures: list[str] = []
        self.lasted: list[float] = []
        """Seconds from the beginning of each of these."""
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait_for(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait_for(self, more: int) -> None:
        """Wait for so many more good requests."""
        goal = self.count.good + more
        until(lambda: self.count.good >= goal, f"{more} more good requests")

    @property
    def count(self) -> Count:
        """Up to now."""
        with self._lock:
            return Count(self._good, self._refused, self._failed)

    def _run(self) -> None:
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                get(*self._place)
            except ConnectionRefusedError:
                with self._lock:
                    self._refused += 1
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self._failed += 1
                    self.failures.append(f"{type(error).__name__}: {error}")
                    self.lasted.append(time.monotonic() - began)
            else:
                with self._lock:
                    self._good += 1
