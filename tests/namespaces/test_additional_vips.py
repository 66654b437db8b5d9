"""Additional VIPs of an amphora in a network namespace: of both versions of IP, on one interface."""

from __future__ import annotations

import pytest

from octavia_core import AdditionalVip, NewLoadBalancer
from octavia_local.namespaces import ipv6_here
from tests.main_job.stage import PATIENCE, Stage, http, until
from tests.namespaces.rig import answer_of, inside, member_at


def answers(stage: Stage, lb: object) -> list[str | None]:
    """What is answered on each VIP."""
    (listener,) = lb.listeners
    control = stage.controller
    places = [control.reachable_at(lb, listener), *control.also_reachable_at(lb, listener)]
    return [answer_of(f"http://{place}/") for place in places]


def test_ipv4_and_ipv6_are_served_and_move_together(stage):
    if not ipv6_here():
        pytest.skip("IPv6 is switched off here; to enable: sysctl -w net.ipv6.conf.default.disable_ipv6=0")
    control = stage.controller
    with member_at("one") as one:
        wish = NewLoadBalancer(listeners=(http(one, port=80),), additional_vips=(AdditionalVip(), AdditionalVip()))
        lb = stage.create(wish)
        vips = [str(vip.ip_address) for vip in (lb.vip, *lb.additional_vips)]
        assert sorted(":" in vip for vip in vips) == [False, False, True]
        until(lambda: answers(stage, lb) == ["one"] * 3, "an answer on each VIP")
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        until(lambda: answers(stage, lb) == ["one"] * 3, "an answer on each VIP again")
        (amphora,) = control.amphorae(lb.id)
        shown = inside(stage.agent_pid(amphora.id), "ip", "address", "show", "eth1")
        assert all(f" {vip}/" in shown for vip in vips)
        stage.drop(lb.id)
        assert control.world.network.list() == []
