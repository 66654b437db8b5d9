"""UDP listeners of amphorae in network namespaces: real datagrams through nftables, members checked by the agent."""

from __future__ import annotations

from collections import Counter

import pytest

from octavia_core import NewHealthMonitor, NewListener, NewMember, NewPool
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import ListenerProtocol, MonitorType, Operating, PoolProtocol
from octavia_local.forwarders import find_nft
from tests.local_agent.udp_rig import UdpEcho, ask_udp
from tests.main_job.stage import Stage, http, until
from tests.namespaces.rig import HOST, answer_of, member_at

CHECK = NewHealthMonitor(type=MonitorType.UDP_CONNECT, delay=1, timeout=1, max_retries=1, max_retries_down=1)


@pytest.fixture(autouse=True)
def nft() -> None:
    if find_nft() is None:
        pytest.skip("no nft; to enable: apt-get install nftables")


def udp(*servers: UdpEcho, port: int = 53, **pool: object) -> NewListener:
    members = tuple(NewMember(s.address, s.port, name=s.name) for s in servers)
    made = NewPool(protocol=PoolProtocol.UDP, members=members, **pool)
    return NewListener(protocol=ListenerProtocol.UDP, protocol_port=port, default_pool=made, name="dns")


def answers(lb: LoadBalancer, count: int = 6, **options: str) -> Counter[str]:
    return Counter(ask_udp(str(lb.vip.ip_address), 53, f"say {n}", **options) for n in range(count))


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
