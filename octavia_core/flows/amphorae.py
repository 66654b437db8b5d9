"""The parts of flows that build, configure and remove one amphora."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from octavia_core.domain.amphora import DEFAULT_AGENT_PORT, AgentAddress, Amphora
from octavia_core.domain.operation import Event, Operation, Subject
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning, Role, Topology
from octavia_core.errors import AmphoraUnreachable, NotFound, PermanentError
from octavia_core.flows import networks
from octavia_core.flows.flow import derived_id, emit
from octavia_core.flows.run import Run
from octavia_core.flows.secrets import material
from octavia_core.flows.unserved import Unserved, asked_for, unserved
from octavia_core.flows.waits import AgentAnswers, ServerActive
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.policy.last_good import resolve
from octavia_core.ports.amphora import AgentInfo, BootIdentity, Delivery, Material, Pushed
from octavia_core.ports.compute import BootFiles, Server, ServerSpec
from octavia_core.ports.network import VipPlug
from octavia_core.ports.storage import Transaction

__all__ = [
    "PRIORITY",
    "SERVING",
    "Booted",
    "Manner",
    "PushKey",
    "Sent",
    "Site",
    "alive",
    "allocate",
    "await_agent",
    "boot",
    "booted_row",
    "declared_dead",
    "draft",
    "drop_amphora",
    "fail_amphora",
    "first_push",
    "insert_amphora",
    "plug",
    "push",
    "push_all",
    "push_limit",
    "remove",
    "site",
    "store_server",
    "successor",
]

SERVING = (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED)
"""Those that have a configuration and may run it, heard or not."""


@attrs.frozen(kw_only=True)
class Site:
    """Where an amphora is to stand: recorded once, so that a resumed flow decides as the first run did.

    Attributes:
        load_balancer_id, role: None for a spare that is built.
        flavor, zone: as its load balancer asks for them.
        look: its row is not there yet, since a spare may fit; see `octavia_core.flows.spares`.
        spare: the row of the spare that was taken for it, as it is now.
    """

    load_balancer_id: str | None
    amphora_id: str
    role: Role | None
    topology: Topology
    server_group_id: str | None = None
    flavor: str | None = None
    zone: str | None = None
    look: bool = False
    spare: Amphora | None = None


@attrs.frozen(kw_only=True)
class Booted:
    """What booting gave: the server, when its certificate ends (epoch seconds), and the marks of what it was booted with (none
    when it was found rather than made: then another worker may have given it something else).
    """

    server: Server
    not_after: int
    marks: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class PushKey:
    """A push is one revision for one amphora."""

    amphora_id: str
    revision: int


PRIORITY = {Role.MASTER: 100, Role.BACKUP: 90, Role.STANDALONE: None, None: None}
"""keepalived priorities of upstream's roles; of a spare, which has none."""


def site(operation: Operation, tree: LoadBalancer, role: Role) -> Site:
    """A place for a new amphora of that role; its id follows from the operation."""
    return Site(
        load_balancer_id=tree.id,
        amphora_id=derived_id(operation.id, f"amphora/{role}"),
        role=role,
        topology=tree.topology,
        server_group_id=tree.server_group_id,
        flavor=tree.flavor_id,
        zone=tree.availability_zone,
    )


def insert_amphora(tx: Transaction, where: Site) -> None:
    """The row comes first: the first heartbeat of the server must find it."""
    tx.insert(
        Amphora(id=where.amphora_id, status=AmphoraStatus.PENDING_CREATE, load_balancer_id=where.load_balancer_id)
    )


def drop_amphora(tx: Transaction, amphora_id: str) -> None:
    """Undo of `insert_amphora`: the row stays as DELETED, so that its history can be read."""
    row = tx.amphora(amphora_id)
    if row is None or row.status is AmphoraStatus.DELETED:
        return
    tx.settle_amphora(amphora_id, AmphoraEvent.DELETE)
    tx.settle_amphora(amphora_id, AmphoraEvent.DELETED)
    tx.forget_health(amphora_id)


def boot(run: Run, world: World, where: Site) -> Booted:
    """Ask for the server. Its certificate is issued inside the step and exists nowhere else."""

    def do(spec: ServerSpec) -> Booted:
        made: list[int] = []

        def files() -> BootFiles:
            issued = world.issuer.issue(spec.amphora_id)
            made.append(issued.not_after)
            return world.amphora.boot_files(
                BootIdentity(
                    amphora_id=spec.amphora_id,
                    topology=spec.topology,
                    server_pem=issued.server_pem,
                    controller_ca_pem=world.issuer.controller_ca(),
                )
            )

        server = world.compute.boot(spec, files)
        validity = world.settings.certificates.cert_validity_time
        # found, not made: the server keeps a certificate that is at most a boot deadline older than now
        oldest = int(world.clock.now() + validity - world.settings.engine.boot_deadline)
        if not made:
            return Booted(server=server, not_after=oldest)
        return Booted(server=server, not_after=made[0], marks=world.marks)

    def undo(spec: ServerSpec, booted: Booted | None) -> None:
        world.compute.destroy(booted.server.id if booted else spec.name)

    spec = ServerSpec(
        name=f"amphora-{where.amphora_id}",
        amphora_id=where.amphora_id,
        load_balancer_id=where.load_balancer_id,
        topology=where.topology,
        server_group_id=where.server_group_id,
    )
    return run.step("boot", key=spec, do=do, undo=undo, result=Booted, limit=world.compute.time_limit)


