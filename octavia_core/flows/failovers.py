"""The flow that replaces amphorae: one that is lost, or all that a load balancer has."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Event as Happening
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning, Role
from octavia_core.flows import amphorae, pairs, spares
from octavia_core.flows.common import PAIR, kept, paired, reserve, roles, tree_of, vip_request
from octavia_core.flows.flow import Flow, emit, fail_subjects
from octavia_core.flows.requests import nothing_to_do
from octavia_core.flows.run import Run
from octavia_core.flows.unserved import Unserved, settle
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.lifecycle.provisioning import Event
from octavia_core.ports.network import VipRequest
from octavia_core.ports.storage import Transaction

__all__ = ["FAILOVER", "Rebuild", "Replaced", "drop", "failed", "prepare", "replace", "replace_next", "retire"]


def _failover(run: Run, world: World) -> None:
    operation = run.operation
    if nothing_to_do(run):
        return

    def plan(tx: Transaction) -> Rebuild:
        itself = Subject(Kind.LOAD_BALANCER, str(operation.load_balancer_id))
        status = tx.provisioning((itself,)).get(itself)
        old = tuple(tx.amphorae(itself.id))
        if operation.amphora_id is not None:
            old = tuple(a for a in old if a.id == operation.amphora_id)
        gone = status is Provisioning.DELETED or (operation.amphora_id is not None and not old)
        if status is not None and not gone and not status.pending:
            tx.settle(Kind.LOAD_BALANCER, itself.id, Event.ACCEPT_FAILOVER)  # nobody else changes anything from now on
        tree = tree_of(tx, operation)
        if gone:
            _settle_nothing(tx, tree)
            return Rebuild(tree=attrs.evolve(tree, listeners=(), pools=()))
        # One that never worked gave its addresses back when its creation was undone: it gets them before it is drafted.
        request = None if tx.last_good(tree.id) else vip_request(tree)
        revision = amphorae.draft(tx, operation, tree) if request is None else _TO_DRAFT
        if paired(tree):
            return attrs.evolve(_prepare_pair(tx, operation, tree, old, world), request=request, revision=revision)
        return attrs.evolve(prepare(tx, operation, tree, old, revision), request=request)

    rebuild = run.record("plan", plan, lambda tx: drop(tx, operation), result=Rebuild)
    if rebuild.revision is None:
        run.finish(lambda tx: emit(tx, operation, "failover.unneeded", "the amphora is gone already; nothing to do"))
        return
    revision, lb_id = rebuild.revision, rebuild.tree.id
    if rebuild.request is not None:
        addresses = reserve(run, world, rebuild.request)
        vip, more = kept(rebuild.tree.vip, addresses.vip), addresses.additional_vips

        def store(tx: Transaction) -> int:
            tx.set_vip(lb_id, vip, more)
            return amphorae.draft(tx, operation)

        revision = run.record("store-vip", store) or revision  # an older release had drafted it before
        served = attrs.evolve(rebuild.tree, vip=vip, additional_vips=more)
        rebuild = attrs.evolve(rebuild, tree=served, revision=revision)
    if paired(rebuild.tree):
        _failover_pair(run, world, rebuild)
        return
    replaced = replace(run, world, rebuild)
    troubles = list(replaced.unserved)
    if rebuild.peers:
        sent = amphorae.push_all(run.scope("peers"), world, rebuild.peers, revision)
        troubles += [one.unserved for one in sent]

    def finish(tx: Transaction) -> None:
        retire(tx, rebuild, replaced)
        tx.mark_good(lb_id, revision)
        tx.settle_tree(lb_id, failed=settle(tx, operation, troubles), succeeded=True)

    run.finish(finish)


def prepare(
    tx: Transaction, operation: Operation, tree: LoadBalancer, old: tuple[Amphora, ...], revision: int
) -> Rebuild:
    """Decide who replaces whom; rows of amphorae that are built come first, those of the dead are marked to go."""
    wanted = tuple(a.role or Role.STANDALONE for a in old) or roles(tree)
    sites = tuple(spares.planned(tx, amphorae.site(operation, tree, role)) for role in dict.fromkeys(wanted))
    dead = tuple(amphora.id for amphora in old if amphorae.declared_dead(tx, amphora.id))
    for id in dead:
        tx.settle_amphora(id, AmphoraEvent.DELETE)
    leaving = {amphora.id for amphora in old}
    peers = tuple(a for a in tx.amphorae(tree.id) if a.status is AmphoraStatus.ALLOCATED and a.id not in leaving)
    text = f"replacing amphora {', '.join(sorted(leaving))}" if leaving else "building an amphora; there was none"
    emit(tx, operation, "failover.started", text, amphora_id=operation.amphora_id)
    bare = attrs.evolve(tree, listeners=(), pools=())
    return Rebuild(tree=bare, old=old, dead=dead, sites=sites, peers=peers, revision=revision)


def _prepare_pair(
    tx: Transaction, operation: Operation, tree: LoadBalancer, old: tuple[Amphora, ...], world: World
) -> Rebuild:
    """The same for a pair: which roles are to be filled. Rows are moved as each one's turn comes."""
    pairs.agree(tx, tree.id, world.settings)
    wanted: list[Role] = list(PAIR)
    if operation.amphora_id is not None:
        there = {a.role for a in tx.amphorae(tree.id) if a.id != operation.amphora_id and a.status in amphorae.SERVING}
        wanted = [role for role in PAIR if role not in there]
        wanted = [role for role in wanted if role in {a.role for a in old}] or wanted or list(PAIR)
    replaced = ", ".join(sorted(amphora.id for amphora in old))
    text = f"replacing amphora {replaced}" if old else "building a pair of amphorae; there was none"
    emit(tx, operation, "failover.started", text, amphora_id=operation.amphora_id)
    return Rebuild(
        tree=attrs.evolve(tree, listeners=(), pools=()),
        old=old,
        sites=tuple(spares.wanted(tx, amphorae.site(operation, tree, role)) for role in wanted),
        # both are new, so they can be kept apart from now on, as one that never worked has no server group any more
        apart=pairs.apart(tree, world.settings) if operation.amphora_id is None else None,
    )


