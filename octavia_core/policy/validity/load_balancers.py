"""The load balancer itself and its addresses."""

from __future__ import annotations

import ipaddress

from octavia_core.domain.tree import AdditionalVip, Vip
from octavia_core.domain.vocabulary import Topology
from octavia_core.policy.validity.scope import Scope
from octavia_core.policy.validity.values import address, each, fields, flag, identifier, line, one_of, optional, prose
from octavia_core.policy.validity.words import label, refusal

__all__ = ["check"]

_ID = optional(identifier())
_VNIC = one_of("normal", "direct")  # vip.vnic_type and member.vnic_type; 'direct' is SR-IOV
_MOST_VIPS = 100

_LOAD_BALANCER = {
    "name": optional(line(255)),
    "description": optional(prose(255)),
    "project_id": optional(line(36)),
    "enabled": flag,
    "topology": one_of(Topology),
    "provider": optional(line(64)),
    "flavor_id": _ID,
    "availability_zone": optional(line(255)),
    "server_group_id": _ID,
}
_VIP = {
    "ip_address": optional(address),
    "port_id": _ID,
    "subnet_id": _ID,
    "network_id": _ID,
    "qos_policy_id": _ID,
    "octavia_owned": flag,
    "vnic_type": _VNIC,
    "sg_ids": each(identifier(), most=100),
}
_ADDITIONAL = {
    "subnet_id": _ID,
    "ip_address": optional(address),
    "port_id": _ID,
    "network_id": _ID,
}


def check(scope: Scope) -> None:
    """Hold the load balancer against its rules, when it is concerned."""
    if not scope.root():
        return
    tree = scope.tree
    owner = label(tree)
    fields(owner, tree, _LOAD_BALANCER)
    if not isinstance(tree.vip, Vip):
        raise refusal(owner, "vip", tree.vip, "a Vip")
    fields(f"VIP of {owner}", tree.vip, _VIP)
    _additional(owner, tree.vip, tree.additional_vips)


def _additional(owner: str, vip: Vip, additional: object) -> None:
    if not isinstance(additional, tuple) or not all(isinstance(one, AdditionalVip) for one in additional):
        raise refusal(owner, "additional_vips", additional, "a tuple of AdditionalVip")
    if len(additional) > _MOST_VIPS:
        raise refusal(owner, "number of additional_vips", len(additional), f"at most {_MOST_VIPS}")
    subnets = {vip.subnet_id}
    addresses = {ipaddress.ip_address(vip.ip_address)} if vip.ip_address else set()
    for index, one in enumerate(additional):
        place = f"additional_vips[{index}] of {owner}"
        fields(place, one, _ADDITIONAL)
        if one.subnet_id is not None and one.subnet_id in subnets:
            raise refusal(place, "subnet_id", one.subnet_id, "a subnet on which the load balancer has no other VIP")
        subnets.add(one.subnet_id)
        if one.ip_address is None:
            continue
        literal = ipaddress.ip_address(one.ip_address)
        if literal in addresses:
            raise refusal(place, "ip_address", one.ip_address, "an address that no other VIP of the load balancer has")
        addresses.add(literal)
