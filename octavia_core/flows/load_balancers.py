"""Flows of a whole load balancer: create, configure (every change below it), delete, failover."""

from __future__ import annotations

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning, Role, Topology
from octavia_core.errors import NotFound, PermanentError
from octavia_core.flows import amphorae
from octavia_core.flows.flow import Flow, emit, fail_subjects
from octavia_core.flows.run import Run
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.lifecycle.provisioning import Event
from octavia_core.ports.network import AddressPlan, VipRequest
from octavia_core.ports.storage import Transaction

__all__ = ["CONFIGURE", "CREATE", "DELETE", "FAILOVER"]


@attrs.frozen(kw_only=True)
class _Plan:
    """What a creation starts from."""

    request: VipRequest
    sites: tuple[amphorae.Site, ...]
    has_listeners: bool


def _tree(tx: Transaction, operation: Operation) -> LoadBalancer:
    assert operation.load_balancer_id is not None
    tree = tx.tree(operation.load_balancer_id)
    if tree is None:
        raise NotFound("load balancer", operation.load_balancer_id)
    return tree


def _roles(topology: Topology) -> tuple[Role, ...]:
    return (Role.STANDALONE,) if topology is Topology.SINGLE else (Role.MASTER, Role.BACKUP)


def _create(run: Run, world: World) -> None:
    operation = run.operation

    def plan(tx: Transaction) -> _Plan:
        tree = _tree(tx, operation)
        vip = tree.vip
        request = VipRequest(
            load_balancer_id=tree.id,
            project_id=tree.project_id,
            ip_address=vip.ip_address,
            port_id=vip.port_id,
            subnet_id=vip.subnet_id,
            network_id=vip.network_id,
        )
        sites = tuple(amphorae.site(operation, tree, role) for role in _roles(tree.topology))
        for where in sites:
            amphorae.insert_amphora(tx, where)
        return _Plan(request=request, sites=sites, has_listeners=bool(tree.listeners))

    def drop(tx: Transaction) -> None:
        for where in (amphorae.site(operation, _tree(tx, operation), role) for role in Role):
            amphorae.drop_amphora(tx, where.amphora_id)

    planned = run.record("plan", plan, drop, result=_Plan)
    lb_id = planned.request.load_balancer_id
    addresses = run.step(
        "reserve-vip",
        key=planned.request,
        do=world.network.reserve_vip,
        undo=lambda request, got: world.network.release_vip(request.load_balancer_id, got.vip if got else None),
        result=AddressPlan,
        limit=world.network.time_limit,
    )

    def store(tx: Transaction) -> int:
        tx.set_vip(lb_id, addresses.vip, addresses.additional_vips)
        return amphorae.draft(tx, operation)

    revision = run.record("store-vip", store)

    def build(branch: Run, where: amphorae.Site) -> None:
        booted = amphorae.boot(branch, world, where)
        branch.record("booting", lambda tx: amphorae.booted_row(tx, where, booted))
        amphora = amphorae.allocate(branch, world, where, booted)
        amphorae.plug(branch, world, lb_id, amphora)
        if planned.has_listeners:
            amphorae.push(branch, world, amphora, revision, put_back=False)

    run.parallel({str(w.role).lower(): lambda b, w=w: build(b, w) for w in planned.sites})  # type: ignore[misc]

    def finish(tx: Transaction) -> None:
        tx.mark_good(lb_id, revision)
        tx.settle_tree(lb_id, succeeded=True)
        emit(tx, operation, "load_balancer.active", f"created, serving on {addresses.vip.ip_address}")

    run.finish(finish)


def _failed_create(tx: Transaction, operation: Operation, reason: str) -> None:
    fail_subjects(tx, operation, reason)


