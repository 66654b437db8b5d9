"""The parts of flows that are about a pair: two amphorae that share a VIP by VRRP, and never hold it both.

The order keeps that promise. Two amphorae hear each other when each lists the other's address; one that does not hear the
other takes the VIP. So a replacement is built, plugged and configured while the pair serves as before; then the one that
leaves gives the VIP up and is removed; then the one that stays learns of the replacement; and only then the replacement
may take part. Where the one that stays cannot be told, and may serve all the same, the replacement does not take part
until that one was replaced too, which is next.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

import attrs

from octavia_core.domain.amphora import Amphora, VrrpGroup
from octavia_core.domain.operation import Event
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, NotFound, PermanentError, TransientError
from octavia_core.flows import amphorae, spares
from octavia_core.flows.patience import PeerUnsure
from octavia_core.flows.run import Run
from octavia_core.flows.unserved import Unserved
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.ports.amphora import VrrpDelivery
from octavia_core.ports.network import VipPlug
from octavia_core.ports.storage import Transaction
from octavia_core.settings import Settings

__all__ = [
    "Apart",
    "Newcomer",
    "Replaced",
    "agree",
    "apart",
    "in_order",
    "keep_apart",
    "replace",
    "serve_together",
]


@attrs.frozen
class Apart:
    """The server group that keeps a pair on different hosts."""

    load_balancer_id: str
    policy: str

    @property
    def name(self) -> str:
        """Upstream's name of it."""
        return f"octavia-lb-{self.load_balancer_id}"


@attrs.frozen
class Newcomer:
    """An amphora that was just plugged, and what the network said of the VIP's subnet."""

    amphora: Amphora
    subnet: VipPlug


@attrs.frozen(kw_only=True)
class Replaced:
    """How a replacement went: what is not served, and who did not answer and has to be replaced next."""

    unserved: tuple[Unserved, ...]
    silent: tuple[Amphora, ...]


@attrs.frozen(kw_only=True)
class _Staying:
    """Who is there beside a replacement: those that serve, and those in ERROR, which must not."""

    serving: tuple[Amphora, ...]
    broken: tuple[Amphora, ...]


def agree(tx: Transaction, load_balancer_id: str, settings: Settings) -> None:
    """Store what the two are to agree on, unless it is: its secret is made here, and is in no journal."""
    group = VrrpGroup(
        load_balancer_id=load_balancer_id,
        name=load_balancer_id.replace("-", ""),
        auth_pass=Secret(secrets.token_hex(4)[:7]),  # as long as upstream's; VRRP takes eight characters at most
        advert_int=settings.keepalived_vrrp.vrrp_advert_int,
    )
    tx.add_vrrp_group(group)


def apart(tree: LoadBalancer, settings: Settings) -> Apart | None:
    """The server group that has to be made for a pair: none unless settings want it, none where there is one."""
    if not settings.nova.enable_anti_affinity or tree.server_group_id is not None:
        return None
    return Apart(tree.id, settings.nova.anti_affinity_policy)


def keep_apart(
    run: Run, world: World, group: Apart | None, sites: tuple[amphorae.Site, ...]
) -> tuple[amphorae.Site, ...]:
    """Make the group and give the sites to it; as they were where compute has no groups."""
    if group is None:
        return sites
    made = run.step(
        "server-group",
        key=group,
        do=lambda group: world.compute.server_group(group.name, group.policy),
        undo=lambda group, made: world.compute.remove_server_group(made or group.name),
        limit=world.compute.time_limit,
    )
    if made is None:
        return sites
    lb_id = group.load_balancer_id
    run.record(
        "server-group-known",
        lambda tx: tx.change(Kind.LOAD_BALANCER, lb_id, {"server_group_id": made}),
        lambda tx: tx.change(Kind.LOAD_BALANCER, lb_id, {"server_group_id": None}),
    )
    return tuple(attrs.evolve(where, server_group_id=made) for where in sites)


def serve_together(
    run: Run, world: World, newcomers: Mapping[str, Newcomer], revision: int | None, *, everything: bool
) -> None:
    """Let a new pair serve: each its configuration (if there is any yet), then its share of the VIP."""

    def branch(one: Newcomer) -> Callable[[Run], None]:
        return lambda run: serve(run, one)

    def serve(run: Run, one: Newcomer) -> None:
        # HAProxy first: keepalived then finds that it serves, and takes the VIP at once.
        gone = (
            revision is not None and amphorae.first_push(run, world, one.amphora, revision, everything=everything).gone
        )
        if not gone:
            _share(run, world, one.amphora, one.subnet)

    run.parallel({name: branch(one) for name, one in newcomers.items()})


