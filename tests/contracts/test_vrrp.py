"""Every amphora driver of the house lets two amphorae share a VIP: through the agent's API, and in the simulator."""

from __future__ import annotations

import attrs
import pytest

from octavia_core.domain.amphora import AgentAddress, Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.compute import ServerSpec
from octavia_core.ports.network import VipRequest
from octavia_core.testing.outside import SimulatedCloud
from octavia_core.testing.simulator import SimulatedAmphorae, SimulatedCompute, SimulatedNetwork
from octavia_core.testing.vrrp_contract import VRRP_CONTRACT, VrrpCase
from octavia_haproxy.driver import HaproxyDriver
from tests.haproxy.agent import Agent, controller_settings


@pytest.fixture
def simulated():
    cloud = SimulatedCloud()
    network = SimulatedNetwork(cloud)
    server = SimulatedCompute(cloud).boot(ServerSpec(name="amphora-one", amphora_id="one"), dict)
    lb = LoadBalancer(id="lb", vip=network.reserve_vip(VipRequest(load_balancer_id="lb")).vip)
    plug = network.plug_vip(lb, Amphora(id="one", status=AmphoraStatus.ALLOCATED))
    at = AgentAddress(amphora_id="one", host=str(server.management_ip), port=server.agent_port)
    nobody = attrs.evolve(at, host="10.64.99.99")
    yield VrrpCase(amphorae=SimulatedAmphorae(cloud), at=at, own=str(plug.vrrp_ip), foreign="192.0.2.1", nobody=nobody)
    cloud.close()


@pytest.fixture
def haproxy(tmp_path):
    with Agent() as agent:
        agent.interfaces["10.128.0.5"] = "eth1"
        settings = controller_settings(agent, tmp_path / "controller")
        quick = attrs.evolve(settings.haproxy_amphora, active_connection_max_retries=1, connection_max_retries=1)
        driver = HaproxyDriver(attrs.evolve(settings, haproxy_amphora=quick))
        nobody = attrs.evolve(agent.at, port=1)
        yield VrrpCase(amphorae=driver, at=agent.at, own="10.128.0.5", foreign="192.0.2.1", nobody=nobody)
        driver.close()


@pytest.mark.parametrize("law", VRRP_CONTRACT, ids=lambda law: law.__name__)
@pytest.mark.parametrize("driver", ["simulated", "haproxy"])
def test_vrrp(driver, law, request):
    law(request.getfixturevalue(driver))
