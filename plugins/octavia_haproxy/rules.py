"""Which packets the interface of a VIP lets in, where no security group can: a VIP on a virtual function (SR-IOV).

The agent drops everything else (agent API reference, 4.17), so this is sent after whatever changes listeners or peers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from octavia_core.domain.vocabulary import ListenerProtocol
from octavia_core.errors import PermanentError
from octavia_core.ports.amphora import Delivery
from octavia_haproxy.client import AgentClient, InterfaceRule
from octavia_haproxy.render import check
from octavia_haproxy.render.model import alive

__all__ = ["let_in", "rules_of"]

_DIRECT = "direct"
"""Neutron's `binding:vnic_type` of a virtual function."""
_VRRP_NUMBER = 112
"""VRRP's protocol number, sent in place of a port, which does not count."""


def let_in(agent: AgentClient, delivery: Delivery) -> None:
    """Tell the agent of an amphora whose VIP is on a virtual function; of all others nothing.

    Raises:
        PermanentError: its agent is too old for it, or the interface is not there.
    """
    own = delivery.amphora.vrrp_ip
    if delivery.load_balancer.vip.vnic_type != _DIRECT or own is None:
        return
    rules = list(rules_of(delivery))
    if rules and not agent.upload_rules(own, rules):  # an empty list changes nothing there
        raise PermanentError(
            f"amphora {agent.at.amphora_id} lets nobody in: its agent knows no rules for {own}; replace it: "
            f"octavia-admin amphora failover {agent.at.amphora_id}"
        )


def rules_of(delivery: Delivery) -> Iterator[InterfaceRule]:
    """One for each listener and network of clients, and one for each peer that speaks VRRP."""
    for listener in delivery.load_balancer.listeners:
        if not alive(listener):
            continue
        owner = f"listener {listener.id}"
        networks = sorted({check.network(owner, "allowed_cidrs", cidr) for cidr in listener.allowed_cidrs})
        for cidr in networks or ["0.0.0.0/0"]:
            # for `::/0` the agent has no exception, and makes a rule of it that is as good as none
            everybody = cidr in ("0.0.0.0/0", "::/0")
            yield InterfaceRule(
                protocol=_protocol(listener.protocol),
                port=listener.protocol_port,
                cidr=None if everybody else cidr,
            )
    for peer in delivery.peers:
        if peer.vrrp_ip is not None:
            cidr = f"{peer.vrrp_ip}/{128 if ':' in peer.vrrp_ip else 32}"
            yield InterfaceRule(protocol="vrrp", port=_VRRP_NUMBER, cidr=cidr)


def _protocol(protocol: ListenerProtocol) -> Literal["TCP", "UDP", "SCTP"]:
    if protocol is ListenerProtocol.UDP:
        return "UDP"
    return "SCTP" if protocol is ListenerProtocol.SCTP else "TCP"
