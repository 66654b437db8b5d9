"""What a network driver must hold."""

from __future__ import annotations

import ipaddress
import threading
import uuid
from collections.abc import Callable
from functools import partial

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import AmphoraStatus, PoolProtocol, Topology
from octavia_core.errors import PermanentError
from octavia_core.ports.network import NetworkPort, VipRequest
from octavia_core.testing.contracts.words import must, raises

__all__ = ["NETWORK_CONTRACT", "NetworkCase"]


@attrs.frozen(kw_only=True)
class NetworkCase:
    """A network driver and its outside.

    Attributes:
        network: the driver, with nothing reserved.
        again: another driver over the same outside.
        free: an address that may be asked for.
        foreign: an address that is not on the driver's network.
        subnets: two subnets that members may be on, of a driver that plugs them.
        nowhere: the id of a subnet that does not exist, of a driver that knows its subnets.
    """

    network: NetworkPort
    again: Callable[[], NetworkPort]
    free: str
    foreign: str
    subnets: tuple[str, str] = ("", "")
    nowhere: str = ""


def _reserve(network: NetworkPort, load_balancer_id: str, address: str | None = None) -> LoadBalancer:
    plan = network.reserve_vip(VipRequest(load_balancer_id=load_balancer_id, ip_address=address))
    must(plan.vip.ip_address and plan.vip.port_id, "a reserved VIP has an address and a port")
    return LoadBalancer(id=load_balancer_id, vip=plan.vip)


def _amphora() -> Amphora:
    return Amphora(id=str(uuid.uuid4()), status=AmphoraStatus.ALLOCATED, compute_id="server", lb_network_ip="127.0.0.1")


def the_same_load_balancer_twice_has_the_same_address(case: NetworkCase) -> None:
    id = str(uuid.uuid4())
    first = _reserve(case.network, id)
    must(_reserve(case.network, id).vip == first.vip, "the same load balancer twice has the same VIP")
    must(_reserve(case.again(), id).vip == first.vip, "also for another controller")


