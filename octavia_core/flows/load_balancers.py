"""Flows of a whole load balancer: create, configure (every change below it), delete, failover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Event as Happening
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning, Role, Topology
from octavia_core.errors import NotFound, PermanentError
from octavia_core.flows import amphorae
from octavia_core.flows.flow import Flow, emit, fail_subjects
from octavia_core.flows.requests import nothing_to_do
from octavia_core.flows.run import Run
from octavia_core.flows.unserved import Unserved, settle
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.lifecycle.provisioning import Event
from octavia_core.policy.provider_format import provider_format
from octavia_core.ports.network import AddressPlan, VipRequest
from octavia_core.ports.storage import Transaction

__all__ = ["CONFIGURE", "CREATE", "DELETE", "FAILOVER"]


@attrs.frozen(kw_only=True)
class _Plan:
    """What a creation starts from."""

    request: VipRequest
    vip: Vip
    provider: dict[str, Any] = attrs.field(factory=dict)
    sites: tuple[amphorae.Site, ...]
    has_listeners: bool
    old: tuple[Amphora, ...] = ()
    """What an attempt left that was lost or released half-way; normally nothing."""


def _tree(tx: Transaction, operation: Operation) -> LoadBalancer:
    assert operation.load_balancer_id is not None
    tree = tx.tree(operation.load_balancer_id)
    if tree is None:
        raise NotFound("load balancer", operation.load_balancer_id)
    return tree


def _roles(topology: Topology) -> tuple[Role, ...]:
    return (Role.STANDALONE,) if topology is Topology.SINGLE else (Role.MASTER, Role.BACKUP)


def _vip_request(tree: LoadBalancer) -> VipRequest:
    return VipRequest(
        load_balancer_id=tree.id,
        project_id=tree.project_id,
        ip_address=tree.vip.ip_address,
        port_id=tree.vip.port_id,
        subnet_id=tree.vip.subnet_id,
        network_id=tree.vip.network_id,
    )


def _reserve(run: Run, world: World, request: VipRequest) -> AddressPlan:
    return run.step(
        "reserve-vip",
        key=request,
        do=world.network.reserve_vip,
        undo=lambda request, got: world.network.release_vip(request.load_balancer_id, got.vip if got else None),
        result=AddressPlan,
        limit=world.network.time_limit,
    )


def _create(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> _Plan:
        tree = _tree(tx, operation)
        vip, request = tree.vip, _vip_request(tree)
        sites = tuple(amphorae.site(operation, tree, role) for role in _roles(tree.topology))
        old = tuple(tx.amphorae(tree.id)) if operation.arguments.get("again") else ()
        for left in old:
            tx.settle_amphora(left.id, AmphoraEvent.DELETE)
        for where in sites:
            amphorae.insert_amphora(tx, where)
        return _Plan(
            request=request,
            vip=vip,
            provider=provider_format(tree),
            sites=sites,
            has_listeners=bool(tree.listeners),
            old=old,
        )

    planned = run.record("plan", plan, lambda tx: _drop(tx, operation), result=_Plan)
    lb_id = planned.request.load_balancer_id
    addresses = _reserve(run, world, planned.request)

    given = _kept(planned.vip, addresses.vip)

    def store(tx: Transaction) -> int | None:
        if given != planned.vip or addresses.additional_vips:
            tx.set_vip(lb_id, given, addresses.additional_vips)
        return amphorae.draft(tx, operation) if planned.has_listeners else None

    revision: int | None = None
    if planned.has_listeners:
        revision = run.record("store-vip", store)
    else:
        run.later("store-vip", store)  # nothing is rendered, so there is no revision to speak of
    for left in planned.old:
        tree = LoadBalancer(id=lb_id, project_id=planned.request.project_id, vip=addresses.vip)
        amphorae.remove(run.scope(f"old-{left.id}"), world, tree, left)

    def build(branch: Run, where: amphorae.Site) -> None:
        booted = amphorae.boot(branch, world, where)
        branch.record("booting", lambda tx: amphorae.booted_row(tx, where, booted))
        amphora = amphorae.allocate(branch, world, where, booted)
        root = LoadBalancer(id=lb_id, project_id=planned.request.project_id, vip=given)
        amphorae.plug(branch, world, root, amphora)
        if revision is not None:
            amphorae.first_push(branch, world, amphora, revision, everything=True)

    def branch(where: amphorae.Site) -> Callable[[Run], None]:
        return lambda branch: build(branch, where)

    run.parallel({str(where.role).lower(): branch(where) for where in planned.sites})

    def finish(tx: Transaction) -> None:
        for left in planned.old:
            tx.settle_amphora(left.id, AmphoraEvent.DELETED)
            tx.forget_health(left.id)
        if revision is not None:
            tx.mark_good(lb_id, revision)
        tx.settle_tree(lb_id, succeeded=True)
        told = {**planned.provider, "vip_address": given.ip_address, "vip_port_id": given.port_id}
        text = f"created, serving on {addresses.vip.ip_address}"
        emit(tx, operation, "load_balancer.active", text, change="create", provider=told)

    run.finish(finish)


def _kept(asked: Vip, got: Vip) -> Vip:
    """What the network gave, with what only the row knows. Whoever made the port has said whose it is."""
    owned = asked.octavia_owned if asked.port_id is not None and asked.port_id == got.port_id else got.octavia_owned
    return attrs.evolve(
        got, octavia_owned=owned, qos_policy_id=asked.qos_policy_id, vnic_type=asked.vnic_type, sg_ids=asked.sg_ids
    )


def _failed_create(tx: Transaction, operation: Operation, reason: str) -> None:
    assert operation.load_balancer_id is not None
    for amphora in tx.amphorae(operation.load_balancer_id):
        if amphora.status is AmphoraStatus.PENDING_DELETE:
            amphorae.fail_amphora(tx, amphora.id)
    fail_subjects(tx, operation, reason)


def _configure(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> _Target:
        revision = amphorae.draft(tx, operation)
        serving = tuple(a for a in tx.amphorae(operation.load_balancer_id) if a.status in _SERVING)
        if not serving:
            raise PermanentError(
                f"load balancer {operation.load_balancer_id} has no amphora that serves; "
                f"run: octavia-admin lb failover {operation.load_balancer_id}"
            )
        return _Target(revision=revision, amphorae=serving)

    target = run.record("plan", plan, result=_Target)
    sent = amphorae.push_all(run, world, target.amphorae, target.revision)
    gone = {one.amphora_id for one in sent if one.gone}
    troubles = [one.unserved for one in sent]
    rebuild: _Rebuild | None = None
    if len(gone) == len(target.amphorae):
        # Nobody serves: the wish is carried out by replacing the dead right here. The failover that health has asked
        # for finds nothing left to do. (A pair goes on with one; its failover is next.)
        dead = tuple(a for a in target.amphorae if a.id in gone)

        def prepare(tx: Transaction) -> _Rebuild:
            return _prepare(tx, operation, _tree(tx, operation), dead, target.revision)

        rebuild = run.record("replace", prepare, lambda tx: _drop(tx, operation), result=_Rebuild)
        troubles += _replace(run, world, rebuild)

    def finish(tx: Transaction) -> None:
        assert operation.load_balancer_id is not None
        if rebuild is not None:
            _retire(tx, rebuild)
        tx.mark_good(operation.load_balancer_id, target.revision)
        failed = settle(tx, operation, troubles)
        tx.settle_tree(operation.load_balancer_id, failed=failed, succeeded=True)
        what = ", ".join(f"{s.kind.words} {s.id}" for s in operation.subjects)
        more = _told(tx, operation, target.revision)
        emit(tx, operation, "load_balancer.active", f"changed: {what}", revision=target.revision, **more)

    run.finish(finish)


def _told(tx: Transaction, operation: Operation, revision: int) -> dict[str, Any]:
    """What those who listen for changes of load balancers themselves are told; nothing of changes below one."""
    assert operation.load_balancer_id is not None
    if Subject(Kind.LOAD_BALANCER, operation.load_balancer_id) not in operation.subjects:
        return {}
    drafted = tx.revision(operation.load_balancer_id, revision)
    return {"change": "update", "provider": provider_format(drafted.tree)} if drafted else {}


@attrs.frozen(kw_only=True)
class _Target:
    """A revision, and who shall serve it."""

    revision: int
    amphorae: tuple[Amphora, ...]


_SERVING = (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED)


@attrs.frozen(kw_only=True)
class _Doomed:
    """What a deletion removes."""

    tree: LoadBalancer
    amphorae: tuple[Amphora, ...]


def _delete(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> _Doomed:
        tree = _tree(tx, operation)
        bare = attrs.evolve(tree, listeners=(), pools=())
        doomed = tuple(tx.amphorae(tree.id))
        for amphora in doomed:
            tx.settle_amphora(amphora.id, AmphoraEvent.DELETE)
        return _Doomed(tree=bare, amphorae=doomed)

    doomed = run.record("plan", plan, result=_Doomed)

    def branch(amphora: Amphora) -> Callable[[Run], None]:
        return lambda branch: amphorae.remove(branch, world, doomed.tree, amphora)

    run.parallel({amphora.id: branch(amphora) for amphora in doomed.amphorae})
    run.step(
        "release-vip",
        key=doomed.tree.id,
        do=lambda lb_id: world.network.release_vip(lb_id, doomed.tree.vip),
        limit=world.network.time_limit,
    )

    def finish(tx: Transaction) -> None:
        tree = _tree(tx, operation)
        for kind, node in tree.nodes():
            tx.delete(kind, node.id)
        for amphora in doomed.amphorae:
            tx.settle_amphora(amphora.id, AmphoraEvent.DELETED)
            tx.forget_health(amphora.id)
        tx.settle(Kind.LOAD_BALANCER, tree.id, Event.SUCCEED)
        told = provider_format(doomed.tree)
        text = "deleted, with its amphorae and its address"
        emit(tx, operation, "load_balancer.deleted", text, change="delete", provider=told)

    run.finish(finish)


def _failover(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> _Rebuild:
        tree = _tree(tx, operation)
        nothing = _Rebuild(tree=attrs.evolve(tree, listeners=(), pools=()))
        if tree.provisioning_status is Provisioning.DELETED:
            return nothing
        old = tuple(tx.amphorae(tree.id))
        if operation.amphora_id is not None:
            old = tuple(a for a in old if a.id == operation.amphora_id)
            if not old:
                _settle_nothing(tx, tree)
                return nothing
        if not tree.provisioning_status.pending:
            tx.settle(Kind.LOAD_BALANCER, tree.id, Event.ACCEPT_FAILOVER)
        # One that never worked gave its address back when its creation was undone.
        request = None if tx.last_good(tree.id) else _vip_request(tree)
        found = _prepare(tx, operation, tree, old, amphorae.draft(tx, operation))
        return attrs.evolve(found, request=request)

    rebuild = run.record("plan", plan, lambda tx: _drop(tx, operation), result=_Rebuild)
    if rebuild.revision is None:
        run.finish(lambda tx: emit(tx, operation, "failover.unneeded", "the amphora is gone already; nothing to do"))
        return
    revision, lb_id = rebuild.revision, rebuild.tree.id
    if rebuild.request is not None:
        addresses = _reserve(run, world, rebuild.request)
        vip = _kept(rebuild.tree.vip, addresses.vip)
        run.record("store-vip", lambda tx: tx.set_vip(lb_id, vip, addresses.additional_vips))
    troubles = _replace(run, world, rebuild)
    if rebuild.peers:
        sent = amphorae.push_all(run.scope("peers"), world, rebuild.peers, revision)
        troubles += [one.unserved for one in sent]

    def finish(tx: Transaction) -> None:
        _retire(tx, rebuild)
        tx.mark_good(lb_id, revision)
        tx.settle_tree(lb_id, failed=settle(tx, operation, troubles), succeeded=True)

    run.finish(finish)


def _prepare(
    tx: Transaction, operation: Operation, tree: LoadBalancer, old: tuple[Amphora, ...], revision: int
) -> _Rebuild:
    """Decide who replaces whom; the rows of the new amphorae come first, the old ones are marked to go."""
    roles = tuple(a.role or Role.STANDALONE for a in old) or _roles(tree.topology)
    sites = tuple(amphorae.site(operation, tree, role) for role in dict.fromkeys(roles))
    for where in sites:
        amphorae.insert_amphora(tx, where)
    for amphora in old:
        tx.settle_amphora(amphora.id, AmphoraEvent.DELETE)
    leaving = {amphora.id for amphora in old}
    peers = tuple(a for a in tx.amphorae(tree.id) if a.status is AmphoraStatus.ALLOCATED and a.id not in leaving)
    text = f"replacing amphora {', '.join(sorted(leaving))}" if leaving else "building an amphora; there was none"
    emit(tx, operation, "failover.started", text, amphora_id=operation.amphora_id)
    bare = attrs.evolve(tree, listeners=(), pools=())
    return _Rebuild(tree=bare, old=old, sites=sites, peers=peers, revision=revision)


def _drop(tx: Transaction, operation: Operation) -> None:
    """Undo of `_prepare`: whatever this operation was building is DELETED."""
    tree = _tree(tx, operation)
    for role in Role:
        amphorae.drop_amphora(tx, amphorae.site(operation, tree, role).amphora_id)


def _replace(run: Run, world: World, rebuild: _Rebuild) -> list[Unserved]:
    """Build the replacements one after the other, each in its predecessor's place; gives what they do not serve."""
    assert rebuild.revision is not None
    return [
        _replace_one(run.scope(str(where.role).lower()), world, rebuild, index)
        for index, where in enumerate(rebuild.sites)
    ]