def allocate(run: Run, world: World, where: Site, booted: Booted) -> Amphora:
    """Wait until the server runs and its agent answers; then it is ALLOCATED, with its role and addresses."""
    server, facts = await_agent(run, world, where, booted)
    facts |= {"role": where.role, "vrrp_priority": PRIORITY[where.role]}
    text = f"amphora answers at {server.management_ip}:{server.agent_port}"

    def settle(tx: Transaction) -> None:
        store_server(tx, where, server, AmphoraEvent.ALLOCATE, facts)
        emit(tx, run.operation, "amphora.allocated", text, amphora_id=where.amphora_id)

    run.later("allocated", settle)  # with the intent of what comes next
    return Amphora(
        id=where.amphora_id,
        status=AmphoraStatus.ALLOCATED,
        load_balancer_id=where.load_balancer_id,
        agent_port=server.agent_port,
        **facts,
    )


def await_agent(run: Run, world: World, where: Site, booted: Booted) -> tuple[Server, dict[str, Any]]:
    """Wait until the server runs and its agent answers; the server, and what is to be stored of it."""
    deadline = world.settings.engine.boot_deadline
    server = run.wait(ServerActive(booted.server.id), within=deadline, name="server-active", result=Server)
    assert server.management_ip is not None
    at = AgentAddress(amphora_id=where.amphora_id, host=server.management_ip, port=server.agent_port)
    run.wait(AgentAnswers(at), within=deadline, name="agent-answers", result=AgentInfo)

    return server, {
        "compute_id": server.id,
        "lb_network_ip": server.management_ip,
        "cached_zone": server.zone,
        "image_id": server.image_id,
        "compute_flavor": server.flavor,
        "cert_expiration": booted.not_after,
    }


def store_server(tx: Transaction, where: Site, server: Server, event: AmphoraEvent, facts: Mapping[str, Any]) -> None:
    """Its agent answers: move the row, and store what is known of it by now."""
    if server.agent_port != DEFAULT_AGENT_PORT:  # which the row has from the start
        tx.change_amphora(where.amphora_id, agent_port=server.agent_port)
    tx.settle_amphora(where.amphora_id, event, **facts)
    if server.host:
        tx.set_host(where.amphora_id, server.host)


def booted_row(tx: Transaction, where: Site, booted: Booted) -> None:
    """The server was asked for: remember it before it is waited for at length, so that its death is noticed meanwhile."""
    tx.settle_amphora(where.amphora_id, AmphoraEvent.BOOT, compute_id=booted.server.id)
    tx.give_marks([where.amphora_id], booted.marks)


def plug(run: Run, world: World, tree: LoadBalancer, amphora: Amphora) -> VipPlug:
    """Give the amphora the VIP: the network's part, then the agent's. Of the tree, only what is recorded of its root."""
    plugged = run.step(
        "plug-vip",
        key=amphora.id,
        do=lambda _: world.network.plug_vip(tree, amphora),
        undo=lambda _, __: _unplug(world, tree, amphora),
        result=VipPlug,
        limit=world.network.time_limit,
    )

    def tell(_: str) -> None:
        at = amphora.agent
        assert at is not None
        world.amphora.plug_vip(at, plugged)

    run.step("agent-vip", key=amphora.id, do=tell, limit=world.amphora.time_limit)
    run.later("plugged", lambda tx: _plugged_row(tx, tree.vip, amphora.id, plugged))
    return plugged


def _plugged_row(tx: Transaction, vip: Vip, amphora_id: str, plugged: VipPlug) -> None:
    """The addresses that upstream's API shows: its own port and address, and copies of the VIP's. vrrp_id is always 1."""
    tx.change_amphora(
        amphora_id,
        vrrp_ip=plugged.vrrp_ip,
        ha_ip=plugged.vip,
        vrrp_port_id=plugged.port_id,
        ha_port_id=vip.port_id,
        vrrp_id=1,
    )


