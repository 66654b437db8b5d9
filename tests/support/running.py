"""HAProxy as rendered, really running, with real members on loopback: what a feature does is seen in real requests.

The text is used as it would be sent, but for what only an amphora has: the account, its log socket, its ping helper.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import random
import shutil
import socket
import socketserver
import ssl
import stat
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import attrs
import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Vip
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.amphora import Delivery, Material
from octavia_core.settings import HaproxyAmphora, Settings
from octavia_haproxy.render.config import Configuration, configure
from octavia_haproxy.render.model import Facts
from octavia_haproxy.render.monitor import PING_COMMAND
from octavia_haproxy.render.names import cert_directory, peer_name
from octavia_haproxy.render.sections import LOG_SOCKET
from tests.support.haproxies import chosen

__all__ = [
    "SERVE",
    "Answer",
    "Echo",
    "Running",
    "Serve",
    "ask",
    "check",
    "check_together",
    "fresh_address",
    "materialise",
    "no_log",
    "running",
]

PATIENCE = 60.0
"""Seconds after which a thing that should happen is taken for not happening."""

AMPHORA = Amphora(id="11111111-2222-4333-8444-555555555555", status=AmphoraStatus.ALLOCATED)


def fresh_address() -> str:
    """A loopback address that nobody else uses: neither amphorae (127.64/10) nor 127.0.0.1."""
    dice = random.SystemRandom()  # the usual one says the same in all workers: Hypothesis sets it back for each example
    return f"127.{dice.randint(130, 250)}.{dice.randint(0, 255)}.{dice.randint(1, 254)}"


def materialise(load_balancer: LoadBalancer, folder: Path, material: Material | None = None) -> Configuration:
    """Render for that folder in place of /var/lib/octavia, and write what a push would send into it."""
    settings = Settings(
        haproxy_amphora=HaproxyAmphora(
            base_path=str(folder), base_cert_dir=str(folder / "certs"), default_connection_limit=200
        )
    )
    delivery = Delivery(load_balancer=load_balancer, amphora=AMPHORA, material=material or Material())
    version = tuple(int(part) for part in chosen().version.split(".")[:2])
    wanted = configure(delivery, settings, Facts(haproxy_version=(version[0], version[1])))
    certificates = Path(cert_directory(str(folder / "certs"), load_balancer.id))
    certificates.mkdir(parents=True, exist_ok=True)
    (folder / load_balancer.id).mkdir(exist_ok=True)
    for file in wanted.files.values():
        if file.content is not None:
            (certificates / file.name).write_bytes(file.content.reveal())
    text = (wanted.text or "").replace("    daemon\n    user nobody\n", "")
    text = text.replace("    maxconn 1000000\n", "    maxconn 200\n")  # what a process here may have open
    text = text.replace(LOG_SOCKET, str(folder / "log")).replace(PING_COMMAND, str(folder / "ping.sh"))
    (folder / "haproxy.cfg").write_text(text)
    return wanted


def check(load_balancer: LoadBalancer, material: Material | None = None) -> str:
    """What `haproxy -c` complains about; empty when it accepts the rendered text."""
    return check_together([(load_balancer, material)])


def check_together(cases: Sequence[tuple[LoadBalancer, Material | None]]) -> str:
    """The same of several, which are one configuration then: a start of HAProxy costs more than to read another file."""
    with tempfile.TemporaryDirectory(prefix="hap") as folder:
        line = [chosen().path, "-c", "-L", peer_name(AMPHORA.id)]
        for index, (load_balancer, material) in enumerate(cases):
            own = Path(folder, str(index))
            own.mkdir()
            materialise(load_balancer, own, material)
            line += ["-f", f"{own}/haproxy.cfg"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr or f"exit code {done.returncode}"


@attrs.define
class Running:
    """A load balancer that is served now.

    Attributes:
        address: its VIP.
        folder: in place of /var/lib/octavia.
        id: of the load balancer.
    """

    address: str
    folder: Path
    id: str
    log: socket.socket
    additional: str = ""
    """The additional VIP, where one was asked for."""

    def command(self, text: str) -> str:
        """Ask HAProxy's stats socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(f"{self.folder}/{self.id}.sock")
            client.sendall(text.encode() + b"\n")
            parts = []
            while part := client.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()

    def server_status(self, member_id: str) -> str:
        """Status of a member as HAProxy reports it: UP, DOWN, MAINT, `no check`, ..."""
        header, *rows = self.command("show stat").strip().split("\n")
        columns = header.removeprefix("# ").split(",")
        found = [dict(zip(columns, row.split(","), strict=False)) for row in rows]
        return next((row["status"] for row in found if row["svname"] == member_id), "absent")

    def known_as(self, member_id: str) -> str:
        """The id under which HAProxy knows the member: another one where a library has given it."""
        return member_id

    def until_status(self, member_id: str, status: str) -> None:
        """Wait until a member is said to be that."""
        deadline = time.monotonic() + PATIENCE
        seen = ""
        while time.monotonic() < deadline:
            seen = self.server_status(member_id)
            if seen == status:
                return
            threading.Event().wait(0.02)
        raise AssertionError(f"member {member_id} is {seen}, not {status}")

    def logged(self) -> str:
        """The next connection log line. Skips the test where an agent drops them."""
        if SERVE.get() is not None:
            pytest.skip("a local amphora has no connection log")
        while True:
            line = self.log.recv(65536).decode()
            if line.startswith("<134>"):  # local0.info; what is administrative goes to local1
                return line