def _replace_one(run: Run, world: World, rebuild: _Rebuild, index: int) -> Unserved:
    where, revision = rebuild.sites[index], rebuild.revision
    assert revision is not None
    booted = amphorae.boot(run, world, where)
    run.record("booting", lambda tx: amphorae.booted_row(tx, where, booted))
    # The old one holds the VIP, frozen or half dead as it may be: it goes while the new one starts.
    for old in _leaving(rebuild, index):
        amphorae.remove(run.scope(f"old-{old.id}"), world, rebuild.tree, old)
    amphora = amphorae.allocate(run, world, where, booted)
    amphorae.plug(run, world, rebuild.tree, amphora)
    return amphorae.first_push(run, world, amphora, revision).unserved


def _retire(tx: Transaction, rebuild: _Rebuild) -> None:
    """The end of those that were replaced."""
    for old in rebuild.old:
        tx.settle_amphora(old.id, AmphoraEvent.DELETED)
        tx.forget_health(old.id)
    new = ", ".join(where.amphora_id for where in rebuild.sites)
    tx.emit(
        Happening(
            name="failover.finished",
            text=f"amphora {new} serves",
            load_balancer_id=rebuild.tree.id,
            data={"new": [where.amphora_id for where in rebuild.sites], "old": [old.id for old in rebuild.old]},
        )
    )


