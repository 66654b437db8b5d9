"""Additional VIPs of an amphora in a network namespace: of both versions of IP, on one interface."""

from __future__ import annotations

import pytest

from octavia_core import AdditionalVip, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.tree import LoadBalancer
from octavia_local.forwarders import find_nft
from octavia_local.namespaces import ipv6_here, plan_of
from tests.local_agent.udp_rig import UdpEcho, ask_udp
from tests.main_job.stage import PATIENCE, Stage, http, until
from tests.namespaces.rig import HOST, answer_of, inside, member_at


def answers(stage: Stage, lb: LoadBalancer) -> list[str | None]:
    """What is answered on each VIP."""
    listener = next(one for one in lb.listeners if one.protocol_port == 80)
    control = stage.controller
    places = [control.reachable_at(lb, listener), *control.also_reachable_at(lb, listener)]
    return [answer_of(f"http://{place}/") for place in places]


def test_ipv4_and_ipv6_are_served_and_move_together(stage):
    if not ipv6_here():
        pytest.skip("IPv6 is switched off here; to enable: sysctl -w net.ipv6.conf.default.disable_ipv6=0")
    control, plan = stage.controller, plan_of(stage.controller.settings)
    vip, datagrams = str(plan.vips[40]), find_nft() is not None
    with member_at("one") as one, UdpEcho("four", HOST) as four, UdpEcho("six", str(plan.vips6[1])) as six:
        members = [NewMember(server.address, server.port) for server in (four, six)]
        udp = NewListener(protocol="UDP", protocol_port=53, default_pool=NewPool(protocol="UDP", members=members))
        wish = NewLoadBalancer(
            vip_address=vip,
            additional_vips=(AdditionalVip(), AdditionalVip(ip_address=str(plan.vips6[41]))),
            listeners=(http(one, port=80), *([udp] if datagrams else [])),
        )
        lb = stage.create(wish)
        vips = [str(found.ip_address) for found in (lb.vip, *lb.additional_vips)]
        assert sorted(":" in found for found in vips) == [False, False, True]  # one of IPv6 was asked for

        def all_answer() -> None:
            until(lambda: answers(stage, lb) == ["one"] * 3, "an answer on each VIP")
            if datagrams:
                assert [ask_udp(found, 53) for found in vips] == ["six" if ":" in found else "four" for found in vips]

        all_answer()
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        all_answer()
        (amphora,) = control.amphorae(lb.id)
        shown = inside(stage.agent_pid(amphora.id), "ip", "address", "show", "eth1")
        assert all(f" {found}/" in shown for found in vips)
        stage.drop(lb.id)
        assert control.world.network.list() == []
