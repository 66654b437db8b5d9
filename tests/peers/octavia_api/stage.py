"""The stage: upstream's unmodified octavia-api, RabbitMQ, MariaDB with upstream's schema, and our consumer and worker.

Everything is in one temporary folder, on free ports, with a TMPDIR of its own (upstream's no-op network driver keeps one
fixed file there). The peers are installed from PyPI into `.nox/peer-octavia`, once.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from octavia_core.certs.authority import create_authorities
from octavia_core.testing.outside import SimulatedCloud
from tests.peers.environment import peer
from tests.peers.octavia_api.programs import Broker, Database, Process, free_port, until

__all__ = ["HEARTBEAT_KEY", "PROJECT", "ROOT", "Stage", "peer", "stage"]

ROOT = Path(__file__).parents[3]
PROJECT = "11111111222233334444555555555555"
HEARTBEAT_KEY = "only-for-tests"


class Stage:
    """All of it. Use `stage()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = peer()
        self.broker = Broker(folder / "rabbit")
        self.database = Database(folder / "maria")
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self.conf = folder / "octavia.conf"
        self.port = free_port()
        self.cloud_file = self.state / "simulator.db"
        (folder / "tmp").mkdir()
        peers = {"TMPDIR": str(folder / "tmp"), "PYTHONWARNINGS": "ignore"}
        ours = {"PYTHONPATH": ":".join(str(ROOT / part) for part in (".", "daemons", "plugins"))}
        self.api = Process("api", folder, [str(self.bin / "octavia-api"), "--config-file", str(self.conf)], peers)
        self.upstream_worker = Process(
            "upstream-worker", folder, [str(self.bin / "octavia-worker"), "--config-file", str(self.conf)], peers
        )
        options = ["--config-file", str(self.conf), "--state-directory", str(self.state)]
        python = [sys.executable, "-m"]
        self.consumer = Process("consumer", folder, [*python, "octavia_daemons.consumer", *options], ours)
        self.worker = Process("worker", folder, [*python, "octavia_daemons.worker", *options], ours)
        self.health = Process("health", folder, [*python, "octavia_daemons.health_manager", *options], ours)
        """Not started with the others: most tests send no heartbeats."""
        self.heartbeats = free_port()

    def write_conf(self, **engine: object) -> None:
        """The one octavia.conf that upstream's programs and ours read."""
        create_authorities(str(self.folder / "authority"))
        authority = self.folder / "authority"
        values: dict[str, dict[str, object]] = {
            "DEFAULT": {"transport_url": self.broker.url, "host": "stage", "debug": "false"},
            "api_settings": {
                "bind_host": "127.0.0.1",
                "bind_port": self.port,
                "auth_strategy": "noauth",
                "enabled_provider_drivers": "amphora: The amphora driver",
                "default_provider_driver": "amphora",
            },
            "database": {"connection": self.database.url},
            "controller_worker": {
                "workers": 1,
                "amphora_driver": "amphora_noop_driver",
                "compute_driver": "compute_noop_driver",
                "network_driver": "network_noop_driver",
                "image_driver": "image_noop_driver",
                "volume_driver": "volume_noop_driver",
                "client_ca": authority / "controllers.pem",
                "loadbalancer_topology": "SINGLE",
            },
            "health_manager": {"bind_ip": "127.0.0.1", "bind_port": self.heartbeats, "heartbeat_key": HEARTBEAT_KEY},
            "certificates": {
                "cert_manager": "noop_cert_manager",
                "ca_certificate": authority / "agents.pem",
                "ca_private_key": authority / "agents.key",
                "server_certs_key_passphrase": "0123456789abcdef0123456789abcdef",
            },
            "haproxy_amphora": {"client_cert": authority / "controller.pem", "server_ca": authority / "agents.pem"},
            "engine": {"lease": 2, "poll_interval": 0.1, "sweep": "off", **engine},
            "oslo_messaging_rabbit": {"rabbit_retry_interval": 1, "rabbit_retry_backoff": 1},
            "oslo_messaging_notifications": {"driver": "messagingv2"},
        }
        text = "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()) + "\n"
            for group, options in values.items()
        )
        self.conf.write_text(text, encoding="utf-8")

    def start(self) -> None:
        """Start the servers side by side, make the schema with upstream's own command, then ours beside it, then the API."""
        threads = [threading.Thread(target=one.start) for one in (self.broker, self.database)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.database.make()
        self.write_conf()
        done = subprocess.run(
            [str(self.bin / "octavia-db-manage"), "--config-file", str(self.conf), "upgrade", "head"],
            check=False,
            capture_output=True,
            text=True,
            env=self.api.environment,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        from octavia_core.db import schema

        schema.upgrade(self.database.url)
        self.api.start()
        self.consumer.start()
        self.worker.start()
        until(f"octavia-api answers: {self.api.said()}", self._api_answers)
        until(f"the consumer listens: {self.consumer.said()}", lambda: "listening for" in self.consumer.said())

    def _api_answers(self) -> bool:
        assert self.api.running(), self.api.said()
        try:
            self.ask("GET", "/v2/lbaas/loadbalancers")
        except (OSError, AssertionError):
            return False
        return True

    def close(self) -> None:
        """End everything."""
        for program in (self.api, self.upstream_worker, self.worker, self.consumer, self.health):
            program.stop()
        self.database.stop()
        self.broker.close()

    # -- the user's side -------------------------------------------------------------------------------------------
    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, *, expect: tuple[int, ...] = (200, 201, 202, 204)) -> Any:
        """One request to the API, and its answer's JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        request.add_header("X-Project-Id", PROJECT)
        request.add_header("X-Roles", "admin")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            status, text = refused.code, refused.read()
            refused.close()
        assert status in expect, f"{method} {path}: {status} {text[:500]!r}"
        return json.loads(text) if text else None

    def create(self, path: str, kind: str, **values: Any) -> dict[str, Any]:
        """Create something; what the API answers."""
        answer: dict[str, Any] = self.ask("POST", f"/v2/lbaas/{path}", {kind: values})[kind]
        return answer

    def load_balancer(self, name: str = "lb", **values: Any) -> dict[str, Any]:
        """Create a load balancer on a subnet that upstream's no-op network driver makes up."""
        subnet = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
        return self.create(
            "loadbalancers", "loadbalancer", name=name, vip_subnet_id=subnet, project_id=PROJECT, **values
        )

    def status(self, lb_id: str) -> str:
        """Provisioning status of a load balancer, from the rows."""
        found = self.database.rows("SELECT provisioning_status FROM load_balancer WHERE id = %s", lb_id)
        return str(found[0]["provisioning_status"]) if found else "ABSENT"

    def settled(self, lb_id: str, status: str = "ACTIVE", *, within: float = 30.0) -> None:
        """Wait until a load balancer is no longer pending, and is that."""
        until(f"{lb_id} settles", lambda: not self.status(lb_id).startswith("PENDING"), within=within, pause=0.02)
        assert self.status(lb_id) == status, self.why(lb_id)

    def why(self, lb_id: str) -> str:
        """For messages of failing tests."""
        events = self.database.rows(
            "SELECT name, text FROM oc_event WHERE load_balancer_id = %s ORDER BY sequence", lb_id
        )
        return f"{self.status(lb_id)}: {events}\n{self.worker.said()[-1500:]}"

    def pending(self) -> list[dict[str, object]]:
        """Everything that is PENDING anywhere."""
        kinds = ("load_balancer", "listener", "pool", "member", "health_monitor", "l7policy", "l7rule")
        query = " UNION ALL ".join(
            f"SELECT '{kind}' AS kind, id, provisioning_status AS status FROM {kind} WHERE provisioning_status LIKE 'PENDING%%'"
            for kind in kinds
        )
        return self.database.rows(query.replace("%%", "%"))

    def open_operations(self) -> list[dict[str, object]]:
        """Operations that are not over."""
        return self.database.rows(
            "SELECT id, flow, state, error FROM oc_operation WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED')"
        )

    def cloud(self) -> SimulatedCloud:
        """The simulated outside, which judges what was done."""
        return SimulatedCloud(self.cloud_file)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A running stage, ended with the block."""
    folder = Path(tempfile.mkdtemp(prefix="octavia-peers-"))
    folder.chmod(0o755)
    made = Stage(folder)
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
