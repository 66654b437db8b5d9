"""The simulated cloud as a judge: it outlives its users, remembers every call, and fails when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import attrs
import pytest

from octavia_core.domain.amphora import AgentAddress, Amphora
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import AmphoraStatus, ListenerProtocol, PoolProtocol
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, PermanentError, TransientError
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.amphora import Delivery, Material
from octavia_core.ports.compute import ServerSpec, ServerState
from octavia_core.ports.network import VipRequest
from octavia_core.settings import Settings
from octavia_core.testing.clock import VirtualClock
from octavia_core.testing.outside import FaultKind, SimulatedCloud
from octavia_core.testing.plugin import Simulator
from octavia_core.testing.simulator import SimulatedAmphorae, SimulatedCompute, SimulatedNetwork

SPEC = ServerSpec(name="amphora-one", amphora_id="one")


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def cloud(clock):
    cloud = SimulatedCloud(clock=clock, boot_seconds=30.0)
    yield cloud
    cloud.close()


def files():
    return {"/etc/octavia/certs/server.pem": Secret("a very private key")}


def booted(cloud, clock):
    server = SimulatedCompute(cloud).boot(SPEC, files)
    clock.advance(30)
    server = SimulatedCompute(cloud).find(SPEC.name)
    return server, AgentAddress(amphora_id="one", host=server.management_ip, port=server.agent_port)


def test_servers_age_with_the_clock(cloud, clock):
    compute = SimulatedCompute(cloud)
    assert compute.boot(SPEC, files).state is ServerState.BUILDING
    assert compute.find(SPEC.name).management_ip is None
    clock.advance(29.9)
    assert compute.find(SPEC.name).state is ServerState.BUILDING
    clock.advance(0.1)
    assert compute.find(SPEC.name).state is ServerState.ACTIVE


def test_a_server_can_fail_to_build(cloud):
    compute = SimulatedCompute(cloud)
    server = compute.boot(SPEC, files)
    compute.break_(server.id)
    assert compute.find(SPEC.name).state is ServerState.ERROR
    assert compute.find(SPEC.name).fault


def test_every_call_is_written_down_with_what_it_made(cloud):
    compute = SimulatedCompute(cloud)
    compute.boot(SPEC, files)
    compute.boot(SPEC, files)
    compute.destroy(SPEC.name)
    assert [(call.name, call.subject, call.made) for call in cloud.calls() if call.name != "compute.find"] == [
        ("compute.boot", "amphora-one", (("counter", "server"), ("server", "amphora-one"))),
        ("compute.boot", "amphora-one", ()),
        ("compute.destroy", "amphora-one", ()),
    ]
    assert cloud.made_twice() == []
    assert cloud.leftovers() == []


def test_what_is_made_twice_and_what_is_left_is_named(cloud):
    compute, network = SimulatedCompute(cloud), SimulatedNetwork(cloud)
    for _ in range(2):
        compute.boot(SPEC, files)
        compute.destroy(SPEC.name)
    network.reserve_vip(VipRequest(load_balancer_id="lb"))
    assert cloud.made_twice() == [("server", "amphora-one")]
    assert cloud.leftovers() == [("vip", "octavia-lb-lb")]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.TRANSIENT, TransientError),
        (FaultKind.PERMANENT, PermanentError),
        (FaultKind.UNREACHABLE, AmphoraUnreachable),
        (FaultKind.REFUSED, AmphoraRefused),
    ],
)
def test_faults_strike_the_calls_they_name_so_many_times(cloud, kind, error):
    compute = SimulatedCompute(cloud)
    cloud.fail("compute.list", kind=kind, skip=1, times=2, message="as told")
    assert compute.find("amphora-x") is None
    assert compute.list() == []
    for _ in range(2):
        with pytest.raises(error, match="as told"):
            compute.list()
    assert compute.list() == []
    assert [call.outcome for call in cloud.calls("compute.list")] == ["ok", kind, kind, "ok"]


def test_a_fault_before_does_nothing_and_a_late_one_loses_only_the_answer(cloud):
    compute = SimulatedCompute(cloud)
    cloud.fail("compute.boot")
    with pytest.raises(TransientError):
        compute.boot(SPEC, files)
    assert cloud.leftovers() == []
    cloud.fail("compute.boot", late=True)
    with pytest.raises(TransientError):
        compute.boot(SPEC, files)
    assert cloud.leftovers() == [("server", "amphora-one")]


def test_healing_forgets_the_faults_to_come(cloud):
    cloud.fail("compute.list", times=100)
    cloud.heal()
    assert SimulatedCompute(cloud).list() == []


def test_no_secret_is_kept(tmp_path):
    cloud = SimulatedCloud(tmp_path / "cloud.db")
    SimulatedCompute(cloud).boot(SPEC, files)
    cloud.close()
    assert not any(b"a very private key" in path.read_bytes() for path in tmp_path.iterdir())


WORKER = """
import sys
from octavia_core.ports.compute import ServerSpec
from octavia_core.testing.outside import SimulatedCloud
from octavia_core.testing.simulator import SimulatedCompute
SimulatedCompute(SimulatedCloud(sys.argv[1])).boot(ServerSpec(name="amphora-one", amphora_id="one"), dict)
"""


@pytest.mark.parametrize("late", [False, True])
def test_the_cloud_and_its_journal_outlive_a_worker_killed_in_the_middle_of_a_call(tmp_path, late):
    cloud = SimulatedCloud(tmp_path / "cloud.db")
    cloud.fail("compute.boot", kind=FaultKind.KILL, late=late)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WORKER, tmp_path / "cloud.db"]
    assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
    assert cloud.leftovers() == ([("server", "amphora-one")] if late else [])
    assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == 0
    assert cloud.leftovers() == [("server", "amphora-one")]
    assert cloud.made_twice() == []
    calls = cloud.calls("compute.boot")
    assert [call.outcome for call in calls] == ["kill", "ok"]
    assert len({call.process for call in calls} | {os.getpid()}) == 3
    cloud.close()


def test_an_agent_answers_while_its_server_runs(cloud, clock):
    amphorae = SimulatedAmphorae(cloud)
    server, at = booted(cloud, clock)
    assert amphorae.info(at).hostname == "amphora-one"
    with pytest.raises(AmphoraRefused, match="amphora one answers"):
        amphorae.info(attrs.evolve(at, amphora_id="two"))
    with pytest.raises(AmphoraUnreachable):
        amphorae.info(attrs.evolve(at, host="10.64.99.99"))
    SimulatedCompute(cloud).kill(server.id)
    with pytest.raises(AmphoraUnreachable):
        amphorae.info(at)


def delivery(fence=None, missing=(), name="web"):
    listener = Listener(
        id="li", protocol=ListenerProtocol.TERMINATED_HTTPS, protocol_port=443, name=name, tls_certificate_id="cert"
    )
    return Delivery(
        load_balancer=LoadBalancer(id="lb", listeners=(listener,)),
        amphora=Amphora(id="one", status=AmphoraStatus.ALLOCATED),
        material=Material(missing=dict.fromkeys(missing, "gone")),
        fence=fence,
    )


def test_identical_content_is_not_pushed_again_and_older_fences_are_refused(cloud, clock):
    amphorae = SimulatedAmphorae(cloud)
    _, at = booted(cloud, clock)
    first = amphorae.push(at, delivery(("op", 2)))
    assert (first.changed, first.skipped_listeners) == (True, ())
    assert not amphorae.push(at, delivery(("op", 3))).changed
    with pytest.raises(AmphoraRefused, match="fence 3"):
        amphorae.push(at, delivery(("op", 2), name="older"))
    assert amphorae.pushes("one") == 1
    assert amphorae.configuration("one")["listeners"][0]["name"] == "web"
    assert amphorae.push(at, delivery(missing=["cert"])).skipped_listeners == ("li",)
    amphorae.remove(at, "lb")
    assert amphorae.configuration("one") is None


def test_member_networks_are_plugged_and_unplugged_as_wanted(cloud):
    network = SimulatedNetwork(cloud)
    amphora = Amphora(id="one", status=AmphoraStatus.ALLOCATED)

    def tree(*subnets):
        members = tuple(Member(id=s, address="10.9.0.1", protocol_port=80, subnet_id=s) for s in subnets)
        return LoadBalancer(id="lb", pools=(Pool(id="po", protocol=PoolProtocol.HTTP, members=members),))

    assert len(network.plug_member_networks(tree("a", "b"), amphora)) == 2
    assert network.plug_member_networks(tree("a", "b"), amphora) == []
    assert len(network.plug_member_networks(tree("c"), amphora)) == 1
    assert [seen.network_id for seen in network.plugged(amphora)] == ["c"]


def test_the_plugin_offers_drivers_over_one_cloud(tmp_path):
    plugins = Plugins(extra={"simulator": Simulator(SimulatedCloud())}, installed=False)
    compute = plugins.driver("compute", "compute_noop_driver", Settings())
    amphorae = plugins.driver("amphora", "amphora_noop_driver", Settings())
    server = compute.boot(SPEC, files)
    assert amphorae.info(AgentAddress(amphora_id="one", host=server.management_ip)).api_version
    assert plugins.driver("network", "network_noop_driver", Settings()).list() == []
    assert plugins.driver("secret_store", "noop_cert_manager", Settings()).time_limit


def test_the_installed_plugin_keeps_its_cloud_in_the_state_directory(tmp_path):
    from octavia_core.testing import plugin

    plugins = Plugins(extra={"simulator": plugin}, installed=False)
    settings = Settings(state_directory=str(tmp_path))
    plugins.driver("compute", "noop", settings).boot(SPEC, files)
    assert [server.name for server in plugins.driver("compute", "noop", settings).list()] == ["amphora-one"]
    assert (tmp_path / "simulator.db").exists()


def test_a_virtual_clock_wakes_sleepers_when_their_time_has_come():
    clock = VirtualClock(1000.0)
    woken, done = [], threading.Event()

    def sleep(seconds):
        clock.sleep(seconds)
        woken.append(seconds)

    sleepers = [threading.Thread(target=sleep, args=(seconds,)) for seconds in (5, 10)]
    for sleeper in sleepers:
        sleeper.start()
    assert clock.wait_for_sleepers(2)
    clock.advance(5)
    sleepers[0].join(20)
    assert woken == [5]
    clock.advance(5)
    sleepers[1].join(20)
    assert woken == [5, 10]
    assert (clock.now(), clock.monotonic()) == (1010.0, 10.0)
    done.set()
    assert clock.sleep(99, until=done)
