"""Which addresses a load balancer is given: its VIP and its additional VIPs, chosen together, so that it gets all or none.

A local network has one subnet for each version of IP. Rule 1: as in a cloud, a load balancer has one VIP on each of them.
Rule 2: every further VIP has a subnet of its own, which is made up: ids tell them apart, and traffic does not care.
Rule 3: what upstream's API has given ids keeps them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from octavia_core.domain.tree import AdditionalVip, Vip
from octavia_core.errors import PermanentError
from octavia_core.ports.network import AddressPlan, VipRequest
from octavia_local.reservations import Held, Ids, made_elsewhere, made_up

__all__ = ["Choice", "Offer", "choose"]


@attrs.frozen(kw_only=True)
class Offer:
    """What a network has for load balancers.

    Attributes:
        ids: what network and subnet of a version of IP are called.
        check: an address that is wanted, in its usual form; PermanentError when nobody can have it here.
        free: (a name, the version of IP, what is taken) -> an address; PermanentError when there is none left.
        versions: what additional VIPs are given that leave it open: each that is not there yet, then the first.
        ranges: where addresses come from, for people.
        others: addresses that amphorae have.
    """

    ids: Callable[[int], Ids]
    check: Callable[[str], str]
    free: Callable[[str, int, Collection[str]], str]
    versions: Sequence[int]
    ranges: str
    others: Collection[str] = ()


@attrs.frozen
class Choice:
    """What a load balancer gets, and what of it is new: address -> place, which is 0 for the VIP."""

    plan: AddressPlan
    new: Mapping[str, int]


def choose(request: VipRequest, version: int, held: Mapping[str, Held], offer: Offer) -> Choice:
    """Choose; nothing is changed.

    Args:
        request: what is wanted. What it holds already, it keeps.
        version: of IP, for a VIP without an address.
        held: what is reserved now.
        offer: of the network.

    Raises:
        PermanentError: it cannot be had; the message names the address or subnet.
    """
    mine = {one.place: address for address, one in held.items() if one.load_balancer_id == request.load_balancer_id}
    texts = (request.ip_address, *(one.ip_address for one in request.additional_vips))
    wanted = [None if text is None else offer.check(text) for text in texts]
    if 0 in mine:
        wanted[0] = mine[0]
    named = _named(request, offer)
    taken = {*held, *offer.others, *filter(None, wanted)}
    found: list[str] = []
    for place, asked in enumerate(wanted):
        known = mine.get(place)
        if asked in found:
            raise PermanentError(f"VIP address {asked} is asked for twice; leave one of them out")
        if asked is not None and asked not in mine.values():
            _refuse_taken(asked, held, offer.others)
        address = asked
        if address is None and known not in (None, *found, *wanted):
            address = known
        if address is None:
            there = [*found, *filter(None, wanted)]
            kind = version if place == 0 else _version(request.additional_vips[place - 1], there, named, offer)
            name = f"{request.load_balancer_id}/{place}" if place else request.load_balancer_id
            address = offer.free(name, kind, {*taken, *found})
        found.append(address)
    new = {address: place for place, address in enumerate(found) if address not in mine.values()}
    return Choice(_plan(request, found, named, offer), new)


def _refuse_taken(address: str, held: Mapping[str, Held], others: Collection[str]) -> None:
    if address in held or address in others:
        holder = f"load balancer {held[address].load_balancer_id}" if address in held else "an amphora"
        raise PermanentError(f"VIP address {address} belongs to {holder}; choose another, or none to get one")


def _named(request: VipRequest, offer: Offer) -> Mapping[str, int]:
    """The network's own subnets that additional VIPs are asked for on: id -> version of IP."""
    known = {offer.ids(version).subnet: version for version in offer.versions}
    return {one.subnet_id: known[one.subnet_id] for one in request.additional_vips if one.subnet_id in known}


def _version(one: AdditionalVip, addresses: Sequence[str], named: Mapping[str, int], offer: Offer) -> int:
    """Of an additional VIP without an address: its subnet's, or one that the load balancer does not have."""
    if one.subnet_id is not None and one.subnet_id in named:
        return named[one.subnet_id]
    there = {ipaddress.ip_address(address).version for address in addresses} | set(named.values())
    return next((version for version in offer.versions if version not in there), offer.versions[0])


def _plan(request: VipRequest, found: Sequence[str], named: Mapping[str, int], offer: Offer) -> AddressPlan:
    """What the core is told: ids of ours, or those of who made the port elsewhere. All VIPs are on one port, as upstream's."""
    address, *more = found
    given, ours = made_elsewhere(request), offer.ids(ipaddress.ip_address(address).version)
    vip = Vip(
        ip_address=address,
        port_id=request.port_id if given else made_up("port", request.load_balancer_id, address),
        subnet_id=request.subnet_id if given else ours.subnet,
        network_id=request.network_id if given else ours.network,
    )
    used = {str(vip.subnet_id)}
    further = []
    for one, its in zip(request.additional_vips, more, strict=True):
        subnet = one.subnet_id if given and one.subnet_id else _subnet(one.subnet_id, its, used, named, offer)
        used.add(subnet)
        further.append(
            AdditionalVip(
                subnet_id=subnet,
                ip_address=its,
                port_id=one.port_id or vip.port_id,
                network_id=one.network_id or vip.network_id,
            )
        )
    return AddressPlan(vip=vip, additional_vips=tuple(further))


def _subnet(asked: str | None, address: str, used: Collection[str], named: Mapping[str, int], offer: Offer) -> str:
    """The subnet of an additional VIP that has this address; `used` are those of the VIPs before it."""
    subnet = offer.ids(ipaddress.ip_address(address).version).subnet
    own = made_up("subnet", subnet, address)
    if asked is None:
        return own if subnet in used or subnet in named else subnet
    if asked not in (subnet, own):
        if asked in named:
            raise PermanentError(f"VIP address {address} is not on subnet {asked}; leave one of them out")
        raise PermanentError(f"this machine has no subnet {asked}; leave it out, VIPs come from {offer.ranges}")
    if asked in used:
        raise PermanentError(
            f"the load balancer has a VIP on subnet {asked} already, and no second one can be there; leave the subnet out"
        )
    return asked
