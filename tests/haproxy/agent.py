"""A small real agent: mutual TLS on loopback, files in memory, each request written down; it can be told to misbehave."""

from __future__ import annotations

import hashlib
import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import attrs
import trustme

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.secret import Secret
from octavia_core.settings import HaproxyAmphora, HealthManager, Settings

AMPHORA_ID = "11111111-2222-4333-8444-555555555555"
PATIENCE = 60.0
"""Seconds that both sides wait for each other where a test does not say otherwise: it is not about the time they take."""


def md5(data):
    return hashlib.md5(data).hexdigest()


@attrs.frozen
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def __str__(self):
        return f"{self.method} {self.path}"

    @property
    def is_json(self):
        return self.headers.get("Content-Type") == "application/json"


@attrs.frozen
class Reply:
    """One answer: JSON for a dictionary or a list, text otherwise."""

    status: int
    content: dict | list | str = attrs.field(factory=dict)
    etag: str | None = None


@attrs.define(eq=False, slots=False)
class Agent:
    """Plays the agent of one amphora. A context manager.

    Attributes:
        identity: the name in its certificate.
        answers: "METHOD /path" -> what to answer instead of doing the work, each time.
        asked: all requests, oldest first.
        configurations: load balancer id -> text.
        loaded: load balancer id -> text that was last reloaded.
        files: (load balancer id, file name) -> content.
        details: what GET details says besides versions.
        interfaces: address -> interface.
        udp: listener id -> keepalived's configuration.
        lvs: whether keepalived stays when it is started.
        keeps_alive: leave connections open after an answer.
        hangs_up: close them nevertheless, without a word.
        newest: TLS version.
        connections: how many were accepted.
        before_answer: called before each answer, for what happens meanwhile.
    """

    agents: trustme.CA = attrs.field(factory=trustme.CA)
    controllers: trustme.CA = attrs.field(factory=trustme.CA)
    identity: str = AMPHORA_ID
    host: str = "127.0.0.1"
    haproxy_version: str = "2.8.25"
    answers: dict[str, Reply] = attrs.field(factory=dict)
    asked: list[Asked] = attrs.field(factory=list)
    configurations: dict[str, str] = attrs.field(factory=dict)
    loaded: dict[str, str] = attrs.field(factory=dict)
    files: dict[tuple[str, str], bytes] = attrs.field(factory=dict)
    details: dict = attrs.field(factory=dict)
    interfaces: dict[str, str] = attrs.field(factory=dict)
    udp: dict[str, str] = attrs.field(factory=dict)
    lvs: bool = True
    keeps_alive: bool = True
    hangs_up: bool = False
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    connections: int = 0
    before_answer: Callable[[Asked], None] = lambda asked: None

    def __enter__(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.agents.issue_cert(self.identity).configure_cert(context)
        self.controllers.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = self.newest
        agent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = PATIENCE
            disable_nagle_algorithm = True  # or each answer waits 40 ms for a delayed acknowledgement

            def setup(self):
                agent.connections += 1
                self.request.settimeout(PATIENCE)
                self.request = context.wrap_socket(self.request, server_side=True)
                super().setup()

            def finish(self):
                super().finish()
                self.request.close()

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                agent.asked.append(asked)
                reply = agent.answers.get(str(asked)) or agent.do(asked)
                agent.before_answer(asked)
                is_json = isinstance(reply.content, dict | list)
                data = (json.dumps(reply.content) if is_json else reply.content).encode()
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json" if is_json else "text/plain; charset=UTF-8")
                self.send_header("Content-Length", str(len(data)))
                if reply.etag:
                    self.send_header("ETag", reply.etag)
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = self.close_connection or agent.hangs_up

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        if self.keeps_alive:
            Handler.protocol_version = "HTTP/1.1"

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            address_family = 10 if ":" in self.host else 2

            def server_bind(self):
                """Without asking a name server what this machine is called there."""
                socketserver.TCPServer.server_bind(self)
                self.server_name, self.server_port = self.server_address[:2]

            def handle_error(self, *_):
                pass

        self.server = Server((self.host, 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def at(self):
        return AgentAddress(amphora_id=AMPHORA_ID, host=self.host, port=self.server.server_address[1])

    def requests(self):
        """The requests since the last time, as "METHOD /path"."""
        found = [str(asked) for asked in self.asked]
        self.asked.clear()
        return found

    def do(self, asked):
        parts = asked.path.strip("/").split("/")[1:]
        match asked.method, parts:
            case "GET", []:
                return Reply(200, {"api_version": "1.0"})
            case "GET", ["info"]:
                return Reply(200, {"api_version": "1.0", "hostname": "amp", "haproxy_version": self.haproxy_version})
            case "GET", ["details"]:
                return Reply(200, {"haproxy_version": self.haproxy_version, **self.details})
            case "GET", ["loadbalancer", id, "haproxy"]:
                if id not in self.configurations:
                    return Reply(
                        404, {"message": "Loadbalancer Not Found", "details": f"No loadbalancer with UUID: {id}"}
                    )
                return Reply(200, self.configurations[id], md5(self.configurations[id].encode()))
            case "PUT", ["loadbalancer", _, id, "haproxy"]:
                self.configurations[id] = asked.body.decode()
                return Reply(202, {"message": "OK"}, md5(asked.body))
            case "PUT", ["loadbalancer", id, "reload"]:
                self.loaded[id] = self.configurations.get(id) or self.udp[id]
                return Reply(202, {"message": "OK", "details": f"Listener {id} reloaded"})
            case "DELETE", ["listeners", id]:
                self.configurations.pop(id, None)
                self.udp.pop(id, None)
                self.loaded.pop(id, None)
                self.files = {key: value for key, value in self.files.items() if key[0] != id}
                return Reply(200, {"message": "OK"})
            case "GET", ["loadbalancer", id, "certificates", name]:
                if (id, name) not in self.files:
                    return Reply(
                        404, {"message": "Certificate Not Found", "details": f"No certificate with filename: {name}"}
                    )
                return Reply(200, {"md5sum": md5(self.files[id, name])}, md5(self.files[id, name]))
            case "PUT", ["loadbalancer", id, "certificates", name]:
                self.files[id, name] = asked.body
                return Reply(200, {"message": "OK"}, md5(asked.body))
            case "DELETE", ["loadbalancer", id, "certificates", name]:
                self.files.pop((id, name), None)
                return Reply(200, {"message": "OK"})
            case ("POST", ["plug", *_]) | ("PUT", ["interface", _, "rules"]) if not asked.is_json:
                return Reply(400, {"error": "400 Bad Request: Invalid information", "http_code": 400})
            case ("POST", ["plug", *_]) | ("PUT", ["certificate" | "config"]):
                return Reply(202, {"message": "OK"})
            case _, ["interface" | "vrrp" | "listeners", *_] | ["loadbalancer", _, "start" | "stop"]:
                return self.do_more(asked, parts)
        return Reply(404, {"error": "404 Not Found: no such route", "http_code": 404})

    def do_more(self, asked, parts):
        """What few tests need."""
        match asked.method, parts:
            case ("PUT", ["interface", address, "rules"]) | ("GET", ["interface", address]):
                if address not in self.interfaces:
                    return Reply(404, {"message": f"Error interface not found for IP address: {address}"})
                return Reply(200, {"message": "OK", "interface": self.interfaces[address]})
            case "PUT", ["listeners", _, id, "udp_listener"]:
                self.udp[id] = asked.body.decode()
                return Reply(200, {"message": "OK"}, md5(asked.body))
            case "GET", ["listeners"]:
                there = [(id, "ACTIVE" if id in self.loaded and self.lvs else "OFFLINE") for id in self.udp]
                return Reply(200, [{"uuid": id, "status": status, "type": "UDP"} for id, status in there])
            case "GET", ["listeners", id, "udp_listener"]:
                return Reply(200, self.udp[id]) if id in self.udp else Reply(404, {"message": "UDP Listener Not Found"})
            case "PUT", ["vrrp", _] | ["loadbalancer", _, "start" | "stop"]:
                return Reply(202, {"message": "OK"})
        return Reply(404, {"error": "404 Not Found: no such route", "http_code": 404})


def pem(issued):
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems) + issued.private_key_pem.bytes()


def controller_settings(agent, folder: Path, **options):
    """Settings of a controller that this agent obeys."""
    folder.mkdir(exist_ok=True)
    (folder / "client.pem").write_bytes(pem(agent.controllers.issue_cert("controller.test")))
    agent.agents.cert_pem.write_to_path(str(folder / "server_ca.pem"))
    limits = {
        "rest_request_conn_timeout": PATIENCE,
        "rest_request_read_timeout": PATIENCE,
        "default_connection_limit": 2000,
    }
    return Settings(
        haproxy_amphora=HaproxyAmphora(
            client_cert=str(folder / "client.pem"), server_ca=str(folder / "server_ca.pem"), **{**limits, **options}
        ),
        health_manager=HealthManager(heartbeat_key=Secret("key"), controller_ip_port_list=("127.0.0.1:5555",)),
    )