def _failover_pair(run: Run, world: World, rebuild: Rebuild) -> None:
    """Replace one of a pair, or both: first the one without the VIP, then the other, so that one always serves."""
    operation, tree, revision = run.operation, rebuild.tree, rebuild.revision
    assert revision is not None
    whole = operation.amphora_id is None
    sites = pairs.keep_apart(run, world, rebuild.apart, rebuild.sites)
    rebuild = attrs.evolve(rebuild, sites=sites)
    turns = _turns(run, world, rebuild) if whole else [(rebuild.sites[0], rebuild.old)]
    done = [
        pairs.replace(run.scope(name), world, where, leaving, tree, revision, for_good=True)
        for name, (where, leaving) in zip(("first", "second"), turns, strict=False)
    ]
    replaced = {old.id for old in rebuild.old}

    def finish(tx: Transaction) -> None:
        for amphora in (one for each in done for one in each.silent):
            if amphora.id not in replaced:  # the other one of the old pair had its own turn
                replace_next(tx, operation, amphora)
        tx.mark_good(tree.id, revision)
        troubles = [one for each in done for one in each.unserved]
        tx.settle_tree(tree.id, failed=settle(tx, operation, troubles), succeeded=True)

    run.finish(finish)


def _turns(run: Run, world: World, rebuild: Rebuild) -> list[tuple[amphorae.Site, tuple[Amphora, ...]]]:
    """Who follows whom. What does not serve leaves in the first turn, who holds the VIP in the second."""
    serving = pairs.in_order(run, world, rebuild.tree.vip.ip_address, rebuild.old)
    broken = tuple(a for a in rebuild.old if a.id not in {one.id for one in serving})
    master, backup = rebuild.sites
    last = serving[-1:]
    first_site, last_site = (master, backup) if last and last[0].role is Role.BACKUP else (backup, master)
    return [(first_site, broken + serving[:-1]), (last_site, last)]


def drop(tx: Transaction, operation: Operation) -> None:
    """Undo of `prepare`: whatever this operation was building is DELETED."""
    tree = tree_of(tx, operation)
    if paired(tree) and operation.flow != "create":
        return  # each that was built for a pair has an undo of its own, until it is kept
    for role in Role:
        amphorae.drop_amphora(tx, amphorae.site(operation, tree, role).amphora_id)


def replace(run: Run, world: World, rebuild: Rebuild) -> Replaced:
    """Put the replacements in place one after the other, each in its predecessor's."""
    done = [
        _replace_one(run.scope(str(where.role).lower()), world, rebuild, index)
        for index, where in enumerate(rebuild.sites)
    ]
    return Replaced(tuple(id for id, _ in done), tuple(unserved for _, unserved in done))


