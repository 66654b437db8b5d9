"""The same load balancers, served by the local agent: pushed to a process of its own over mutual TLS by the driver."""

from __future__ import annotations

import select
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from octavia_core.domain.amphora import AgentAddress, Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.amphora import Delivery, Material
from octavia_core.settings import HaproxyAmphora, Settings
from octavia_haproxy.driver import HaproxyDriver
from tests.local_agent.rig import Authorities, Rig, members_of
from tests.support.running import Running, no_log

__all__ = ["ServedByAgent", "serve_by_agent"]


@attrs.define
class ServedByAgent(Running):
    """What is served by an agent. What members are is what its heartbeats say; there is no log and no console."""

    rig: Rig = attrs.field(kw_only=True)

    def command(self, text: str) -> str:
        """Skips the test: the console is the agent's."""
        pytest.skip("the agent keeps HAProxy's console to itself")

    def server_status(self, member_id: str) -> str:
        """Status of a member in the next heartbeat. Those that wait to be read say how it was."""
        while select.select([self.rig.beats], [], [], 0)[0]:
            self.rig.beats.recv(65536)
        return members_of(self.rig.heartbeat()).get(member_id, "absent")


def serve_by_agent(load_balancer: LoadBalancer, material: Material | None) -> Iterator[ServedByAgent]:
    """Start an agent, push to it, and end it after use."""
    with tempfile.TemporaryDirectory(prefix="agent") as name, Rig(Path(name, "root"), Authorities()) as rig:
        folder = Path(name)
        (folder / "client.pem").write_bytes(rig.authorities.controller)
        rig.authorities.agents.cert_pem.write_to_path(str(folder / "ca.pem"))
        rig.start()
        amphora = HaproxyAmphora(
            client_cert=str(folder / "client.pem"), server_ca=str(folder / "ca.pem"), default_connection_limit=200
        )
        driver = HaproxyDriver(Settings(haproxy_amphora=amphora))
        at = AgentAddress(amphora_id=rig.amphora_id, host=rig.facts["host"], port=rig.facts["port"])
        receiver = Amphora(id=rig.amphora_id, status=AmphoraStatus.ALLOCATED)
        try:
            driver.push(at, Delivery(load_balancer=load_balancer, amphora=receiver, material=material or Material()))
            with no_log() as log:
                yield ServedByAgent(
                    address=str(load_balancer.vip.ip_address), folder=folder, id=load_balancer.id, log=log, rig=rig
                )
        finally:
            driver.close()