Serve = Callable[[LoadBalancer, Material | None], Iterator[Running]]

SERVE: ContextVar[Serve | None] = ContextVar("SERVE", default=None)
"""Set to serve in another way than by HAProxy alone; the fixture `served_by` does."""


@contextlib.contextmanager
def no_log() -> Iterator[socket.socket]:
    """A log socket that nobody writes to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.settimeout(PATIENCE)
        yield log


@contextlib.contextmanager
def running(
    load_balancer: LoadBalancer,
    material: Material | None = None,
    *,
    additional: bool = False,
    replacing: Mapping[str, str | Callable[[str], str]] | None = None,
) -> Iterator[Running]:
    """Serve a load balancer on a fresh loopback address (whatever VIP it has) until the end of the block.

    Args:
        load_balancer: what to serve.
        material: its secrets.
        additional: give it a further address as well.
        replacing: texts of the configuration and what to put there, where that depends on the address as a function of it.
    """
    folder = Path(tempfile.mkdtemp(prefix="hap"))  # short: a path of a Unix socket has at most 107 bytes
    ports = [listener.protocol_port for listener in load_balancer.listeners]
    address, further = _free_address(ports), _free_address(ports) if additional else ""
    served = attrs.evolve(load_balancer, vip=Vip(ip_address=address))
    if additional:
        served = attrs.evolve(served, additional_vips=(AdditionalVip(ip_address=further),))
    try:
        serve = SERVE.get()
        if serve is not None:
            if replacing:
                pytest.skip("an agent serves a configuration as it was rendered")
            for found in serve(served, material):
                found.additional = further
                yield found
            return
        materialise(served, folder, material)
        configuration = folder / "haproxy.cfg"
        for old, new in (replacing or {}).items():
            configuration.write_text(configuration.read_text().replace(old, new(address) if callable(new) else new))
        yield from _serve(served, folder, further)
    finally:
        shutil.rmtree(folder)


def _serve(served: LoadBalancer, folder: Path, additional: str) -> Iterator[Running]:
    address = str(served.vip.ip_address)
    ping = folder / "ping.sh"
    ping.write_text(
        "#!/bin/sh\n# address and port of the member are $3 and $4\ncase $3 in 127.0.0.1) exit 0;; *) exit 1;; esac\n"
    )
    ping.chmod(stat.S_IRWXU)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(folder / "log"))
        log.settimeout(PATIENCE)
        with open(folder / "output", "wb") as output:
            line = [chosen().path, "-db", "-L", peer_name(AMPHORA.id), "-f", str(folder / "haproxy.cfg")]
            process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        found = Running(address=address, folder=folder, id=served.id, log=log, additional=additional)
        try:
            _until_it_answers(found, process)
            yield found
        finally:
            process.kill()
            process.wait()


def _until_it_answers(found: Running, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"HAProxy ended: {(found.folder / 'output').read_text()}")
        with contextlib.suppress(OSError):
            if found.command("show info"):
                return
        threading.Event().wait(0.01)
    raise AssertionError("HAProxy does not answer")


def _free_address(ports: Sequence[int]) -> str:
    for _ in range(50):
        address = fresh_address()
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind((address, port))
        except OSError:
            continue
        return address
    raise AssertionError("no free loopback address")


@attrs.frozen(kw_only=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def echo(self) -> dict[str, Any]:
        """What the member saw: `name`, `path`, `headers` (lower case), `proxy`."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def member(self) -> str:
        """Which member answered."""
        return str(self.echo["name"])