def draft(tx: Transaction, operation: Operation, tree: LoadBalancer | None = None) -> int:
    """Store what is to be rendered as the next revision: the rows, with what is broken replaced by its last good form.

    Args:
        tx: one that holds the load balancer's lock.
        operation: whose revision it is.
        tree: the rows as this transaction has read them under that lock; None reads them.
    """
    assert operation.load_balancer_id is not None
    tree = tree or tx.tree(operation.load_balancer_id)
    if tree is None:
        raise NotFound("load balancer", operation.load_balancer_id)
    # only what is in ERROR is replaced, and a tree of thousands takes its time to read
    broken = any(node.provisioning_status is Provisioning.ERROR for _, node in tree.nodes())
    good = tx.last_good(tree.id) if broken else None
    # What a message names may be an object that it leaves alone; what it changes is PENDING, and so counts anyway.
    asked = () if "request" in operation.arguments else operation.subjects
    wanted = resolve(tree, good.tree if good else None, asked)
    return tx.store_revision(tree.id, wanted, operation.id)


@attrs.frozen(kw_only=True)
class Sent:
    """How a push ended: with what the amphora holds, or with the amphora gone (health has declared it dead).

    `silent`: it did not answer, nobody has declared it dead, and the flow can do without it. `plugged`: the subnets of
    members that it was plugged into for this.
    """

    amphora_id: str
    pushed: Pushed | None
    unserved: Unserved = attrs.field(factory=Unserved)
    silent: bool = False
    plugged: tuple[str, ...] = ()

    @property
    def gone(self) -> bool:
        """The amphora is dead; it has to be replaced rather than told."""
        return self.pushed is None


@attrs.frozen(kw_only=True)
class Manner:
    """How a push is meant.

    Attributes:
        put_back: restore the last good revision when the wish fails.
        everything: fail when any listener cannot be served, not only one that the wish is about.
        spare: another amphora serves too, so that one that does not answer fails nothing: it is `silent`.
    """

    put_back: bool = False
    everything: bool = False
    spare: bool = False


def push(run: Run, world: World, amphora: Amphora, revision: int, how: Manner) -> Sent:
    """Make one amphora serve a revision.

    It fails when a listener that the wish is about cannot be served. An amphora that health has declared dead is not
    asked; one that dies meanwhile is found dead by the next attempt.
    """
    load_balancer_id = amphora.load_balancer_id
    assert load_balancer_id is not None

    def do(key: PushKey) -> Sent:
        alive, wanted, peers = run.read(lambda tx: _push_facts(tx, load_balancer_id, key))
        if not alive:
            return Sent(amphora_id=key.amphora_id, pushed=None)
        try:
            prepared = networks.prepare(run.outlive, world, amphora, wanted, first=key.revision == 1)
            pushed, secrets = _deliver(run, world, amphora, wanted, peers, run.operation.subjects)
        except AmphoraUnreachable:
            if how.spare and run.last_try("push"):
                return Sent(amphora_id=key.amphora_id, pushed=None, silent=True)
            raise
        found = unserved(wanted, secrets, pushed)
        reason = asked_for(run.operation, wanted, found, all_of_them=how.everything)
        if reason is not None:
            raise PermanentError(reason)
        networks.tidy(run.outlive, world, amphora, wanted, prepared)
        return Sent(amphora_id=key.amphora_id, pushed=pushed, unserved=found, plugged=prepared.plugged)

    def undo(key: PushKey, _: Sent | None) -> None:
        alive, good, peers = run.read(lambda tx: _put_back_facts(tx, load_balancer_id, key))
        at = amphora.agent
        if not alive or at is None:
            return
        if good is None:
            world.amphora.remove(at, load_balancer_id)
        else:
            try:
                prepared = networks.prepare(run.outlive, world, amphora, good, first=False)
            except PermanentError:  # what it lost is not what failed here, and hinders nobody to give it the old back
                prepared = networks.Prepared()
            _deliver(run, world, amphora, good, peers)
            networks.tidy(run.outlive, world, amphora, good, prepared)

    sent = run.step(
        "push",
        key=PushKey(amphora.id, revision),
        do=do,
        undo=undo if how.put_back else None,
        result=Sent,
        limit=push_limit(world),
    )
    if sent.plugged:
        text = f"was plugged into {', '.join(f'subnet {subnet}' for subnet in sent.plugged)}, for its members"
        run.later("push-plugged", lambda tx: emit(tx, run.operation, "amphora.plugged", text, amphora_id=amphora.id))
    return sent


def push_limit(world: World) -> float:
    """Seconds that a push may take; where it plugs networks it asks for more."""
    return world.network.time_limit + world.amphora.time_limit


def _push_facts(tx: Transaction, lb: str, key: PushKey) -> tuple[bool, LoadBalancer, tuple[Amphora, ...]]:
    wanted = tx.revision(lb, key.revision)
    if wanted is None:
        raise NotFound("revision", f"{lb}/{key.revision}")
    return alive(tx, key.amphora_id), wanted.tree, _peers(tx, wanted.tree, key.amphora_id)