def _settle_nothing(tx: Transaction, tree: LoadBalancer) -> None:
    """A failover of what is gone already still releases the load balancer that was locked for it."""
    if tree.provisioning_status is Provisioning.PENDING_UPDATE:
        tx.settle_tree(tree.id, succeeded=True)


@attrs.frozen(kw_only=True)
class _Rebuild:
    """What a failover replaces; `revision` None means there is nothing to do."""

    tree: LoadBalancer
    old: tuple[Amphora, ...] = ()
    sites: tuple[amphorae.Site, ...] = ()
    peers: tuple[Amphora, ...] = ()
    revision: int | None = None
    request: VipRequest | None = None


def _leaving(rebuild: _Rebuild, index: int) -> tuple[Amphora, ...]:
    """The old amphorae that make room for the replacement at `index`: one each, the last one takes all that remain."""
    last = index == len(rebuild.sites) - 1
    return rebuild.old[index:] if last else rebuild.old[index : index + 1]


def _failed_failover(tx: Transaction, operation: Operation, reason: str) -> None:
    assert operation.load_balancer_id is not None
    for amphora in tx.amphorae(operation.load_balancer_id):
        if amphora.status is AmphoraStatus.PENDING_DELETE:
            amphorae.fail_amphora(tx, amphora.id)
    tree = tx.tree(operation.load_balancer_id)
    if tree is not None and tree.provisioning_status.pending:
        fail_subjects(tx, operation, reason)


CREATE = Flow(name="create", body=_create, give_up=_failed_create, words="create load balancer")
CONFIGURE = Flow(name="configure", body=_configure, give_up=fail_subjects, words="change load balancer")
DELETE = Flow(name="delete", body=_delete, give_up=_failed_failover, words="delete load balancer")
FAILOVER = Flow(name="failover", body=_failover, give_up=_failed_failover, words="failover")
