"""What the flows of a whole load balancer share: its row, its VIP, the roles of its amphorae."""

from __future__ import annotations

import attrs

from octavia_core.domain.operation import Operation
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import Role, Topology
from octavia_core.errors import NotFound
from octavia_core.flows.run import Run
from octavia_core.flows.world import World
from octavia_core.ports.network import AddressPlan, VipRequest
from octavia_core.ports.storage import Transaction

__all__ = ["PAIR", "RESERVE", "kept", "paired", "reserve", "roles", "tree_of", "vip_request"]

PAIR = (Role.MASTER, Role.BACKUP)
"""A preference that keepalived is given; who holds the VIP is for the two to decide."""


RESERVE = "reserve-vip"
"""The step that reserves the VIP; its key is the `VipRequest`."""


def tree_of(tx: Transaction, operation: Operation) -> LoadBalancer:
    """The operation's load balancer as the rows say now.

    Raises:
        NotFound: there is no such row.
    """
    assert operation.load_balancer_id is not None
    tree = tx.tree(operation.load_balancer_id)
    if tree is None:
        raise NotFound("load balancer", operation.load_balancer_id)
    return tree


def paired(tree: LoadBalancer) -> bool:
    """Whether two amphorae share its VIP."""
    return tree.topology is Topology.ACTIVE_STANDBY


def roles(tree: LoadBalancer) -> tuple[Role, ...]:
    """The roles of its amphorae."""
    return PAIR if paired(tree) else (Role.STANDALONE,)


def vip_request(tree: LoadBalancer) -> VipRequest:
    """Which VIP and additional VIPs its rows ask for."""
    return VipRequest(
        load_balancer_id=tree.id,
        project_id=tree.project_id,
        ip_address=tree.vip.ip_address,
        port_id=tree.vip.port_id,
        subnet_id=tree.vip.subnet_id,
        network_id=tree.vip.network_id,
        additional_vips=tree.additional_vips,
    )


def reserve(run: Run, world: World, request: VipRequest) -> AddressPlan:
    """Reserve the VIP and the additional VIPs; undone, they are given back."""
    return run.step(
        RESERVE,
        key=request,
        do=world.network.reserve_vip,
        undo=lambda request, got: world.network.release_vip(request.load_balancer_id, got.vip if got else None),
        result=AddressPlan,
        limit=world.network.time_limit,
    )


def kept(asked: Vip, got: Vip) -> Vip:
    """What the network gave, with what only the row knows. Whoever made the port has said whose it is."""
    owned = asked.octavia_owned if asked.port_id is not None and asked.port_id == got.port_id else got.octavia_owned
    return attrs.evolve(
        got, octavia_owned=owned, qos_policy_id=asked.qos_policy_id, vnic_type=asked.vnic_type, sg_ids=asked.sg_ids
    )