def in_order(run: Run, world: World, vip: str | None, old: Sequence[Amphora]) -> tuple[Amphora, ...]:
    """Those that serve, who holds the VIP last: the first to be replaced is one that nobody would miss."""
    serving = [amphora for amphora in old if amphora.status in amphorae.SERVING]
    if len(serving) < 2 or vip is None:
        return tuple(serving)
    holds = {a.id: _holds(run.scope(f"asked-{a.id}"), world, vip, a) for a in serving}
    return tuple(sorted(serving, key=lambda amphora: holds[amphora.id]))


def _holds(run: Run, world: World, vip: str, amphora: Amphora) -> bool:
    def ask(_: str) -> bool:
        at = amphora.agent
        if at is None or run.read(lambda tx: amphorae.declared_dead(tx, amphora.id)):
            return False
        try:
            return world.amphora.interface(at, vip) is not None
        except AmphoraUnreachable as error:
            if run.last_try("holds-vip", run.patience.failover):
                return False  # it cannot be asked: the first to be replaced
            raise PeerUnsure(str(error)) from error
        except AmphoraRefused:
            return False

    return run.step("holds-vip", key=amphora.id, do=ask, limit=world.amphora.time_limit)


def replace(
    run: Run,
    world: World,
    where: amphorae.Site,
    leaving: tuple[Amphora, ...],
    tree: LoadBalancer,
    revision: int,
    *,
    for_good: bool,
) -> Replaced:
    """Build one amphora of a pair in the place of those that leave (of nobody: one was missing).

    `tree` is the load balancer without what is below it. With `for_good`, what was replaced stays so, whatever fails
    later in the operation.
    """

    def begin(tx: Transaction) -> list[str]:
        if not where.look:
            amphorae.insert_amphora(tx, where)
        dead = [old.id for old in leaving if amphorae.declared_dead(tx, old.id)]
        for id in dead:
            tx.settle_amphora(id, AmphoraEvent.DELETE)
        return dead

    dead = run.record("site", begin, lambda tx: _drop(tx, where.amphora_id))
    begun = spares.begin(run, world, where)
    # One that was declared dead may hold the VIP all the same, and serve nobody on it: it goes while the new one starts.
    for old in leaving:
        if old.id in dead:
            amphorae.remove(run.scope(f"old-{old.id}"), world, tree, old)
    amphora = spares.ready(run, world, begun)
    subnet = amphorae.plug(run, world, tree, amphora)
    amphora = attrs.evolve(amphora, vrrp_ip=subnet.vrrp_ip)
    # It is refused here, if it is, while the old one serves yet.
    died = amphorae.first_push(run, world, amphora, revision).gone

    def leave(tx: Transaction) -> _Staying:
        for old in leaving:
            if old.id not in dead:
                tx.settle_amphora(old.id, AmphoraEvent.DELETE)
        others = [a for a in tx.amphorae(tree.id) if a.id != amphora.id]
        return _Staying(
            serving=tuple(a for a in others if a.status in amphorae.SERVING),
            broken=tuple(a for a in others if a.status is AmphoraStatus.ERROR),
        )

    staying = run.record("leave", leave, result=_Staying)
    going = [old for old in leaving if old.id not in dead]
    for one in (*going, *staying.broken):
        _silence(run.scope(f"old-{one.id}"), world, one)
    for old in going:
        amphorae.remove(run.scope(f"old-{old.id}"), world, tree, old)
    run.record("retired", lambda tx: _retire(tx, begun.where, leaving))
    if for_good:
        run.keep()
    sent = amphorae.push_all(run.scope("staying"), world, staying.serving, revision, spare=True)
    silent = {one.amphora_id for one in sent if one.silent}
    for peer in staying.serving:
        answered = any(one.amphora_id == peer.id and not one.gone for one in sent)
        if answered and not _share(run.scope(f"peer-{peer.id}"), world, peer, subnet, spare=True):
            silent |= _undeclared(run.scope(f"peer-{peer.id}"), peer)
    again = amphorae.Sent(amphora_id=amphora.id, pushed=None)
    if not died:
        again = amphorae.push(run.scope("again"), world, amphora, revision, amphorae.Manner())
    if not again.gone and not silent:
        _share(run, world, amphora, subnet)
    return Replaced(
        unserved=(*(one.unserved for one in sent), again.unserved),
        silent=tuple(peer for peer in staying.serving if peer.id in silent),
    )