def _put_back_facts(tx: Transaction, lb: str, key: PushKey) -> tuple[bool, LoadBalancer | None, tuple[Amphora, ...]]:
    good = tx.last_good(lb)
    peers = _peers(tx, good.tree, key.amphora_id) if good else ()
    return alive(tx, key.amphora_id), good.tree if good else None, peers


def alive(tx: Transaction, amphora_id: str) -> bool:
    """Whether it is to stay, and health has not declared it dead."""
    row = tx.amphora(amphora_id)
    if row is None or row.status in (AmphoraStatus.DELETED, AmphoraStatus.PENDING_DELETE):
        return False
    return not declared_dead(tx, amphora_id)


def declared_dead(tx: Transaction, amphora_id: str) -> bool:
    """Whether health has declared it dead."""
    return any(heart.declared_dead for heart in tx.liveness([amphora_id]))


def _peers(tx: Transaction, tree: LoadBalancer, amphora_id: str) -> tuple[Amphora, ...]:
    """The other one of a pair. A single amphora has none, though its successor may be there already."""
    if tree.topology is not Topology.ACTIVE_STANDBY:
        return ()
    return tuple(a for a in tx.amphorae(tree.id) if a.id != amphora_id and a.status is AmphoraStatus.ALLOCATED)


def _deliver(
    run: Run,
    world: World,
    amphora: Amphora,
    tree: LoadBalancer,
    peers: tuple[Amphora, ...],
    asked: tuple[Subject, ...] = (),
) -> tuple[Pushed, Material]:
    at = amphora.agent
    if at is None:
        raise PermanentError(f"amphora {amphora.id} has no management address")
    secrets = material(world, tree, asked, run.age)
    delivery = Delivery(load_balancer=tree, amphora=amphora, peers=peers, material=secrets, fence=run.fence)
    return world.amphora.push(at, delivery), secrets


def first_push(run: Run, world: World, amphora: Amphora, revision: int, *, everything: bool = False) -> Sent:
    """Give a new amphora its configuration. One that has died since it was asked for gets a failover of its own: its
    death was noticed while it was being built, when there was nobody to replace yet. That failover queues behind this.
    """
    sent = push(run, world, amphora, revision, Manner(everything=everything))
    if sent.gone:
        failover = successor(run.operation, amphora)
        run.record("mourn", lambda tx: tx.add_operation(failover).id)
    return sent


def successor(operation: Operation, amphora: Amphora) -> Operation:
    """The failover of an amphora that an operation could not use; it queues behind that one."""
    return Operation(
        id=derived_id(operation.id, f"failover/{amphora.id}"),
        flow="failover",
        load_balancer_id=amphora.load_balancer_id,
        amphora_id=amphora.id,
        subjects=(Subject(Kind.LOAD_BALANCER, amphora.load_balancer_id or ""),),
        internal=True,
        actor="health",
    )


def push_all(
    run: Run, world: World, amphorae: tuple[Amphora, ...], revision: int, *, spare: bool = False
) -> tuple[Sent, ...]:
    """Push a revision to every amphora side by side; when one fails, all get the last good one back."""

    def branch(amphora: Amphora) -> Callable[[Run], Sent]:
        return lambda run: push(run, world, amphora, revision, Manner(put_back=True, spare=spare))

    return tuple(run.parallel({a.id: branch(a) for a in amphorae}).values())


def remove(run: Run, world: World, tree: LoadBalancer, amphora: Amphora) -> None:
    """Remove a server and its ports. Nothing is undone: what is gone is gone, and repeating is harmless."""
    target = amphora.compute_id or f"amphora-{amphora.id}"
    run.step("destroy", key=target, do=world.compute.destroy, limit=world.compute.time_limit)
    run.step("unplug", key=amphora.id, do=lambda _: _unplug(world, tree, amphora), limit=2 * world.network.time_limit)


def _unplug(world: World, tree: LoadBalancer, amphora: Amphora) -> None:
    """Take away every port that the amphora was given."""
    world.network.unplug_vip(tree, amphora)
    if world.network.plugs_members:
        world.network.plug_member_networks(attrs.evolve(tree, listeners=(), pools=()), amphora)


def fail_amphora(tx: Transaction, amphora_id: str, reason: str) -> None:
    """Mark an amphora ERROR, if it still is anything, and say why."""
    row = tx.amphora(amphora_id)
    if row is None or row.status is AmphoraStatus.DELETED:
        return
    tx.settle_amphora(amphora_id, AmphoraEvent.FAIL)
    if row.status is not AmphoraStatus.ERROR:
        text = f"amphora {amphora_id} was {row.status} and is in ERROR: {reason}"
        lb, data = row.load_balancer_id, {"before": str(row.status), "reason": reason}
        tx.emit(Event(name="amphora.error", text=text, load_balancer_id=lb, amphora_id=amphora_id, data=data))
