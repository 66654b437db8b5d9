"""Rules of an interface on a virtual function: what the agent is told to let in."""

from __future__ import annotations

import json

import attrs
import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import Vip
from octavia_core.domain.vocabulary import AmphoraStatus, ListenerProtocol, Provisioning
from octavia_core.errors import PermanentError
from octavia_core.ports.amphora import Delivery
from octavia_haproxy.driver import HaproxyDriver
from tests.haproxy.agent import AMPHORA_ID, Agent, controller_settings
from tests.support.trees import listener, load_balancer

OWN = "192.0.2.9"
AMPHORA = Amphora(id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED, vrrp_ip=OWN)
DIRECT = Vip(ip_address="192.0.2.1", vnic_type="direct")


@pytest.fixture
def agent():
    with Agent() as found:
        found.interfaces[OWN] = "eth1"
        yield found


@pytest.fixture
def driver(agent, tmp_path):
    made = HaproxyDriver(controller_settings(agent, tmp_path))
    yield made
    made.close()


def sent(agent):
    return [json.loads(asked.body) for asked in agent.asked if asked.path.endswith("/rules")]


def test_each_listener_and_network_and_each_peer_is_let_in(agent, driver):
    lb = load_balancer(
        [
            listener(protocol_port=80),
            listener(protocol_port=81, allowed_cidrs=("10.1.2.3/8", "192.0.2.0/24", "0.0.0.0/0")),
            listener(protocol=ListenerProtocol.PROMETHEUS, protocol_port=82),
            listener(protocol_port=83, provisioning_status=Provisioning.PENDING_DELETE),
        ],
        vip=DIRECT,
    )
    peers = tuple(attrs.evolve(AMPHORA, id=id, vrrp_ip=ip) for id, ip in (("b", "192.0.2.10"), ("c", None)))
    driver.push(agent.at, Delivery(load_balancer=lb, amphora=AMPHORA, peers=peers))
    (rules,) = sent(agent)
    assert [(rule["protocol"], rule["port"], rule["cidr"]) for rule in rules] == [
        ("TCP", 80, None),
        ("TCP", 81, None),
        ("TCP", 81, "10.0.0.0/8"),
        ("TCP", 81, "192.0.2.0/24"),
        ("TCP", 82, None),
        ("vrrp", 112, "192.0.2.10/32"),
    ]


def test_nobody_is_told_of_rules_whose_vip_is_on_an_ordinary_port(agent, driver):
    for lb in (load_balancer(listener()), load_balancer(listener(), vip=attrs.evolve(DIRECT, vnic_type="normal"))):
        driver.push(agent.at, Delivery(load_balancer=lb, amphora=AMPHORA))
    assert sent(agent) == []


def test_an_agent_that_knows_no_rules_is_named(agent, driver):
    agent.interfaces.clear()
    with pytest.raises(PermanentError, match=f"amphora {AMPHORA_ID} lets nobody in"):
        driver.push(agent.at, Delivery(load_balancer=load_balancer(listener(), vip=DIRECT), amphora=AMPHORA))