def _undeclared(run: Run, peer: Amphora) -> set[str]:
    """The peer, unless health says that it is dead: its failover is asked for then, and nobody hears from it."""
    dead = run.record("dead", lambda tx: amphorae.declared_dead(tx, peer.id))
    return set() if dead else {peer.id}


def _drop(tx: Transaction, amphora_id: str) -> None:
    amphorae.drop_amphora(tx, amphora_id)


def _retire(tx: Transaction, where: amphorae.Site, leaving: tuple[Amphora, ...]) -> None:
    for old in leaving:
        tx.settle_amphora(old.id, AmphoraEvent.DELETED)
        tx.forget_health(old.id)
    instead = f" in place of {', '.join(old.id for old in leaving)}" if leaving else ""
    tx.emit(
        Event(
            name="failover.finished",
            text=f"amphora {where.amphora_id} serves as {where.role}{instead}",
            load_balancer_id=where.load_balancer_id,
            data={"new": [where.amphora_id], "old": [old.id for old in leaving]},
        )
    )


def _share(run: Run, world: World, amphora: Amphora, subnet: VipPlug, *, spare: bool = False) -> bool:
    """Let an amphora share the VIP with those that its load balancer has now. False: it is dead, or (`spare`) silent."""
    load_balancer_id, own, at = str(amphora.load_balancer_id), amphora.vrrp_ip, amphora.agent
    if own is None or at is None:
        raise PermanentError(f"amphora {amphora.id} has no address to speak VRRP from")

    def ask(_: str) -> str | None:
        if not run.read(lambda tx: amphorae.alive(tx, amphora.id)):
            return None
        try:
            found = world.amphora.interface(at, own)
        except AmphoraUnreachable:
            if spare and run.last_try("interface"):
                return None
            raise
        if found is None:
            raise TransientError(f"amphora {amphora.id} has no interface that carries {own}")
        return found

    name = run.step("interface", key=amphora.id, do=ask, limit=world.amphora.time_limit)
    if name is None:
        return False
    run.later("interface-known", lambda tx: tx.change_amphora(amphora.id, vrrp_interface=name))

    def start(_: str) -> bool:
        delivery = run.read(lambda tx: _share_of(tx, load_balancer_id, amphora.id, subnet))
        if delivery is None:
            return False
        try:
            world.amphora.start_vrrp(at, attrs.evolve(delivery, fence=run.fence))
        except AmphoraUnreachable:
            if spare and run.last_try("vrrp"):
                return False
            raise
        return True

    return run.step("vrrp", key=amphora.id, do=start, limit=world.amphora.time_limit)


def _share_of(tx: Transaction, load_balancer_id: str, amphora_id: str, subnet: VipPlug) -> VrrpDelivery | None:
    """Everything as the rows say it now; None when the amphora is dead."""
    if not amphorae.alive(tx, amphora_id):
        return None
    tree, group = tx.tree(load_balancer_id), tx.vrrp_group(load_balancer_id)
    if tree is None or group is None:
        raise NotFound("load balancer" if tree is None else "vrrp group of load balancer", load_balancer_id)
    found = {a.id: a for a in tx.amphorae(load_balancer_id) if a.status in amphorae.SERVING}
    own = found.pop(amphora_id)
    return VrrpDelivery(
        load_balancer=attrs.evolve(tree, listeners=(), pools=()),
        amphora=own,
        peers=tuple(peer for peer in found.values() if peer.vrrp_ip is not None),
        group=group,
        subnet=subnet,
    )


def _silence(run: Run, world: World, amphora: Amphora) -> bool:
    """Let an amphora give the VIP up, if it still hears. One that was declared dead is not asked: it is removed next."""

    def stop(_: str) -> bool:
        at = amphora.agent
        if at is None or run.read(lambda tx: amphorae.declared_dead(tx, amphora.id)):
            return False
        try:
            world.amphora.stop_vrrp(at)
        except (AmphoraUnreachable, AmphoraRefused):
            return False
        return True

    return run.step("silence", key=amphora.id, do=stop, limit=world.amphora.time_limit)
