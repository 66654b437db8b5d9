"""The local network: what loopback can give, and one clear sentence for what it cannot."""

from __future__ import annotations

import ipaddress
import multiprocessing
import socket
import uuid

import attrs
import pytest

from octavia_core.errors import ConfigurationError, PermanentError
from octavia_core.ports.network import VipRequest
from octavia_core.settings import Settings
from octavia_local.network import LocalNetwork
from octavia_local.reach import reachable_port

NETWORK = "127.93.2.0/23"


def settings_for(path, network=NETWORK):
    return Settings.load(("test", {"local": {"network": network}}), state_directory=str(path))


@pytest.fixture
def network(tmp_path):
    return LocalNetwork(settings_for(tmp_path))


def reserve(network, load_balancer="lb", **wanted):
    return network.reserve_vip(VipRequest(load_balancer_id=load_balancer, **wanted)).vip


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.7", "not on this machine's loopback network"),
        ("127.0.0.0", "not on this machine's loopback network"),
        ("127.255.255.255", "not on this machine's loopback network"),
        ("::1", "IPv6"),
        ("fd00::1", "IPv6"),
        ("127.0.0.1/8", "no IP address"),
        ("", "no IP address"),
        ("127.93.3.7", "for amphorae"),
    ],
)
def test_an_address_that_cannot_be_is_one_sentence_that_names_it(network, address, words):
    with pytest.raises(PermanentError, match=words) as caught:
        reserve(network, ip_address=address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
    assert network.list() == []


def test_any_other_loopback_address_may_be_wanted(network):
    assert reserve(network, ip_address="127.0.0.1").ip_address == "127.0.0.1"


def test_vips_come_from_the_lower_half(network):
    half = ipaddress.IPv4Network("127.93.2.0/24")
    for _ in range(20):
        assert ipaddress.ip_address(reserve(network, str(uuid.uuid4())).ip_address) in half


def test_what_the_row_says_later_is_understood_again(network):
    vip = reserve(network)
    again = reserve(
        network, ip_address=vip.ip_address, subnet_id=vip.subnet_id, network_id=vip.network_id, port_id=vip.port_id
    )
    assert again == vip


def test_a_port_that_the_api_has_made_keeps_its_ids(network):
    ids = {f"{what}_id": str(uuid.uuid4()) for what in ("port", "subnet", "network")}
    vip = reserve(network, ip_address="127.93.2.7", **ids)
    assert {name: getattr(vip, name) for name in ids} == ids


@pytest.mark.parametrize("what", ["subnet_id", "network_id", "port_id"])
def test_things_of_a_cloud_are_unknown_here(network, what):
    with pytest.raises(PermanentError, match="this machine has no"):
        reserve(network, **{what: "8f3a2c1e-0000-4000-8000-000000000001"})


def test_an_address_that_somebody_listens_on_is_not_chosen(tmp_path):
    small = LocalNetwork(settings_for(tmp_path, "127.93.4.0/29"))  # VIPs .1 and .2
    with socket.socket() as foreign:
        foreign.bind(("127.93.4.1", 0))
        foreign.listen()
        assert reserve(small, "one").ip_address == "127.93.4.2"
        with pytest.raises(PermanentError, match="all 2 VIP addresses"):
            reserve(small, "two")


def _reserve_many(path, barrier, results):
    network = LocalNetwork(settings_for(path))
    barrier.wait(60)
    results.put([reserve(network, str(uuid.uuid4())).ip_address for _ in range(20)])


def test_processes_that_compete_never_share_an_address(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(3), spawn.Queue()
    workers = [spawn.Process(target=_reserve_many, args=(tmp_path, barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [address for _ in workers for address in results.get(timeout=100)]
    for worker in workers:
        worker.join(20)
    assert len(found) == len(set(found)) == 60


def test_a_port_that_needs_privileges_is_reached_where_the_agent_serves_it(tmp_path):
    settings = settings_for(tmp_path)
    network = LocalNetwork(attrs.evolve(settings, local=attrs.evolve(settings.local, privileged_port_offset=7000)))
    assert network.reachable_at("127.93.2.9", 8080) == "127.93.2.9:8080"
    assert network.reachable_at("127.93.2.9", 80) == f"127.93.2.9:{reachable_port(80, offset=7000)}"


def test_reservations_are_private(network, tmp_path):
    reserve(network)
    for path in (tmp_path / "network").rglob("*"):
        assert not path.stat().st_mode & 0o077, path


def test_no_state_directory_is_one_sentence():
    with pytest.raises(ConfigurationError, match="state directory"):
        LocalNetwork(Settings())