def competing_load_balancers_have_addresses_of_their_own(case: NetworkCase) -> None:
    ids = [str(uuid.uuid4()) for _ in range(12)]
    found: list[str | None] = []

    def reserve(id: str) -> None:
        found.append(_reserve(case.again(), id).vip.ip_address)

    threads = [threading.Thread(target=reserve, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    must(len(found) == len(ids) and len(set(found)) == len(ids), "load balancers that compete have different addresses")


def a_wanted_address_is_given_once(case: NetworkCase) -> None:
    holder, other = str(uuid.uuid4()), str(uuid.uuid4())
    must(
        _reserve(case.network, holder, case.free).vip.ip_address == case.free, "a free address that is wanted is given"
    )
    error = raises(PermanentError, lambda: _reserve(case.again(), other, case.free), "a taken address is refused")
    must(case.free in str(error), "the refusal names the address")
    case.network.release_vip(holder, None)
    must(_reserve(case.network, other, case.free).vip.ip_address == case.free, "a released address can be had again")


def a_foreign_address_is_refused(case: NetworkCase) -> None:
    for address in (case.foreign, "no address"):
        error = raises(
            PermanentError,
            partial(_reserve, case.network, str(uuid.uuid4()), address),
            f"{address} is refused",
        )
        must(address in str(error), "the refusal names the address")
    must(not case.network.list(), "a refused wish leaves nothing behind")


def a_plug_is_made_once_and_seen(case: NetworkCase) -> None:
    load_balancer, amphora = _reserve(case.network, str(uuid.uuid4())), _amphora()
    must(not case.network.plugged(amphora), "nothing is plugged at first")
    plug = case.network.plug_vip(load_balancer, amphora)
    must(plug.vip == load_balancer.vip.ip_address, "the plug is for the VIP")
    must(plug.mac_address == plug.mac_address.lower(), "MAC addresses are lower case")
    must(case.again().plug_vip(load_balancer, amphora) == plug, "plugging again returns the port that exists")
    seen = case.network.plugged(amphora)
    must([network.port_id for network in seen] == [plug.port_id], "what is plugged is seen, once")
    case.network.plug_member_networks(load_balancer, amphora)
    case.network.unplug_vip(load_balancer, amphora)
    case.network.unplug_vip(load_balancer, amphora)
    must(not case.network.plugged(amphora), "what was unplugged is not seen; unplugging again is success")


def two_amphorae_have_ports_of_their_own(case: NetworkCase) -> None:
    load_balancer, one, two = _reserve(case.network, str(uuid.uuid4())), _amphora(), _amphora()
    first, second = case.network.plug_vip(load_balancer, one), case.network.plug_vip(load_balancer, two)
    must(first.port_id != second.port_id, "each amphora has a port of its own")
    case.network.unplug_vip(load_balancer, one)
    must(case.network.plugged(two), "unplugging one amphora leaves the other")


def member_networks_come_and_go_as_members_do(case: NetworkCase) -> None:
    bare, amphora = _reserve(case.network, str(uuid.uuid4())), _amphora()
    vip = case.network.plug_vip(bare, amphora)

    def after(*subnets: str) -> set[str]:
        """Subnets that are plugged for members, after it was asked for these."""
        members = tuple(Member(id=s, address="192.0.2.1", protocol_port=80, subnet_id=s) for s in subnets)
        pool = Pool(id="pool", protocol=PoolProtocol.HTTP, members=members)
        wanted = attrs.evolve(bare, pools=(pool,))
        changed = case.network.plug_member_networks(wanted, amphora)
        must(not case.again().plug_member_networks(wanted, amphora), "asked for again, nothing changes")
        seen = [network for network in case.network.plugged(amphora) if network.port_id != vip.port_id]
        must({n.port_id for n in changed} <= {n.port_id for n in seen}, "what changed is plugged")
        for network in seen:
            must(network.mac_address == network.mac_address.lower(), "MAC addresses are lower case")
            must(all(fixed.get("ip_address") for fixed in network.fixed_ips), "a plug has its addresses")
        return {str(fixed["subnet_id"]) for network in seen for fixed in network.fixed_ips}

    if not case.network.plugs_members:
        must(after(*filter(None, case.subnets)) == set(), "a network that reaches all members plugs nothing for them")
        return
    one, two = case.subnets
    must(after(one) == {one}, "a member's subnet is plugged")
    must(after(one, two) == {one, two}, "a second one too")
    must(after(two) == {two}, "what no member needs is unplugged")
    must(after() == set(), "without members nothing is left of them")
    must([n.port_id for n in case.network.plugged(amphora)] == [vip.port_id], "the VIP stays")


def releasing_leaves_nothing_and_twice_is_success(case: NetworkCase) -> None:
    load_balancer = _reserve(case.network, str(uuid.uuid4()))
    case.network.plug_vip(load_balancer, _amphora())
    must(case.network.list(), "what is reserved is listed")
    case.network.release_vip(load_balancer.id, load_balancer.vip)
    case.network.release_vip(load_balancer.id, load_balancer.vip)
    case.again().release_vip(str(uuid.uuid4()), None)
    must(not case.network.list(), "a released VIP leaves nothing, plugs included")


def additional_vips_are_had_with_the_vip(case: NetworkCase) -> None:
    first = VipRequest(
        load_balancer_id=str(uuid.uuid4()), additional_vips=(AdditionalVip(), AdditionalVip(ip_address=case.free))
    )
    plan = case.network.reserve_vip(first)
    more = plan.additional_vips
    must(len(more) == 2 and more[1].ip_address == case.free, "additional VIPs are in the order of the request")
    addresses = {plan.vip.ip_address, *(vip.ip_address for vip in more)} - {None}
    subnets = {plan.vip.subnet_id, *(vip.subnet_id for vip in more)} - {None}
    must(len(addresses) == len(subnets) == 3, "each has an address and a subnet of its own")
    must(case.again().reserve_vip(first).additional_vips == more, "the same load balancer twice has the same VIPs")
    rows = VipRequest(
        load_balancer_id=first.load_balancer_id,
        ip_address=plan.vip.ip_address,
        port_id=plan.vip.port_id,
        subnet_id=plan.vip.subnet_id,
        network_id=plan.vip.network_id,
        additional_vips=more[::-1],
    )
    must(case.again().reserve_vip(rows).additional_vips == more[::-1], "what the rows say later is understood again")


def additional_vips_are_plugged_and_given_back_with_the_vip(case: NetworkCase) -> None:
    asked = (AdditionalVip(), AdditionalVip(ip_address=case.free))
    plan = case.network.reserve_vip(VipRequest(load_balancer_id="lb", additional_vips=asked))
    more, amphora = plan.additional_vips, _amphora()
    load_balancer = LoadBalancer(id="lb", vip=plan.vip, additional_vips=more)
    told = case.network.plug_vip(load_balancer, amphora).additional_vips
    must([one["ip_address"] for one in told] == [vip.ip_address for vip in more], "a plug is for all VIPs")
    for one in told:
        must(set(one) == {"ip_address", "subnet_cidr", "gateway", "host_routes"}, "an agent is told what it must know")
        subnet = ipaddress.ip_network(one["subnet_cidr"])
        must(ipaddress.ip_address(one["ip_address"]) in subnet, "an additional VIP is inside its subnet")
    must(case.again().plug_vip(load_balancer, amphora).additional_vips == told, "plugging again tells the same")
    must(len(case.network.plugged(amphora)) == 1, "one port serves all VIPs")
    case.network.release_vip(load_balancer.id, plan.vip)
    must(not case.network.list(), "a released VIP leaves nothing, additional ones included")
    other = VipRequest(load_balancer_id="other", additional_vips=asked[1:])
    must(case.network.reserve_vip(other).additional_vips[0].ip_address == case.free, "it can be had again")


def without_one_of_its_vips_a_load_balancer_gets_none(case: NetworkCase) -> None:
    _reserve(case.network, "holder", case.free)
    mine = case.network.reserve_vip(VipRequest(load_balancer_id="mine")).vip
    case.network.release_vip("mine", mine)
    before = case.network.list()
    for asked, said in (
        (AdditionalVip(ip_address=case.free), case.free),
        (AdditionalVip(ip_address=case.foreign), case.foreign),
        (AdditionalVip(subnet_id=mine.subnet_id), str(mine.subnet_id)),
        *([(AdditionalVip(subnet_id=case.nowhere), case.nowhere)] if case.nowhere else []),
    ):
        request = VipRequest(load_balancer_id="other", additional_vips=(AdditionalVip(), asked))
        error = raises(PermanentError, partial(case.network.reserve_vip, request), f"{said} is refused")
        must(said in str(error), "the refusal names the address or subnet")
        must(case.network.list() == before, "a refused wish leaves nothing behind")


def a_listener_is_reachable_somewhere(case: NetworkCase) -> None:
    address = _reserve(case.network, str(uuid.uuid4())).vip.ip_address
    for port in (80, 8080, 65535):
        host, _, reached = case.network.reachable_at(str(address), port).rpartition(":")
        must(host == address and 0 < int(reached) < 65536, "reachable_at gives host:port of the VIP")


def a_topology_is_carried_or_objected_to_in_a_sentence(case: NetworkCase) -> None:
    must(case.network.objection(Topology.SINGLE) is None, "a network carries load balancers of one amphora")
    said = case.network.objection(Topology.ACTIVE_STANDBY)
    must(said is None or "ACTIVE_STANDBY" in said, "an objection names the topology")
    must(not case.network.list(), "asking reserves nothing")


NETWORK_CONTRACT: tuple[Callable[[NetworkCase], None], ...] = (
    the_same_load_balancer_twice_has_the_same_address,
    competing_load_balancers_have_addresses_of_their_own,
    a_wanted_address_is_given_once,
    a_foreign_address_is_refused,
    a_plug_is_made_once_and_seen,
    two_amphorae_have_ports_of_their_own,
    member_networks_come_and_go_as_members_do,
    releasing_leaves_nothing_and_twice_is_success,
    additional_vips_are_had_with_the_vip,
    additional_vips_are_plugged_and_given_back_with_the_vip,
    without_one_of_its_vips_a_load_balancer_gets_none,
    a_listener_is_reachable_somewhere,
    a_topology_is_carried_or_objected_to_in_a_sentence,
)
