"""Before a push, an amphora is plugged into what its members need; after it, what nobody needs is taken away.

All of this happens inside the step of the push: every call may be repeated, and a load balancer without members on
subnets of their own costs one question to the network, its creation none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from octavia_core.domain.amphora import AgentAddress, Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.errors import PermanentError
from octavia_core.flows.world import World
from octavia_core.policy.plugs import Plug, Plugs, compare, keeping, member_subnets, not_plugged
from octavia_core.ports.network import PluggedNetwork

__all__ = ["Outlive", "Prepared", "prepare", "tidy"]


@attrs.frozen(kw_only=True)
class Prepared:
    """Subnets that were plugged for this push, and those that nobody needs after it."""

    plugged: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()


Outlive = Callable[[float], None]
"""Makes the lease last so many seconds: `Run.outlive`."""


def prepare(outlive: Outlive, world: World, amphora: Amphora, tree: LoadBalancer, *, first: bool) -> Prepared:
    """Make sure that the amphora is plugged into what the tree needs. Inside a step.

    Args:
        outlive: of the run.
        world: network and amphora.
        amphora: where its agent is, and which port it has for the VIP.
        tree: what it is to serve.
        first: it was built a moment ago, so that only networks of members can be missing.

    Raises:
        PermanentError: it lost its VIP, or a network cannot be plugged; nothing was pushed.
        TransientError: network or agent did not answer.
    """
    needed = member_subnets(tree)
    at = amphora.agent
    if at is None or (first and (not needed or not world.network.plugs_members)):
        return Prepared()
    if not world.network.plugs_members and amphora.vrrp_port_id is None:
        return Prepared()  # it was plugged by this very operation
    if not world.network.plugs_members:  # the VIP's port alone can be missing; the step's limit covers the question
        refusal = compare(tree, amphora, [_plug(network) for network in world.network.plugged(amphora)]).refusal
        if refusal is not None:
            raise PermanentError(refusal)
        return Prepared()
    outlive(3 * world.network.time_limit + 2 * world.amphora.time_limit)
    ports = world.network.plugged(amphora)
    found = _judged(tree, amphora, ports)
    changed: Sequence[PluggedNetwork] = ()
    if found.missing:
        changed = world.network.plug_member_networks(keeping(tree, found.surplus), amphora)
        ports = world.network.plugged(amphora)
        after = _judged(tree, amphora, ports)
        if after.missing:
            raise PermanentError(not_plugged(tree, amphora, after.missing))
        found = attrs.evolve(found, members=after.members)
    told = {network.port_id for network in changed}
    for network in changed:
        world.amphora.plug_network(at, network)
    for network in ports:
        if network.port_id in found.members:
            _configured(world, at, network, told=network.port_id in told)
    return Prepared(plugged=found.missing, surplus=found.surplus)


def tidy(outlive: Outlive, world: World, amphora: Amphora, tree: LoadBalancer, prepared: Prepared) -> None:
    """Take away what nobody needs any more, now that the amphora serves without it. Inside a step."""
    at = amphora.agent
    if not prepared.surplus or at is None:
        return
    outlive(world.network.time_limit + world.amphora.time_limit)
    for network in world.network.plug_member_networks(tree, amphora):
        world.amphora.plug_network(at, network)


def _judged(tree: LoadBalancer, amphora: Amphora, ports: Sequence[PluggedNetwork]) -> Plugs:
    found = compare(tree, amphora, [_plug(network) for network in ports])
    if found.refusal is not None:
        raise PermanentError(found.refusal)
    return found


def _configured(world: World, at: AgentAddress, network: PluggedNetwork, *, told: bool) -> None:
    """The network has the port; the agent has to have an interface for it. One that it lost is configured again."""
    for address in _plug(network).addresses:
        if world.amphora.interface(at, address) is not None:
            continue
        if not told:
            world.amphora.plug_network(at, network)
            told = True
        if world.amphora.interface(at, address) is None:
            raise PermanentError(
                f"amphora {at.amphora_id} has no interface with {address}, although its port {network.port_id} on "
                f"network {network.network_id} is plugged; replace it: octavia-admin amphora failover {at.amphora_id}"
            )


def _plug(network: PluggedNetwork) -> Plug:
    return Plug(
        port_id=network.port_id,
        addresses=tuple(str(fixed["ip_address"]) for fixed in network.fixed_ips if fixed.get("ip_address")),
        subnets=tuple(str(fixed["subnet_id"]) for fixed in network.fixed_ips if fixed.get("subnet_id")),
    )
