"""A state directory of its own, with authorities, and the local drivers over it; ends every amphora it booted."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Self

from octavia_core.certs.authority import Authority, create_authorities
from octavia_core.controller.state import StateDirectory, prepare_state
from octavia_core.domain.secret import Secret
from octavia_core.ports.compute import BootFiles, Server, ServerSpec, ServerState
from octavia_core.settings import Settings
from octavia_local.compute import LocalCompute
from octavia_local.home import Home
from octavia_local.processes import Process

AGENT_CONF = """\
[haproxy_amphora]
base_cert_dir = /var/lib/octavia/certs
base_path = /var/lib/octavia
[health_manager]
controller_ip_port_list =
heartbeat_interval = 10
heartbeat_key = a-key-for-tests
[amphora_agent]
agent_server_ca = /etc/octavia/certs/client_ca.pem
agent_server_cert = /etc/octavia/certs/server.pem
amphora_id = {amphora_id}
"""


def eventually(see, what="it", within=60.0):
    """What `see` gives as soon as that is true."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if seen := see():
            return seen
        time.sleep(0.005)
    raise AssertionError(f"{what} did not come within {within} s")


class LocalRig:
    """Everything of one machine, for one test. `local` is its `[local]` group."""

    def __init__(self, path: Path, **local: str) -> None:
        self.state: StateDirectory = prepare_state(path)
        create_authorities(self.state.authority)
        self.settings: Settings = self.state.settings(("test", {"local": local}))
        self.authority = Authority.from_settings(self.settings)
        self.compute = LocalCompute(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for name in os.listdir(self.homes) if self.homes.is_dir() else []:
            self.compute.destroy(name)

    @property
    def homes(self) -> Path:
        return Path(self.state.path, "amphorae")

    def home(self, server_or_id: Server | str) -> Home:
        return Home(self.homes / (server_or_id if isinstance(server_or_id, str) else server_or_id.id))

    def again(self) -> LocalCompute:
        """The driver of a controller that was started again."""
        return LocalCompute(self.settings)

    def files(self, amphora_id: str) -> BootFiles:
        return {
            "/etc/octavia/amphora-agent.conf": Secret(AGENT_CONF.format(amphora_id=amphora_id)),
            "/etc/octavia/certs/server.pem": self.authority.issue(amphora_id).server_pem,
            "/etc/octavia/certs/client_ca.pem": Secret(self.authority.controller_ca()),
        }

    def spec(self) -> ServerSpec:
        id = str(uuid.uuid4())
        return ServerSpec(name=f"amphora-{id}", amphora_id=id)

    def boot(self) -> Server:
        spec = self.spec()
        self.compute.boot(spec, lambda: self.files(spec.amphora_id))
        return eventually(lambda: self.active(spec.name), "an active server")

    def active(self, name: str) -> Server | None:
        server = self.compute.find(name)
        assert server is not None
        assert server.state in (ServerState.BUILDING, ServerState.ACTIVE), server
        return server if server.state is ServerState.ACTIVE else None

    def process(self, server: Server) -> Process:
        process = self.home(server).process()
        assert process is not None
        return process

    def kill(self, server: Server) -> None:
        os.kill(self.process(server).pid, signal.SIGKILL)

    def freeze(self, server: Server) -> None:
        os.kill(self.process(server).pid, signal.SIGSTOP)
