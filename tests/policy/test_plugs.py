"""What an amphora is plugged into, judged."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Member, Pool, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, PoolProtocol
from octavia_core.policy.plugs import Plug, compare, keeping, member_subnets, not_plugged

AMPHORA = Amphora(id="amp", status=AmphoraStatus.ALLOCATED, vrrp_port_id="vip-port", vrrp_ip="10.0.0.2")
VIP = Plug(port_id="vip-port", addresses=("10.0.0.2",), subnets=("vip",))
SUBNETS = st.sets(st.sampled_from(["a", "b", "c", "d", "vip", "more"]))


def tree(*subnets):
    members = tuple(Member(id=f"m-{s}", address="192.0.2.1", protocol_port=80, subnet_id=s) for s in subnets)
    vip = Vip(ip_address="10.0.0.1", subnet_id="vip")
    pool = Pool(id="p", protocol=PoolProtocol.HTTP, members=members)
    return LoadBalancer(
        id="lb", project_id="p", vip=vip, additional_vips=(AdditionalVip(subnet_id="more"),), pools=(pool,)
    )


def port(subnet):
    return Plug(port_id=f"port-{subnet}", addresses=(f"addr-{subnet}",), subnets=(subnet,))


def test_members_without_a_subnet_or_on_a_vip_s_own_need_no_port():
    assert member_subnets(tree(None, "vip", "more")) == {}
    found = compare(tree(None, "vip", "more"), AMPHORA, [VIP])
    assert (found.refusal, found.missing, found.surplus, found.members) == (None, (), (), ())


@given(needed=SUBNETS, there=SUBNETS)
def test_missing_surplus_and_present_ones_add_up(needed, there):
    own = {"vip", "more"}
    found = compare(tree(*needed), AMPHORA, [VIP, *(port(s) for s in sorted(there - own))])
    assert set(found.missing) == needed - there - own
    assert set(found.surplus) == there - needed - own
    assert set(found.members) == {f"port-{s}" for s in (needed & there) - own}
    assert found.refusal is None


@given(needed=SUBNETS, there=SUBNETS)
def test_what_is_kept_for_now_is_not_taken_away_by_who_plugs_exactly_what_members_need(needed, there):
    own = {"vip", "more"}
    before = compare(tree(*needed), AMPHORA, [VIP, *(port(s) for s in sorted(there - own))])
    assert set(member_subnets(keeping(tree(*needed), before.surplus))) == (needed | there) - own


def test_a_lost_vip_is_named_with_what_to_do():
    found = compare(tree("a"), AMPHORA, [port("a")])
    assert found.refusal == (
        "amphora amp is not on the network of VIP 10.0.0.1 any more: port vip-port is not plugged into its server; "
        "replace it: octavia-admin amphora failover amp"
    )
    other_port = attrs.evolve(VIP, port_id="another")
    assert compare(tree(), AMPHORA, [other_port]).refusal is not None


def test_the_vip_is_known_by_its_address_where_the_port_is_not_and_not_looked_for_where_neither_is():
    by_address = attrs.evolve(AMPHORA, vrrp_port_id=None, vrrp_ip="2001:DB8:0::2")
    there = Plug(port_id="x", addresses=("2001:db8::2",))
    assert compare(tree(), by_address, [there]).refusal is None
    assert "a port with 2001:DB8:0::2" in str(compare(tree(), by_address, []).refusal)
    unknown = attrs.evolve(AMPHORA, vrrp_port_id=None, vrrp_ip=None)
    found = compare(tree("a"), unknown, [port("b")])
    assert (found.refusal, found.missing, found.surplus) == (None, ("a",), ())


def test_a_subnet_that_was_not_plugged_is_named_with_its_member():
    sentence = not_plugged(tree("a"), AMPHORA, ["a"])
    assert "amphora amp is not plugged into subnet a of 192.0.2.1 (member m-a)" in sentence