def _configure(run: Run, world: World) -> None:
    operation = run.operation

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
    amphorae.push_all(run, world, target.amphorae, target.revision)

    def finish(tx: Transaction) -> None:
        assert operation.load_balancer_id is not None
        tx.mark_good(operation.load_balancer_id, target.revision)
        tx.settle_tree(operation.load_balancer_id, succeeded=True)
        what = ", ".join(f"{s.kind.words} {s.id}" for s in operation.subjects)
        emit(tx, operation, "load_balancer.active", f"changed: {what}", revision=target.revision)

    run.finish(finish)


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

    def plan(tx: Transaction) -> _Doomed:
        tree = _tree(tx, operation)
        bare = attrs.evolve(tree, listeners=(), pools=())
        doomed = tuple(tx.amphorae(tree.id))
        for amphora in doomed:
            tx.settle_amphora(amphora.id, AmphoraEvent.DELETE)
        return _Doomed(tree=bare, amphorae=doomed)

    doomed = run.record("plan", plan, result=_Doomed)
    run.parallel(
        {a.id: lambda b, a=a: amphorae.remove(b, world, doomed.tree, a) for a in doomed.amphorae}  # type: ignore[misc]
    )
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
        emit(tx, operation, "load_balancer.deleted", "deleted, with its amphorae and its address")

    run.finish(finish)


def _failover(run: Run, world: World) -> None:
    operation = run.operation

    def plan(tx: Transaction) -> _Rebuild:
        tree = _tree(tx, operation)
        if tree.provisioning_status is Provisioning.DELETED:
            return _Rebuild(tree=attrs.evolve(tree, listeners=(), pools=()))
        old = tuple(tx.amphorae(tree.id))
        if operation.amphora_id is not None:
            old = tuple(a for a in old if a.id == operation.amphora_id)
            if not old:
                _settle_nothing(tx, tree)
                return _Rebuild(tree=attrs.evolve(tree, listeners=(), pools=()))
        if not tree.provisioning_status.pending:
            tx.settle(Kind.LOAD_BALANCER, tree.id, Event.ACCEPT_FAILOVER)
        roles = tuple(a.role or Role.STANDALONE for a in old) or _roles(tree.topology)
        sites = tuple(amphorae.site(operation, tree, role) for role in dict.fromkeys(roles))
        for where in sites:
            amphorae.insert_amphora(tx, where)
        for amphora in old:
            tx.settle_amphora(amphora.id, AmphoraEvent.DELETE)
        emit(tx, operation, "failover.started", f"replacing {len(old)} amphora(e)", amphora_id=operation.amphora_id)
        peers = tuple(
            a for a in tx.amphorae(tree.id) if a.status is AmphoraStatus.ALLOCATED and a.id not in {o.id for o in old}
        )
        revision = amphorae.draft(tx, operation)
        bare = attrs.evolve(tree, listeners=(), pools=())
        return _Rebuild(tree=bare, old=old, sites=sites, peers=peers, revision=revision)

    def drop(tx: Transaction) -> None:
        for role in Role:
            amphorae.drop_amphora(tx, amphorae.site(operation, _tree(tx, operation), role).amphora_id)

    rebuild = run.record("plan", plan, drop, result=_Rebuild)
    if rebuild.revision is None:
        run.finish(lambda tx: emit(tx, operation, "failover.unneeded", "the amphora is gone already; nothing to do"))
        return
    revision, lb_id = rebuild.revision, rebuild.tree.id
    for index, where in enumerate(rebuild.sites):
        scope = run.scope(str(where.role).lower())
        booted = amphorae.boot(scope, world, where)
        scope.record("booting", lambda tx, w=where, b=booted: amphorae.booted_row(tx, w, b))  # type: ignore[misc]
        # The old one holds the VIP, frozen or half dead as it may be: it goes while the new one starts.
        for old in _leaving(rebuild, index):
            amphorae.remove(scope.scope(f"old-{old.id}"), world, rebuild.tree, old)
        amphora = amphorae.allocate(scope, world, where, booted)
        amphorae.plug(scope, world, lb_id, amphora)
        amphorae.push(scope, world, amphora, revision, put_back=False)
    if rebuild.peers:
        amphorae.push_all(run.scope("peers"), world, rebuild.peers, revision)

    def finish(tx: Transaction) -> None:
        for old in rebuild.old:
            tx.settle_amphora(old.id, AmphoraEvent.DELETED)
            tx.forget_health(old.id)
        tx.mark_good(lb_id, revision)
        tx.settle_tree(lb_id, succeeded=True)
        emit(tx, operation, "failover.finished", f"{len(rebuild.sites)} amphora(e) rebuilt", revision=revision)

    run.finish(finish)


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
DELETE = Flow(name="delete", body=_delete, give_up=fail_subjects, words="delete load balancer")
FAILOVER = Flow(name="failover", body=_failover, give_up=_failed_failover, words="failover")
