"""UDP listeners of amphorae in network namespaces: real datagrams through nftables, members checked by the agent."""

from __future__ import annotations

import ipaddress
import itertools
import os
import signal
import socket
from collections import Counter
from typing import Any

import attrs
import pytest
from sqlalchemy import text

from octavia_core import NewHealthMonitor, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.tree import LoadBalancer, SessionPersistence
from octavia_core.domain.vocabulary import (
    Algorithm,
    Kind,
    ListenerProtocol,
    MonitorType,
    Operating,
    PersistenceType,
    PoolProtocol,
    Topology,
)
from octavia_core.errors import OctaviaError
from octavia_local.forwarders import find_nft
from octavia_local.namespaces import plan_of
from tests.local_agent.udp_rig import UdpEcho, ask_udp
from tests.main_job.stage import PATIENCE, Stage, http, only_pool, processes_of, until
from tests.namespaces.pair import Pair
from tests.namespaces.rig import HOST, answer_of, inside, member_at
from tests.support.system import require

NUMBERS = itertools.count(100)
CHECK = NewHealthMonitor(type=MonitorType.UDP_CONNECT, delay=1, timeout=1, max_retries=1, max_retries_down=1)


@pytest.fixture(autouse=True)
def nft() -> None:
    if find_nft() is None:
        pytest.skip("no nft; to enable: apt-get install nftables")


def udp(*servers: UdpEcho, port: int = 53, **pool: object) -> NewListener:
    members = tuple(NewMember(s.address, s.port, name=s.name) for s in servers)
    made = NewPool(protocol=PoolProtocol.UDP, members=members, **pool)
    return NewListener(protocol=ListenerProtocol.UDP, protocol_port=port, default_pool=made, name="dns")


def answers(lb: LoadBalancer, count: int = 6, **options: Any) -> Counter[str]:
    return Counter(ask_udp(str(lb.vip.ip_address), 53, f"say {n}", **options) for n in range(count))


def counted(stage: Stage, listener_id: str) -> dict[str, int]:
    with stage.controller.storage._engine.connect() as connection:
        query = text("SELECT * FROM listener_statistics WHERE listener_id = :id")
        rows = connection.execute(query, {"id": listener_id}).mappings().all()
    return {name: sum(row[name] for row in rows) for name in ("bytes_in", "bytes_out", "total_connections")}


def test_datagrams_are_shared_a_stopped_member_is_error_and_gets_nothing(stage: Stage) -> None:
    """At the real port, beside an HTTP listener on the same number."""
    with UdpEcho("one", HOST) as one, UdpEcho("two", HOST) as two, member_at("web") as web:
        lb = stage.build(udp(one, two, health_monitor=CHECK), http(web, port=53))
        assert answers(lb) == {"one": 3, "two": 3}
        assert answer_of(f"http://{lb.vip.ip_address}:53/") == "web"
        for name in ("one", "two", "dns"):
            stage.operating(lb.id, name, Operating.ONLINE)
        two.close()
        stage.operating(lb.id, "two", Operating.ERROR)
        until(lambda: answers(lb) == {"one": 6}, "only the living one answers")
        with UdpEcho("two", HOST, two.port):
            stage.operating(lb.id, "two", Operating.ONLINE)
            until(lambda: set(answers(lb)) == {"one", "two"}, "both answer again")


def test_clients_stay_members_are_drained_and_what_was_counted_is_in_the_rows(stage: Stage) -> None:
    kept = SessionPersistence(type=PersistenceType.SOURCE_IP, persistence_timeout=60)
    with UdpEcho("one", HOST) as one, UdpEcho("two", HOST) as two, UdpEcho("three", HOST) as three:
        lb = stage.build(udp(one, two, session_persistence=kept))
        assert len(answers(lb)) == 1
        first = next(iter(answers(lb)))
        other = "two" if first == "one" else "one"
        pool = only_pool(lb)
        stage.controller.create_member(pool.id, NewMember(three.address, three.port, name="three")).wait(PATIENCE)
        assert answers(lb) == {first: 6}, "a change takes the table of clients along"
        stage.delete(Kind.MEMBER, stage.find(lb.id, first).id)
        assert set(answers(lb)) <= {other, "three"}
        stage.update(Kind.POOL, pool.id, session_persistence=None)
        assert answers(lb) == {other: 3, "three": 3}
        stage.update(Kind.MEMBER, stage.find(lb.id, other).id, weight=0)
        assert answers(lb) == {"three": 6}
        stage.operating(lb.id, other, Operating.DRAINING)
        listener = stage.find(lb.id, "dns").id
        until(lambda: counted(stage, listener)["total_connections"] >= 24, "what was counted")
        assert counted(stage, listener)["bytes_in"] > 0
        assert counted(stage, listener)["bytes_out"] > 0
        stage.delete(Kind.LISTENER, listener)
        assert answers(lb, 1, tries=1) == {"": 1}


