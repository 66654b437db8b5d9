"""Two amphorae with the unmodified agent share a VIP by real keepalived, set up by our driver."""

from __future__ import annotations

import attrs
import pytest

from octavia_core.domain.amphora import Amphora, VrrpGroup
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Role, Topology
from octavia_core.ports.amphora import BootIdentity, Delivery, VrrpDelivery
from octavia_core.ports.network import VipPlug
from tests.peers.amphora_agent.conftest import booted
from tests.peers.amphora_agent.lab import VIP, VIPS
from tests.peers.octavia_api.programs import until
from tests.support.running import Echo, ask
from tests.support.trees import behind, listener, load_balancer, pool

IDS = ("aaaaaaaa-0b0e-4b5f-9a55-6c8f8f0a1e12", "bbbbbbbb-0b0e-4b5f-9a55-6c8f8f0a1e13")


@pytest.fixture(scope="module")
def pair(laboratory, driver, authority):
    """Both machines with their rows, plugged."""
    machines = []
    for number, id in enumerate(IDS, 12):
        identity = BootIdentity(
            amphora_id=id,
            topology=Topology.ACTIVE_STANDBY,
            server_pem=authority.issue(id).server_pem,
            controller_ca_pem=authority.controller_ca(),
        )
        machines.append(booted(laboratory, driver, identity, number))
    rows = []
    for machine, role, priority in zip(machines, (Role.MASTER, Role.BACKUP), (100, 90), strict=True):
        own = f"{VIPS}.{machine.number}"
        machine.plug("vip", "br-vip")
        driver.plug_vip(machine.at, plug(machine))
        rows.append(
            Amphora(
                id=machine.amphora_id, status=AmphoraStatus.ALLOCATED, role=role, lb_network_ip=machine.at.host,
                vrrp_ip=own, ha_ip=VIP, vrrp_id=1, vrrp_priority=priority,
                vrrp_interface=driver.interface(machine.at, own),
            )
        )  # fmt: skip
    return machines, rows


def plug(machine):
    return VipPlug(
        port_id="vip", mac_address=machine.mac("vip"), vip=VIP, subnet_cidr=f"{VIPS}.0/24", gateway=f"{VIPS}.1",
        vrrp_ip=f"{VIPS}.{machine.number}", mtu=1500,
    )  # fmt: skip


def test_one_of_two_holds_the_vip_and_the_other_takes_it_over(driver, pair, laboratory):
    machines, rows = pair
    assert [row.vrrp_interface for row in rows] == ["eth1", "eth1"]

    def holders():
        return [machine for machine in machines if driver.interface(machine.at, VIP) is not None]

    assert holders() == []
    with Echo("member", address=f"{VIPS}.1") as echo:
        one = pool(behind(echo))
        lb = load_balancer(
            listener(one, protocol_port=80), one, vip=Vip(ip_address=VIP), topology=Topology.ACTIVE_STANDBY
        )
        group = VrrpGroup(load_balancer_id=lb.id, name=lb.id.replace("-", ""), auth_pass=Secret("test"))
        for machine, here, there in zip(machines, rows, rows[::-1], strict=True):
            driver.push(machine.at, Delivery(load_balancer=lb, amphora=here, peers=(there,)))
            bare = attrs.evolve(lb, listeners=(), pools=())
            driver.start_vrrp(
                machine.at,
                VrrpDelivery(load_balancer=bare, amphora=here, peers=(there,), group=group, subnet=plug(machine)),
            )
        until("one of them holds the VIP", lambda: len(holders()) == 1)
        until("and serves on it", serves)
        (first,) = holders()
        driver.stop_vrrp(first.at)
        until("the other one takes it over", lambda: [m for m in holders() if m is not first])
        until("and serves on it", serves)
        assert first not in holders()


def serves() -> bool:
    try:
        return ask(VIP, 80).status == 200
    except OSError:
        return False
