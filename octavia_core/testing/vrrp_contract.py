"""What every amphora driver must hold that lets two amphorae share a VIP; used as the contracts of the other ports."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from octavia_core.domain.amphora import AgentAddress, Amphora, VrrpGroup
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Role, Topology
from octavia_core.errors import AmphoraUnreachable
from octavia_core.ports.amphora import AmphoraPort, VrrpDelivery
from octavia_core.ports.network import VipPlug
from octavia_core.testing.contracts import ContractBroken

__all__ = ["VRRP_CONTRACT", "VrrpCase"]


@attrs.frozen(kw_only=True)
class VrrpCase:
    """An amphora driver, and an amphora that was plugged and shares nothing yet.

    Attributes:
        amphorae: the driver.
        at: where the agent is.
        own: the amphora's address on the VIP's subnet.
        foreign: an address that it does not carry.
        nobody: where no agent answers.
    """

    amphorae: AmphoraPort
    at: AgentAddress
    own: str
    foreign: str
    nobody: AgentAddress

    def delivery(self, *peers: str) -> VrrpDelivery:
        """What it is given when those addresses share the VIP with it."""
        amphora = Amphora(
            id=self.at.amphora_id,
            status=AmphoraStatus.ALLOCATED,
            load_balancer_id=_ID,
            role=Role.MASTER,
            vrrp_ip=self.own,
            vrrp_interface="eth1",
            vrrp_id=1,
            vrrp_priority=100,
        )
        return VrrpDelivery(
            load_balancer=LoadBalancer(id=_ID, topology=Topology.ACTIVE_STANDBY, vip=Vip(ip_address=_VIP)),
            amphora=amphora,
            peers=tuple(attrs.evolve(amphora, id=f"peer-{ip}", vrrp_ip=ip, role=Role.BACKUP) for ip in peers),
            group=VrrpGroup(load_balancer_id=_ID, name=_ID.replace("-", ""), auth_pass=Secret("ab12cd3")),
            subnet=VipPlug(port_id="port", mac_address="fa:16:3e:00:00:01", vip=_VIP, subnet_cidr="10.128.0.0/16"),
        )


_ID = "0a0b0c0d-0000-4000-8000-000000000001"
_VIP = "10.128.0.9"
_PEERS = ("10.128.0.6", "10.128.0.7")


def _must(condition: object, sentence: str) -> None:
    if not condition:
        raise ContractBroken(sentence)


def _unreachable(do: Callable[[], object], sentence: str) -> None:
    try:
        do()
    except AmphoraUnreachable:
        return
    raise ContractBroken(sentence)


def the_interface_of_an_own_address_has_a_name(case: VrrpCase) -> None:
    name = case.amphorae.interface(case.at, case.own)
    _must(name, "an address that the amphora carries has an interface")
    _must(case.amphorae.interface(case.at, case.own) == name, "asked again, it has the same one")


def a_foreign_address_has_no_interface(case: VrrpCase) -> None:
    _must(case.amphorae.interface(case.at, case.foreign) is None, "an address that it does not carry has none")


def sharing_may_be_asked_for_again_and_changed(case: VrrpCase) -> None:
    for peers in ((), _PEERS[:1], _PEERS[:1], _PEERS):
        case.amphorae.start_vrrp(case.at, case.delivery(*peers))


def stopping_is_success_whether_it_shared_or_not_and_it_may_share_again(case: VrrpCase) -> None:
    case.amphorae.stop_vrrp(case.at)
    case.amphorae.start_vrrp(case.at, case.delivery(_PEERS[0]))
    case.amphorae.stop_vrrp(case.at)
    case.amphorae.stop_vrrp(case.at)
    case.amphorae.start_vrrp(case.at, case.delivery(_PEERS[0]))


def who_does_not_answer_is_unreachable(case: VrrpCase) -> None:
    for do, what in (
        (lambda: case.amphorae.interface(case.nobody, case.own), "interface"),
        (lambda: case.amphorae.start_vrrp(case.nobody, case.delivery(_PEERS[0])), "start_vrrp"),
        (lambda: case.amphorae.stop_vrrp(case.nobody), "stop_vrrp"),
    ):
        _unreachable(do, f"{what} of an agent that does not answer raises AmphoraUnreachable")


VRRP_CONTRACT: tuple[Callable[[VrrpCase], None], ...] = (
    the_interface_of_an_own_address_has_a_name,
    a_foreign_address_has_no_interface,
    sharing_may_be_asked_for_again_and_changed,
    stopping_is_success_whether_it_shared_or_not_and_it_may_share_again,
    who_does_not_answer_is_unreachable,
)
