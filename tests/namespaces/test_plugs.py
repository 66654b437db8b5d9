"""The driver tells the agent of interfaces, and the agent in its namespace really has them."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import AmphoraNotReady, OctaviaError
from octavia_core.ports.network import HostRoute, PluggedNetwork, VipPlug
from octavia_haproxy.driver import HaproxyDriver
from octavia_local.links import Links, namespace_of
from octavia_local.namespaces import plan_of
from tests.local.rig import LocalRig
from tests.main_job.stage import PATIENCE, Stage, http, only_pool, until
from tests.namespaces.rig import NETWORK, answer_of, inside, member_at

MAC, OTHER = "02:00:00:00:07:01", "02:00:00:00:07:02"


class Amphora:
    """A booted amphora, and the driver that speaks to its agent."""

    def __init__(self, rig: LocalRig) -> None:
        server = rig.boot()
        self.pid = rig.process(server).pid
        self.at = AgentAddress(amphora_id=server.id, host=server.management_ip, port=server.agent_port)
        self.driver = HaproxyDriver(rig.settings)
        self.bridge = plan_of(rig.settings).bridge("m")

    def give(self, mac: str) -> None:
        """A new interface, as a network driver would plug it."""
        namespace, name = namespace_of(self.pid), f"oct{mac[-2:]}{self.pid}"  # all tests that run now have one machine
        try:
            with Links() as links:
                links.add_veth(name, links.find(self.bridge).index, f"new{mac[-2:]}", mac, namespace)
                links.change(links.find(name).index, state="up")
        finally:
            os.close(namespace)

    def shows(self, *command: str) -> str:
        return inside(self.pid, "ip", *command)


@pytest.fixture
def amphora(tmp_path):
    with LocalRig(tmp_path / "state", amphora="namespace", namespace_network=NETWORK) as rig:
        amphora = Amphora(rig)
        yield amphora
        amphora.driver.close()


def network(mac: str, *fixed: dict) -> PluggedNetwork:
    return PluggedNetwork(network_id="n", port_id="p", mac_address=mac, fixed_ips=fixed, mtu=1400)


def test_a_vip_is_plugged_with_its_addresses_and_routes(amphora):
    amphora.give(MAC)
    plug = VipPlug(
        port_id="p",
        mac_address=MAC,
        vip="192.0.2.10",
        subnet_cidr="192.0.2.0/24",
        gateway="192.0.2.1",
        vrrp_ip="192.0.2.11",
        mtu=1400,
        host_routes=(HostRoute(destination="198.51.100.0/24", nexthop="192.0.2.2"),),
        additional_vips=(
            {"ip_address": "2001:db8::10", "subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1", "host_routes": []},
        ),
    )
    amphora.driver.plug_vip(amphora.at, plug)
    amphora.driver.plug_vip(amphora.at, plug)  # plugged already: success
    addresses = amphora.shows("address", "show", "eth1")
    for words in ("mtu 1400", f"link/ether {MAC}", "192.0.2.11/24", "192.0.2.10/32", "2001:db8::10/128"):
        assert words in addresses
    assert "default via 192.0.2.1 dev eth1" in amphora.shows("route")
    assert "198.51.100.0/24 via 192.0.2.2 dev eth1" in amphora.shows("route")
    assert "default via 2001:db8::1 dev eth1" in amphora.shows("-6", "route")
    assert amphora.driver.interface(amphora.at, "192.0.2.11") == "eth1"
    assert amphora.driver.interface(amphora.at, "2001:db8::10") == "eth1"
    assert amphora.driver.interface(amphora.at, "192.0.2.99") is None


def test_a_member_network_is_plugged_and_rewritten(amphora):
    amphora.give(OTHER)
    first = {"ip_address": "203.0.113.5", "subnet_cidr": "203.0.113.0/24"}
    second = {"ip_address": "2001:db8:1::5", "subnet_cidr": "2001:db8:1::/64"}
    amphora.driver.plug_network(amphora.at, network(OTHER, first))
    assert "203.0.113.5/24" in amphora.shows("address", "show", "eth2")
    assert "dev eth2" not in amphora.shows("route", "show", "default")  # members' networks are no way to the world
    amphora.driver.plug_network(amphora.at, network(OTHER, second))
    now = amphora.shows("address", "show", "eth2")
    assert "2001:db8:1::5/64" in now
    assert "203.0.113.5" not in now


def plugged(amphora: Amphora, wanted: PluggedNetwork) -> bool:
    with contextlib.suppress(AmphoraNotReady):
        amphora.driver.plug_network(amphora.at, wanted)
        return True
    return False


def test_an_interface_that_comes_late_is_waited_for(amphora):
    wanted = network(OTHER, {"ip_address": "203.0.113.5", "subnet_cidr": "203.0.113.0/24"})
    late = threading.Timer(0.5, amphora.give, (OTHER,))
    late.start()
    try:
        until(lambda: plugged(amphora, wanted))  # the agent waits a moment; a flow tries a step again, too
    finally:
        late.join()
    assert "203.0.113.5/24" in amphora.shows("address", "show", "eth2")


def test_an_amphora_that_lost_its_vip_is_named_and_a_failover_brings_it_back(stage: Stage) -> None:
    """By its interface, which is gone or down, or by the address alone; health hears of none, since heartbeats go another way."""
    with member_at("one") as one, member_at("two") as two:
        lb = stage.build(http(one, port=80))
        url = f"http://{lb.vip.ip_address}/"
        for lost in (
            ("link", "delete", "eth1"),
            ("link", "set", "eth1", "down"),
            ("address", "delete", f"{lb.vip.ip_address}/32", "dev", "eth1"),
        ):
            (amphora,) = stage.controller.amphorae(lb.id)
            inside(stage.agent_pid(amphora.id), "ip", *lost)
            with pytest.raises(OctaviaError, match=f"amphora {amphora.id} is not on the network of VIP") as refusal:
                stage.controller.create_member(only_pool(lb).id, two).wait(PATIENCE)
            assert f"octavia-admin amphora failover {amphora.id}" in str(refusal.value)
            stage.controller.failover_load_balancer(lb.id).wait(PATIENCE)
            until(lambda: answer_of(url) == "one", "the new amphora serves")
            failed = next(member for member in only_pool(stage.tree(lb.id)).members if member.name == "two")
            stage.delete(Kind.MEMBER, failed.id)