def ask(
    address: str,
    port: int,
    path: str = "/",
    *,
    headers: Sequence[tuple[str, str]] = (),
    tls: ssl.SSLContext | None = None,
    name: str | None = None,
    source: str = "",
) -> Answer:
    """One request over a new connection.

    Args:
        address: of the load balancer.
        port: of the listener.
        path: sent as it is.
        headers: further headers; a `Host` here replaces the usual one.
        tls: speak TLS with this context.
        name: server name (SNI).
        source: own address.
    """
    connection = http.client.HTTPConnection(
        address, port, timeout=PATIENCE, source_address=(source, 0) if source else None
    )
    try:
        connection.connect()
        if tls is not None:
            connection.sock = tls.wrap_socket(connection.sock, server_hostname=name or address)
        own_host = any(key.lower() == "host" for key, _ in headers)
        connection.putrequest("GET", path, skip_host=own_host, skip_accept_encoding=True)
        for key, value in headers:
            connection.putheader(key, value.encode())
        connection.endheaders()
        answer = connection.getresponse()
        return Answer(
            status=answer.status,
            headers={key.lower(): value for key, value in answer.getheaders()},
            body=answer.read(),
        )
    finally:
        connection.close()


class Echo:
    """A web server that answers with what it saw, as JSON. A context manager; see `away`.

    Args:
        name: how it calls itself.
        address: where it listens.
        tls: the context of a TLS server.
        proxy: expects the PROXY protocol, either version.
    """

    def __init__(
        self, name: str, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None, proxy: bool = False
    ) -> None:
        self.name = name
        self.healthy = True
        self.seen: list[str] = []
        """Paths asked for, checks included."""
        self.answered: list[int] = []
        """With which status."""
        echo = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = PATIENCE
            disable_nagle_algorithm = True
            proxy_header: dict[str, Any] | None = None

            def setup(self) -> None:
                if proxy:
                    self.proxy_header = read_proxy_header(self.request)
                if tls is not None:
                    self.request = tls.wrap_socket(self.request, server_side=True)
                super().setup()

            def finish(self) -> None:
                super().finish()
                self.request.close()  # wrapped in TLS it is another one than the server closes

            def do_GET(self) -> None:
                echo.seen.append(f"{self.command} {self.path} {self.request_version} {self.headers.get('Host', '-')}")
                peer = self.request.getpeercert() if tls is not None else None
                body = json.dumps({
                    "name": echo.name,
                    "path": self.path,
                    "headers": {key.lower(): value for key, value in self.headers.items()},
                    "proxy": self.proxy_header,
                    "client_certificate": peer,
                    "alpn": self.request.selected_alpn_protocol() if tls is not None else None,
                    "cipher": self.request.cipher()[0] if tls is not None else None,
                }).encode()  # fmt: skip
                status = 200 if echo.healthy else 503
                echo.answered.append(status)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Set-Cookie", f"APP={echo.name}-session; Path=/")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_OPTIONS = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True
            block_on_close = False
            allow_reuse_port = True  # for `away`; a port that the kernel chooses is nobody else's all the same

            def server_bind(self) -> None:
                """Without asking a name server what the address is called."""
                socketserver.TCPServer.server_bind(self)
                self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that goes away, or a handshake that fails, is no news."""

        self.address, self.port = address, 0
        self._listen: Callable[[], Server] = lambda: Server((address, self.port), Handler)

    def __enter__(self) -> Self:
        self._server = self._listen()
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Inside the block nobody listens on its port, and nobody else gets it."""
        with socket.socket() as kept:
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept.bind((self.address, self.port))
            self.__exit__()
            try:
                yield
            finally:
                self.__enter__()


def read_proxy_header(connection: socket.socket) -> dict[str, Any]:
    """Read a PROXY protocol header (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2)."""
    start = _exactly(connection, 12)
    if start.startswith(b"PROXY "):
        line = bytearray(start)
        while not line.endswith(b"\r\n"):
            line += _exactly(connection, 1)
        words = line.decode().split()
        return {"version": 1, "source": words[2], "destination": words[3]} if len(words) > 3 else {"version": 1}
    if start != b"\r\n\r\n\x00\r\nQUIT\n":
        raise ConnectionError("no PROXY header")
    command, _family, length = struct.unpack("!BBH", _exactly(connection, 4))
    rest = _exactly(connection, length)
    found: dict[str, Any] = {"version": 2, "local": not command & 1}
    if not found["local"]:
        found["source"] = socket.inet_ntoa(rest[:4])
        found["tlvs"] = _tlvs(rest[12:])
    return found


def _tlvs(data: bytes) -> dict[str, str]:
    found = {}
    while len(data) >= 3:
        kind, length = struct.unpack("!BH", data[:3])
        value = data[3 : 3 + length]
        if kind == 0x20:  # PP2_TYPE_SSL: client flags, verify, then TLVs of its own
            found["ssl"] = value[:1].hex()
            found.update(_tlvs(value[5:]))
        elif kind == 0x22:  # PP2_SUBTYPE_SSL_CN
            found["cn"] = value.decode()
        data = data[3 + length :]
    return found


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return data