def test_rules_that_somebody_took_away_are_put_back(stage: Stage) -> None:
    with UdpEcho("one", HOST) as one:
        lb = stage.build(udp(one))
        assert answers(lb, 2) == {"one": 2}
        inside(stage.agent_pid(stage.controller.amphorae(lb.id)[0].id), str(find_nft()), "flush", "ruleset")
        until(lambda: answers(lb, 1, tries=1) == {"one": 1}, "the rules are there again")


def test_a_source_keeps_its_member_by_algorithm_and_an_ipv6_vip_serves(stage: Stage) -> None:
    plan = plan_of(stage.controller.settings)
    here = str(plan.vips6[1])
    with UdpEcho("one", here) as one, UdpEcho("two", here) as two:
        lb = stage.build(udp(one, two, lb_algorithm=Algorithm.SOURCE_IP), vip_address=str(plan.vips6[99]))
        assert len(answers(lb)) == 1
        stage.update(Kind.POOL, only_pool(lb).id, lb_algorithm=Algorithm.ROUND_ROBIN)
        assert answers(lb) == {"one": 3, "two": 3}


def test_only_networks_that_are_let_in_are_answered(stage: Stage) -> None:
    """Known connections of a client that is let in no more are cut, too: a client that always uses one port."""
    with UdpEcho("one", HOST) as one:
        listener = attrs.evolve(udp(one), allowed_cidrs=("198.51.100.0/24",))
        lb = stage.build(listener)
        vip = str(lb.vip.ip_address)
        assert answers(lb, 2, tries=1) == {"": 2}
        here = str(ipaddress.ip_network(f"{vip}/16", strict=False))
        dns = stage.find(lb.id, "dns").id
        stage.update(Kind.LISTENER, dns, allowed_cidrs=(here, "198.51.100.0/24", f"{vip}/32"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            client.connect((vip, 53))
            until(lambda: heard(client), "it is let in")
            stage.update(Kind.LISTENER, dns, allowed_cidrs=("198.51.100.0/24",))
            assert not heard(client)
        stage.update(Kind.LISTENER, dns, allowed_cidrs=())
        assert answers(lb, 2) == {"one": 2}


def heard(client: socket.socket) -> bool:
    """Whether a datagram of this client's own port is answered; answers to those before may come late."""
    said = f"hello {next(NUMBERS)}".encode()
    try:
        client.send(said)
        while not client.recv(100).endswith(b" " + said):
            pass
    except OSError:
        return False
    return True


def test_a_member_on_the_amphoras_own_loopback_is_refused_in_a_sentence(stage: Stage) -> None:
    with UdpEcho("one", HOST) as one:
        lb = stage.build(udp(one, health_monitor=CHECK))
        for member in (NewMember("127.0.0.1", 53), NewMember(HOST, 53, monitor_address="127.0.0.1")):
            with pytest.raises(OctaviaError, match=r"127\.0\.0\.1:53 would be the amphora itself"):
                stage.controller.create_member(only_pool(lb).id, member).wait(PATIENCE)
            assert answers(lb, 2) == {"one": 2}
            (refused,) = [each for each in stage.controller.load_balancer(lb.id).pools[0].members if each.name != "one"]
            stage.controller.delete(Kind.MEMBER, refused.id).wait(PATIENCE)


@pytest.mark.feature("health_monitor.type=PING")
def test_a_ping_monitor_sends_real_icmp(stage: Stage) -> None:
    """One member is an address that nobody has, which is known only when the load balancer has chosen its own."""
    ping = NewHealthMonitor(type=MonitorType.PING, delay=1, timeout=1, max_retries=1, max_retries_down=1)
    with member_at("one") as one:
        lb = stage.build(http(one, port=80, pool={"health_monitor": ping}))
        taken = {lb.vip.ip_address, *(amphora.vrrp_ip for amphora in stage.controller.amphorae(lb.id))}
        nobody = next(address for last in (2, 3, 4) if (address := HOST.rpartition(".")[0] + f".{last}") not in taken)
        stage.controller.create_member(only_pool(lb).id, NewMember(nobody, 80, name="nobody")).wait(PATIENCE)
        stage.operating(lb.id, "one", Operating.ONLINE)
        stage.operating(lb.id, "nobody", Operating.ERROR)
        url = f"http://{lb.vip.ip_address}/"  # on a busy machine a ping takes too long now and then
        until(lambda: {answer_of(url) for _ in range(4)} == {"one"}, "the one that is there answers")
        until(lambda: "ping.py" in str(processes_of(stage.state)), "a ping that is not answered")
        stage.drop(lb.id)
        assert processes_of(stage.state) == {}  # no ping, either


def test_a_member_and_a_weight_more_leave_the_members_of_a_ping_monitor_online(stage: Stage) -> None:
    """HAProxy starts the check's program again and again, whatever was changed at run time; later members have it too."""
    ping = NewHealthMonitor(type=MonitorType.PING, delay=1, timeout=1, max_retries=1, max_retries_down=1)
    with member_at("one") as one, member_at("two") as two:
        lb = stage.build(http(one, port=80, pool={"health_monitor": ping}))
        stage.operating(lb.id, "one", Operating.ONLINE)
        pid = stage.agent_pid(stage.controller.amphorae(lb.id)[0].id)
        stage.update(Kind.MEMBER, stage.find(lb.id, "one").id, weight=2)
        sent = echoes(pid)
        until(lambda: echoes(pid) > sent + 1, "more pings after a change at run time")
        log = next((stage.state / "amphorae").glob("*/var/log/octavia/haproxy-*.log"))
        stage.controller.create_member(only_pool(lb).id, two).wait(PATIENCE)
        stage.operating(lb.id, "two", Operating.ONLINE)
        url = f"http://{lb.vip.ip_address}/"
        until(lambda: {answer_of(url) for _ in range(6)} == {"one", "two"}, "both answer")
        # a check that is killed on a busy machine is no program that cannot be started
        assert [line for line in log.read_text().splitlines() if "DOWN" in line and "check timeout" not in line] == []


def echoes(pid: int) -> int:
    """ICMP echo requests that were sent in the network namespace of a process (proc(5), net/snmp)."""
    with open(f"/proc/{pid}/net/snmp", encoding="ascii") as file:
        names, values = (line.split() for line in file if line.startswith("Icmp:"))
    return int(values[names.index("OutEchos")])


@pytest.mark.external
def test_a_pair_serves_datagrams_and_the_other_takes_over(stage: Stage) -> None:
    """Keepalived's check knows that an amphora without HAProxy serves, too."""
    require("keepalived")
    with UdpEcho("one", HOST) as one:
        lb = stage.create(NewLoadBalancer(listeners=(udp(one),), topology=Topology.ACTIVE_STANDBY))
        until(lambda: answers(lb, 2) == {"one": 2}, "the pair serves")
        stage.operating(lb.id, "dns", Operating.ONLINE)
        (holder,) = until(lambda: (found := Pair(stage, lb).holders()) and len(found) == 1 and found, "one has the VIP")
        os.kill(stage.agent_pid(holder.id), signal.SIGKILL)
        until(lambda: answers(lb, 2, tries=2) == {"one": 2}, "the other one serves")
        until(lambda: holder.id not in [one.id for one in stage.controller.amphorae(lb.id)], "a new one")
        until(lambda: answers(lb, 2) == {"one": 2}, "the new pair serves")
