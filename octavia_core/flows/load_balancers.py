"""Flows of a whole load balancer: create, configure (every change below it), delete, failover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning, Role
from octavia_core.errors import PermanentError
from octavia_core.flows import amphorae, failovers, pairs, spares
from octavia_core.flows.common import PAIR, RESERVE, kept, paired, reserve, roles, tree_of, vip_request
from octavia_core.flows.flow import Flow, emit, fail_subjects
from octavia_core.flows.requests import nothing_to_do
from octavia_core.flows.run import Run
from octavia_core.flows.unserved import settle
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.lifecycle.provisioning import Event
from octavia_core.policy.provider_format import provider_format
from octavia_core.ports.network import VipRequest
from octavia_core.ports.storage import Transaction

__all__ = ["CONFIGURE", "CREATE", "DELETE"]


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
    apart: pairs.Apart | None = None
    """How its amphorae are kept on different hosts; None: they are not, or a server group does it already."""


def _create(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> _Plan:
        tree = tree_of(tx, operation)
        objection = world.network.objection(tree.topology)
        if objection is not None:
            raise PermanentError(objection)
        if paired(tree):
            pairs.agree(tx, tree.id, world.settings)
        vip, request = tree.vip, vip_request(tree)
        old = tuple(tx.amphorae(tree.id)) if operation.arguments.get("again") else ()
        for left in old:
            tx.settle_amphora(left.id, AmphoraEvent.DELETE)
        sites = tuple(spares.planned(tx, amphorae.site(operation, tree, role)) for role in roles(tree))
        return _Plan(
            request=request,
            vip=vip,
            provider=provider_format(tree),
            sites=sites,
            has_listeners=bool(tree.listeners),
            old=old,
            apart=pairs.apart(tree, world.settings) if paired(tree) else None,
        )

    planned = run.record(
        "plan",
        plan,
        lambda tx: failovers.drop(tx, operation),
        result=_Plan,
        ahead=lambda planned: {RESERVE: planned.request},
    )
    lb_id = planned.request.load_balancer_id
    addresses = reserve(run, world, planned.request)

    given = kept(planned.vip, addresses.vip)

    def store(tx: Transaction) -> int | None:
        if given != planned.vip or addresses.additional_vips:
            tx.set_vip(lb_id, given, addresses.additional_vips)
        return amphorae.draft(tx, operation) if planned.has_listeners else None

    revision: int | None = None
    if planned.has_listeners:
        revision = run.record("store-vip", store)
    else:
        run.later("store-vip", store)  # nothing is rendered, so there is no revision to speak of
    root = LoadBalancer(
        id=lb_id, project_id=planned.request.project_id, vip=given, additional_vips=addresses.additional_vips
    )
    for left in planned.old:
        amphorae.remove(run.scope(f"old-{left.id}"), world, root, left)

    sites = pairs.keep_apart(run, world, planned.apart, planned.sites)
    together = len(sites) > 1

    def build(branch: Run, where: amphorae.Site) -> pairs.Newcomer:
        amphora = spares.ready(branch, world, spares.begin(branch, world, where))
        subnet = amphorae.plug(branch, world, root, amphora)
        amphora = attrs.evolve(amphora, vrrp_ip=subnet.vrrp_ip)
        if revision is not None and not together:
            amphorae.first_push(branch, world, amphora, revision, everything=True)
        return pairs.Newcomer(amphora, subnet)

    def branch(where: amphorae.Site) -> Callable[[Run], pairs.Newcomer]:
        return lambda branch: build(branch, where)

    newcomers = run.parallel({str(where.role).lower(): branch(where) for where in sites})
    if together:  # each is told of the other's address, so both have to have one first
        pairs.serve_together(run, world, newcomers, revision, everything=True)

    def finish(tx: Transaction) -> None:
        for left in planned.old:
            tx.settle_amphora(left.id, AmphoraEvent.DELETED)
            tx.forget_health(left.id)
        if revision is not None:
            tx.mark_good(lb_id, revision)
        tx.settle_tree(lb_id, succeeded=True)
        told = {**planned.provider, "vip_address": given.ip_address, "vip_port_id": given.port_id}
        served = (addresses.vip.ip_address, *(more.ip_address for more in addresses.additional_vips))
        text = f"created, serving on {', '.join(map(str, served))}"
        emit(tx, operation, "load_balancer.active", text, change="create", provider=told)

    run.finish(finish)


def _failed(tx: Transaction, operation: Operation, reason: str) -> None:
    assert operation.load_balancer_id is not None
    for amphora in tx.amphorae(operation.load_balancer_id):
        if amphora.status is AmphoraStatus.PENDING_DELETE:
            amphorae.fail_amphora(tx, amphora.id, reason)
    fail_subjects(tx, operation, reason)


def _configure(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> _Target:
        tree = tree_of(tx, operation)
        revision = amphorae.draft(tx, operation, tree)
        serving = tuple(a for a in tx.amphorae(operation.load_balancer_id) if a.status in amphorae.SERVING)
        if not serving:
            raise PermanentError(
                f"load balancer {operation.load_balancer_id} has no amphora that serves; "
                f"run: octavia-admin lb failover {operation.load_balancer_id}"
            )
        root: LoadBalancer | None = None
        if any(amphora.role in PAIR for amphora in serving):
            root = attrs.evolve(tree, listeners=(), pools=())
        errors = any(listener.provisioning_status is Provisioning.ERROR for listener in tree.listeners)
        return _Target(revision=revision, amphorae=serving, pair=root, errors=errors)

    def pushes(target: _Target) -> dict[str, amphorae.PushKey]:
        return {f"{a.id}/push": amphorae.PushKey(a.id, target.revision) for a in target.amphorae}

    target = run.record("plan", plan, result=_Target, ahead=pushes, limit=amphorae.push_limit(world))
    sent = amphorae.push_all(run, world, target.amphorae, target.revision, spare=len(target.amphorae) > 1)
    gone = {one.amphora_id for one in sent if one.gone}
    silent = tuple(a for a in target.amphorae if any(one.silent for one in sent if one.amphora_id == a.id))
    troubles = [one.unserved for one in sent]
    rebuild: failovers.Rebuild | None = None
    rebuilt = failovers.Replaced((), ())
    if len(gone) == len(target.amphorae) and silent:
        # Nobody has declared them dead, so it may be that it is we who are cut off: nothing is replaced for that.
        run.record("nobody-answers", lambda tx: _nobody_answers(target.amphorae))
    if len(gone) == len(target.amphorae) and target.pair is not None:
        # One is replaced right here and carries the wish out; the failover of the other was asked for and is next.
        lost, root = target.amphorae[0], target.pair

        def choose(tx: Transaction) -> amphorae.Site:
            emit(tx, operation, "failover.started", f"replacing amphora {lost.id}", amphora_id=lost.id)
            return spares.wanted(tx, amphorae.site(operation, root, lost.role or Role.MASTER))

        where = run.record("replace", choose, result=amphorae.Site)
        scope = run.scope("replacement")
        replaced = pairs.replace(scope, world, where, (lost,), root, target.revision, for_good=False)
        troubles += replaced.unserved
    elif len(gone) == len(target.amphorae):
        # Nobody serves: the wish is carried out by replacing the dead right here. The failover that health has asked
        # for finds nothing left to do.
        dead = tuple(a for a in target.amphorae if a.id in gone)

        def prepare(tx: Transaction) -> failovers.Rebuild:
            return failovers.prepare(tx, operation, tree_of(tx, operation), dead, target.revision)

        rebuild = run.record("replace", prepare, lambda tx: failovers.drop(tx, operation), result=failovers.Rebuild)
        rebuilt = failovers.replace(run, world, rebuild)
        troubles += rebuilt.unserved

    def finish(tx: Transaction) -> None:
        assert operation.load_balancer_id is not None
        if rebuild is not None:
            failovers.retire(tx, rebuild, rebuilt)
        for amphora in silent:
            failovers.replace_next(tx, operation, amphora)
        tx.mark_good(operation.load_balancer_id, target.revision)
        failed = settle(tx, operation, troubles, errors=target.errors)
        tx.settle_tree(operation.load_balancer_id, failed=failed, succeeded=True)
        what = ", ".join(f"{s.kind.words} {s.id}" for s in operation.subjects)
        more = _told(tx, operation, target.revision)
        emit(tx, operation, "load_balancer.active", f"changed: {what}", revision=target.revision, **more)

    run.finish(finish)


def _nobody_answers(asked: tuple[Amphora, ...]) -> None:
    names = ", ".join(amphora.id for amphora in asked)
    raise PermanentError(f"no amphora of the pair answers ({names}); the change was not carried out")


def _told(tx: Transaction, operation: Operation, revision: int) -> dict[str, Any]:
    """What those who listen for changes of load balancers themselves are told; nothing of changes below one."""
    assert operation.load_balancer_id is not None
    if Subject(Kind.LOAD_BALANCER, operation.load_balancer_id) not in operation.subjects:
        return {}
    drafted = tx.revision(operation.load_balancer_id, revision)
    return {"change": "update", "provider": provider_format(drafted.tree)} if drafted else {}


@attrs.frozen(kw_only=True)
class _Target:
    """A revision, and who shall serve it. `pair`: the load balancer itself, when a pair is to serve it. `errors`: some
    listener was in ERROR, and may be served again by this.
    """

    revision: int
    amphorae: tuple[Amphora, ...]
    pair: LoadBalancer | None = None
    errors: bool = True


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
        tree = tree_of(tx, operation)
        bare = attrs.evolve(tree, listeners=(), pools=())
        doomed = tuple(tx.amphorae(tree.id))
        for amphora in doomed:
            tx.settle_amphora(amphora.id, AmphoraEvent.DELETE)
        return _Doomed(tree=bare, amphorae=doomed)

    doomed = run.record("plan", plan, result=_Doomed)
    group = doomed.tree.server_group_id
    if group is not None:
        run.step("server-group", key=group, do=world.compute.remove_server_group, limit=world.compute.time_limit)

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
        tree = tree_of(tx, operation)
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


CREATE = Flow(name="create", body=_create, give_up=_failed, words="create load balancer")
CONFIGURE = Flow(name="configure", body=_configure, give_up=_failed, words="change load balancer")
DELETE = Flow(name="delete", body=_delete, give_up=failovers.failed, words="delete load balancer")
