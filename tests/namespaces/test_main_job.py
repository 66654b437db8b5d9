"""The main job with amphorae in network namespaces: real ports, IPv6, healed after a death, nothing left behind."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
from ipaddress import IPv6Network

import pytest

from octavia_core import NewHealthMonitor, NewLoadBalancer, NewMember
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, MonitorType
from octavia_core.errors import OctaviaError
from octavia_local.namespaces import plan_of
from tests.main_job.stage import PATIENCE, Stage, http, only_member, processes_of, until
from tests.namespaces.rig import HOST, answer_of, inside, links_of, member_at


def url(stage: Stage, lb: object) -> str:
    return f"http://{stage.controller.reachable_at(lb, lb.listeners[0])}/"


def serving(stage: Stage, lb: object) -> str:
    """What is answered, once something is."""
    return until(lambda: answer_of(url(stage, lb)), "an answer through the VIP")


def bridges_and_links(stage: Stage) -> list[str]:
    return links_of(stage.controller.settings)


def heard(stage: Stage, amphora_id: str) -> int:
    """When the amphora was heard last, microseconds."""
    (heart,) = stage.controller.storage.read(lambda tx: tx.liveness([amphora_id]))
    return heart.last_heard or 0


def test_a_load_balancer_serves_port_80_is_changed_and_leaves_nothing(stage):
    with member_at("one") as one, member_at("two") as two:
        lb = stage.build(http(one, port=80))
        assert url(stage, lb) == f"http://{lb.vip.ip_address}:80/"
        assert serving(stage, lb) == "one"
        (pool,) = lb.pools
        stage.controller.create_member(pool.id, two).wait(PATIENCE)
        until(lambda: {serving(stage, lb) for _ in range(4)} == {"one", "two"}, "both members answer")
        assert len(bridges_and_links(stage)) == 4  # two bridges, and an amphora's link to each
        stage.drop(lb.id)
        assert bridges_and_links(stage) == []
        assert stage.controller.world.network.list() == []
        assert not processes_of(stage.state)


def test_an_ipv6_vip_serves_members_of_both_families(stage):
    plan = plan_of(stage.controller.settings)
    vip, six = str(plan.vips6[0x42]), str(plan.vips6[1])
    with member_at("four") as four, member_at("six", six) as other:
        lb = stage.create(NewLoadBalancer(vip_address=vip, listeners=(http(four, other, port=80),)))
        assert url(stage, lb) == f"http://[{vip}]:80/"
        until(lambda: {serving(stage, lb) for _ in range(4)} == {"four", "six"}, "both members answer")


def test_a_killed_amphora_is_replaced_and_the_vip_moves(stage):
    with member_at("one") as one:
        lb = stage.build(http(one, port=80))
        assert serving(stage, lb) == "one"
        (old,) = stage.controller.amphorae()
        os.kill(stage.agent_pid(old.id), signal.SIGKILL)
        (new,) = until(
            lambda: [a for a in stage.controller.amphorae() if a.id != old.id and a.status is AmphoraStatus.ALLOCATED],
            "a new amphora",
        )
        until(lambda: len(stage.controller.amphorae()) == 1, "the dead one is gone")
        assert serving(stage, lb) == "one"  # although this machine knew the old one's hardware address
        assert lb.vip.ip_address in inside(stage.agent_pid(new.id), "ip", "address", "show", "eth1")
        assert len(bridges_and_links(stage)) == 4


def test_a_controller_that_starts_again_takes_the_amphora_over(stage):
    with member_at("one") as one:
        lb = stage.build(http(one, port=80))
        before = {a.id: stage.agent_pid(a.id) for a in stage.controller.amphorae()}
        with stage.away():
            assert serving(stage, lb) == "one"
        assert {a.id: stage.agent_pid(a.id) for a in stage.controller.amphorae()} == before
        stage.update(Kind.MEMBER, only_member(lb).id, weight=5)
        (amphora_id,) = before
        known = heard(stage, amphora_id)
        until(lambda: heard(stage, amphora_id) > known, "heartbeats come to the new controller")


def test_a_member_on_the_amphoras_own_loopback_is_refused_in_a_sentence(stage):
    with member_at("one") as one:
        monitor = NewHealthMonitor(type=MonitorType.TCP, delay=1, timeout=1, max_retries=1)
        lb = stage.build(http(one, port=80, pool={"health_monitor": monitor}))
        (pool,) = lb.pools
        (served,) = pool.members
        for member, own in (
            (NewMember("127.0.0.1", 8001), "127.0.0.1:8001"),
            (NewMember("::ffff:127.0.0.1", 8001), "::ffff:127.0.0.1:8001"),
            (NewMember(HOST, 8001, monitor_address="::1"), "::1"),
        ):
            with pytest.raises(OctaviaError, match=rf" \[?{re.escape(own)}\]? would be the amphora itself"):
                stage.controller.create_member(pool.id, member).wait(PATIENCE)
            assert serving(stage, lb) == "one"  # the last good configuration
            (refused,) = {each.id for each in stage.controller.load_balancer(lb.id).pools[0].members} - {served.id}
            stage.controller.delete(Kind.MEMBER, refused).wait(PATIENCE)


def test_what_listens_on_loopback_only_is_out_of_an_amphoras_reach(stage):
    with member_at("one") as one, socket.create_server(("127.0.0.1", 0)) as private:
        stage.build(http(one, port=80))
        (amphora,) = stage.controller.amphorae()
        ask = "import socket, sys; print(socket.socket().connect_ex((sys.argv[1], int(sys.argv[2]))))"
        agent = stage.agent_pid(amphora.id)

        def answer(host: str, port: int) -> int:
            return int(inside(agent, sys.executable, "-c", ask, host, str(port)))

        assert answer("127.0.0.1", private.getsockname()[1]) == errno.ECONNREFUSED
        assert answer(HOST, private.getsockname()[1]) == errno.ECONNREFUSED
        assert answer(one.address, one.protocol_port) == 0


def test_the_vip_is_from_the_range_of_the_state_directory(stage):
    plan = plan_of(stage.controller.settings)
    assert plan.vips6.subnet_of(IPv6Network("fc00::/7"))
    with member_at("one") as one:
        first, second = stage.build(http(one, port=80)), stage.build(http(one, port=80))
        addresses = {first.vip.ip_address, second.vip.ip_address}
        assert len(addresses) == 2
        assert serving(stage, first) == serving(stage, second) == "one"  # both on port 80
