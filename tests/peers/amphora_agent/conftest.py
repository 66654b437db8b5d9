"""One amphora with the unmodified agent for all tests of this folder, and our driver as its controller."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from octavia_core.certs.authority import Authority, create_authorities
from octavia_core.controller.health.receive import Receiver, bind_receiver
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import AdditionalVip, HealthMonitor, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, ListenerProtocol, MonitorType, Topology
from octavia_core.errors import AmphoraUnreachable
from octavia_core.ports.amphora import BootIdentity, Delivery, Material
from octavia_core.settings import (
    Certificates,
    ControllerWorker,
    HaproxyAmphora,
    HealthManager,
    KeepalivedVrrp,
    Settings,
)
from octavia_haproxy.driver import HaproxyDriver
from tests.haproxy.certificates import Authority as Signer
from tests.peers.amphora_agent.lab import AMPHORA_ID, KEY, MANAGEMENT, MEMBERS, VIP, VIP6, VRRP, Lab, Machine, lab
from tests.peers.octavia_api.programs import until
from tests.support.running import Echo
from tests.support.trees import behind, listener, load_balancer, pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need root and programs of an amphora, are long, and stay in one xdist worker, in their order."""
    for item in items:
        if "peers/amphora_agent" in item.nodeid:
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.external)
            item.add_marker(pytest.mark.timeout(300))
            item.add_marker(pytest.mark.xdist_group("amphora_agent"))


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def settings(laboratory):
    """Of a controller with two authorities."""
    folder = laboratory.folder / "authority"
    create_authorities(str(folder))
    return Settings(
        controller_worker=ControllerWorker(client_ca=str(folder / "controllers.pem")),
        certificates=Certificates(ca_certificate=str(folder / "agents.pem"), ca_private_key=str(folder / "agents.key")),
        haproxy_amphora=HaproxyAmphora(
            client_cert=str(folder / "controller.pem"),
            server_ca=str(folder / "agents.pem"),
            default_connection_limit=1000,  # open files are limited here
        ),
        health_manager=HealthManager(
            heartbeat_key=Secret(KEY), heartbeat_interval=1, bind_ip=f"{MANAGEMENT}.1", bind_port=5555
        ),
        keepalived_vrrp=KeepalivedVrrp(vrrp_check_interval=1),
    )


@pytest.fixture(scope="module")
def authority(settings):
    return Authority.from_settings(settings)


@pytest.fixture(scope="module")
def identity(authority):
    return BootIdentity(
        amphora_id=AMPHORA_ID,
        topology=Topology.SINGLE,
        server_pem=authority.issue(AMPHORA_ID).server_pem,
        controller_ca_pem=authority.controller_ca(),
    )


@pytest.fixture(scope="module")
def driver(settings):
    made = HaproxyDriver(settings)
    yield made
    made.close()


_QUESTION = "GET /1.0/interface/127.1."
_numbers = itertools.count()


def logged(machine: Machine, driver: HaproxyDriver) -> list[str]:
    """All requests that the agent has logged until now. It logs one after the other, but a little late: so it is asked
    something that nobody else asks, and when that is in its log, all is.
    """
    last = f"127.1.1.{next(_numbers) % 250 + 1}"
    driver.interface(machine.at, last)
    until("the log has it all", lambda: machine.requests()[-1:] == [f"GET /1.0/interface/{last}"])
    return [words for words in machine.requests() if not words.startswith(_QUESTION)]


def booted(laboratory: Lab, driver: HaproxyDriver, identity: BootIdentity, number: int) -> Machine:
    """An amphora, when its agent answers."""
    made = laboratory.boot(identity.amphora_id, driver.boot_files(identity), number)

    def answers():
        assert made.process.running(), made.said()
        try:
            return driver.info(made.at, limit=5)
        except AmphoraUnreachable:
            return None

    try:
        until("the agent answers", answers)
    except AssertionError:
        print(made.said())
        raise
    return made


@pytest.fixture(scope="module")
def machine(laboratory, driver, identity) -> Machine:
    """The amphora of a SINGLE load balancer."""
    return booted(laboratory, driver, identity, 11)


@pytest.fixture(scope="module")
def members(laboratory) -> Iterator[tuple[Echo, Echo]]:
    """Two web servers on the members' network."""
    one, two = (laboratory.address(MEMBERS, number, "br-member") for number in (51, 52))
    ids = (f"c1a2b3c4-0000-4000-8000-00000000000{number}" for number in (1, 2))
    with Echo(next(ids), address=one) as first, Echo(next(ids), address=two) as second:
        yield first, second


@pytest.fixture(scope="module")
def signer():
    return Signer()


@pytest.fixture(scope="module")
def heartbeats(settings, laboratory) -> Iterator[Receiver]:
    """Our receiver, where the amphora was told to send."""
    receiver = Receiver(bind_receiver(settings))
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def tree(members):
    """HTTP and HTTPS in front of the same two members, watched by a health monitor."""
    monitor = HealthMonitor(id="hm", type=MonitorType.HTTP, delay=1, timeout=1, max_retries=1, max_retries_down=1)
    one = pool(behind(*members), health_monitor=monitor)
    plain = listener(one, protocol_port=80)
    secure = listener(
        one, protocol=ListenerProtocol.TERMINATED_HTTPS, protocol_port=443, tls_certificate_id="secret/www"
    )
    more = (AdditionalVip(ip_address=VIP6),)
    return load_balancer([plain, secure], one, vip=Vip(ip_address=VIP), additional_vips=more)


@pytest.fixture(scope="module")
def material(signer):
    return Material(bundles={"secret/www": signer.issue("www.test")})


@pytest.fixture(scope="module")
def push(machine, driver, material):
    """Push a tree to the amphora; what the driver says, and what the agent logged meanwhile."""
    amphora = Amphora(id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED, lb_network_ip=machine.at.host, vrrp_ip=VRRP)

    def do(tree):
        before = len(logged(machine, driver))
        pushed = driver.push(machine.at, Delivery(load_balancer=tree, amphora=amphora, material=material))
        return pushed, logged(machine, driver)[before:]

    return do
