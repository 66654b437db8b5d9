"""Additional VIPs: every listener answers on all of them, whatever happens to it, and nothing of them is left."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from octavia_core import AdditionalVip, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, PoolProtocol, Provisioning
from octavia_core.errors import BadRequest, OperationFailed
from octavia_local.forwarders import find_nginx
from tests.local_agent.udp_rig import UdpEcho, ask_udp
from tests.main_job.stage import PATIENCE, Stage, behind, http
from tests.support.running import Echo, ask

ANY = AdditionalVip()


def own(stage: Stage, number: int) -> str:
    """An address of the range for VIPs."""
    return str(ipaddress.IPv4Network(stage.controller.settings.local.network)[number])


def places(stage: Stage, lb: LoadBalancer, port: int) -> list[tuple[str, int]]:
    """Where the listener of that port is to be reached, by each VIP."""
    (listener,) = [one for one in lb.listeners if one.protocol_port == port]
    control = stage.controller
    found = [str(control.reachable_at(lb, listener)), *control.also_reachable_at(lb, listener)]
    return [(host, int(number)) for host, _, number in (place.rpartition(":") for place in found)]


def members(stage: Stage, lb: LoadBalancer, port: int = 8080) -> list[str]:
    """Who answers on each VIP."""
    return [ask(*place).member for place in places(stage, lb, port)]


@pytest.mark.feature("load_balancer.additional_vips")
def test_every_listener_answers_on_every_vip_through_changes_and_a_failover(stage):
    control, wanted = stage.controller, own(stage, 77)
    with Echo("one") as one, UdpEcho("two") as two:
        lb = stage.build(http(*behind(one)), additional_vips=[ANY, AdditionalVip(ip_address=wanted)])
        vips = {lb.vip.ip_address, *(vip.ip_address for vip in lb.additional_vips)}
        assert len(vips) == 3
        assert wanted in vips
        assert len({lb.vip.subnet_id, *(vip.subnet_id for vip in lb.additional_vips)}) == 3
        assert {vip.port_id for vip in lb.additional_vips} == {lb.vip.port_id}
        assert members(stage, lb) == ["one"] * 3
        # a listener that is added later, which is a reload, and one of datagrams
        control.create_listener(lb.id, http(*behind(one), port=8081)).wait(PATIENCE)
        pool = NewPool(protocol=PoolProtocol.UDP, members=[NewMember(two.address, two.port)])
        if find_nginx() is not None:
            datagrams = NewListener(protocol=ListenerProtocol.UDP, protocol_port=5300, default_pool=pool)
            control.create_listener(lb.id, datagrams).wait(PATIENCE)

        def all_of_it() -> None:
            now = stage.tree(lb.id)
            assert {now.vip.ip_address, *(vip.ip_address for vip in now.additional_vips)} == vips
            assert members(stage, now) == members(stage, now, 8081) == ["one"] * 3
            if find_nginx() is not None:
                assert [ask_udp(*place) for place in places(stage, now, 5300)] == ["two"] * 3

        all_of_it()
        (old,) = control.amphorae(lb.id)
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        (new,) = control.amphorae(lb.id)
        assert new.id != old.id
        all_of_it()
        stage.delete(Kind.LISTENER, next(one.id for one in lb.listeners))
        for place in places(stage, lb, 8080):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(place, timeout=PATIENCE)
        stage.drop(lb.id)
        assert control.world.network.list() == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((wanted, 8081), timeout=PATIENCE)


@pytest.mark.parametrize(
    ("vips", "said"),
    [
        (["127.0.0.9", "127.0.0.9"], "'127.0.0.9', but must be an address that no other VIP of the load balancer has"),
        (["any subnet_id=one", "any subnet_id=one"], "a subnet on which the load balancer has no other VIP"),
        (["localhost"], "an IPv4 or IPv6 address"),
        (["any colour=red"], "colour"),
        (["127.0.0.9 loud"], "'loud' is no setting of an additional VIP"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_asked_for(stage, vips, said):
    from octavia_core.policy.changes import wish

    with pytest.raises(BadRequest, match=said) as caught:
        stage.controller.create_load_balancer(wish(NewLoadBalancer, {"additional_vips": vips}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vip", "said"),
    [
        (AdditionalVip(subnet_id="8f3a2c1e-0000-4000-8000-000000000001"), "this machine has no subnet 8f3a2c1e"),
        (AdditionalVip(ip_address="2001:db8::1"), "2001:db8::1 is IPv6"),
        (AdditionalVip(ip_address="192.0.2.9"), "192.0.2.9 is not on this machine's loopback network"),
    ],
)
def test_what_the_network_does_not_have_is_one_sentence_and_takes_no_address(stage, vip, said):
    before = stage.controller.world.network.list()
    operation = stage.controller.create_load_balancer(NewLoadBalancer(additional_vips=[ANY, vip]))
    with pytest.raises(OperationFailed, match=said):
        operation.wait(PATIENCE)
    assert stage.controller.world.network.list() == before
    stage.drop(operation.load_balancer_id)


def test_one_that_never_worked_gets_its_vips_with_its_failover(stage):
    control, wanted = stage.controller, own(stage, 78)
    with Echo("one") as one:
        holder = control.create_load_balancer(NewLoadBalancer(vip_address=wanted))
        holder.wait(PATIENCE)
        wish = NewLoadBalancer(listeners=[http(*behind(one))], additional_vips=[ANY, AdditionalVip(ip_address=wanted)])
        refused = control.create_load_balancer(wish)
        with pytest.raises(OperationFailed, match=f"{wanted} belongs to load balancer {holder.load_balancer_id}"):
            refused.wait(PATIENCE)
        stage.drop(holder.load_balancer_id)
        control.failover_load_balancer(refused.load_balancer_id).wait(PATIENCE)
        assert stage.statuses(refused.load_balancer_id) == {Provisioning.ACTIVE}
        assert members(stage, stage.tree(refused.load_balancer_id)) == ["one"] * 3


def test_a_document_that_leaves_them_open_is_applied_once(stage):
    from octavia_core.policy.changes import wish

    def asked(*vips: str) -> NewLoadBalancer:
        return wish(NewLoadBalancer, {"name": "many", "additional_vips": vips})

    control = stage.controller
    control.apply(asked("any", "any")).wait(PATIENCE)
    first, second = (str(vip.ip_address) for vip in control.load_balancer("many").additional_vips)
    assert control.apply(asked("any", first)) is None
    assert control.apply(asked(second, first)) is None
    assert control.apply(asked()) is None
    with pytest.raises(BadRequest, match=f"additional_vips is .*{first}.* and another one cannot be added"):
        control.apply(asked("any", "any", first))
    with pytest.raises(BadRequest, match=r"'127\.0\.0\.9' cannot be added"):
        control.apply(asked("127.0.0.9"))