def _replace_one(run: Run, world: World, rebuild: Rebuild, index: int) -> tuple[str, Unserved]:
    where, revision = rebuild.sites[index], rebuild.revision
    assert revision is not None
    begun = spares.begin(run, world, where)
    leaving = _leaving(rebuild, index)
    # What is dead may hold the VIP all the same, and serve nobody on it: it goes while the new one starts. What may serve
    # yet goes when the new one can follow it: where only one can hold the VIP, at the last moment before; elsewhere after
    # the new one has its configuration, so that it is still there if that is refused.
    _remove(run, world, rebuild, [old for old in leaving if old.id in rebuild.dead])
    amphora = spares.ready(run, world, begun)
    subnet = amphorae.plug(run, world, rebuild.tree, amphora)
    going = [old for old in leaving if old.id not in rebuild.dead]
    if world.network.one_holder:
        _let_go(run, world, rebuild, going)
    sent = amphorae.first_push(run, world, attrs.evolve(amphora, vrrp_ip=subnet.vrrp_ip), revision)
    if not world.network.one_holder:
        _let_go(run, world, rebuild, going)
    return amphora.id, sent.unserved


def _let_go(run: Run, world: World, rebuild: Rebuild, going: Sequence[Amphora]) -> None:
    def leave(tx: Transaction) -> None:
        for old in going:
            tx.settle_amphora(old.id, AmphoraEvent.DELETE)

    if going:
        run.record("leave", leave)
    _remove(run, world, rebuild, going)


def _remove(run: Run, world: World, rebuild: Rebuild, leaving: Sequence[Amphora]) -> None:
    for old in leaving:
        amphorae.remove(run.scope(f"old-{old.id}"), world, rebuild.tree, old)


def retire(tx: Transaction, rebuild: Rebuild, replaced: Replaced) -> None:
    """The end of those that were replaced."""
    for old in rebuild.old:
        tx.settle_amphora(old.id, AmphoraEvent.DELETED)
        tx.forget_health(old.id)
    tx.emit(
        Happening(
            name="failover.finished",
            text=f"amphora {', '.join(replaced.new)} serves",
            load_balancer_id=rebuild.tree.id,
            data={"new": list(replaced.new), "old": [old.id for old in rebuild.old]},
        )
    )


def _settle_nothing(tx: Transaction, tree: LoadBalancer) -> None:
    """A failover of what is gone already still releases the load balancer that was locked for it."""
    if tree.provisioning_status is Provisioning.PENDING_UPDATE:
        tx.settle_tree(tree.id, succeeded=True)


_TO_DRAFT = 0
"""In place of the number of a revision, which begins with 1."""


@attrs.frozen(kw_only=True)
class Rebuild:
    """What a failover replaces; `dead` are those of the old that serve nobody, `revision` None means there is nothing to do,
    `_TO_DRAFT` that there is none before `request` is met.
    """

    tree: LoadBalancer
    old: tuple[Amphora, ...] = ()
    dead: tuple[str, ...] = ()
    sites: tuple[amphorae.Site, ...] = ()
    peers: tuple[Amphora, ...] = ()
    revision: int | None = None
    request: VipRequest | None = None
    apart: pairs.Apart | None = None


@attrs.frozen
class Replaced:
    """Ids of the amphorae that serve now, and what each of them does not serve."""

    new: tuple[str, ...]
    unserved: tuple[Unserved, ...]


def _leaving(rebuild: Rebuild, index: int) -> tuple[Amphora, ...]:
    """The old amphorae that make room for the replacement at `index`: one each, the last one takes all that remain."""
    last = index == len(rebuild.sites) - 1
    return rebuild.old[index:] if last else rebuild.old[index : index + 1]


def failed(tx: Transaction, operation: Operation, reason: str) -> None:
    """The end of a failover or deletion that failed: what was leaving, and what was lost, is in ERROR."""
    assert operation.load_balancer_id is not None
    if operation.amphora_id is not None and not amphorae.alive(tx, operation.amphora_id):
        amphorae.fail_amphora(tx, operation.amphora_id, reason)
    for amphora in tx.amphorae(operation.load_balancer_id):
        if amphora.status is AmphoraStatus.PENDING_DELETE:
            amphorae.fail_amphora(tx, amphora.id, reason)
    tree = tx.tree(operation.load_balancer_id)
    if tree is not None and tree.provisioning_status.pending:
        fail_subjects(tx, operation, reason)


def replace_next(tx: Transaction, operation: Operation, amphora: Amphora) -> None:
    """What it was to be told it must not miss: it is replaced by one that knows."""
    tx.add_operation(amphorae.successor(operation, amphora))
    text = f"amphora {amphora.id} does not answer; the other one serves, and it is replaced next"
    emit(tx, operation, "amphora.silent", text, amphora_id=amphora.id)


FAILOVER = Flow(name="failover", body=_failover, give_up=failed, words="failover")
