"""The parts of flows that take a spare: an amphora that runs, answers and serves nobody yet.

Rule 1: whether a spare fits is placement's decision, made in a record, so that a resumed flow decides as its first run did.
Rule 2: a spare is taken by moving its row from READY to ALLOCATED, which only one can do; who was slower takes the next one,
or builds. Rule 3: one that does not answer is given up, and a new one is built. Rule 4: what was taken is never a spare
again: when the flow that took it is undone, an operation of its own removes it. Rule 5: amphorae that a server group keeps
apart are built new, since a spare belongs to none.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import AmphoraStatus, Topology
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, NotFound
from octavia_core.flows import amphorae, marks
from octavia_core.flows.flow import derived_id, emit
from octavia_core.flows.run import Run
from octavia_core.flows.waits import LOOK
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.lifecycle.refusal import TransitionRefused
from octavia_core.policy.placement import Candidate, Decision, Demand, Source, place
from octavia_core.ports.amphora import BootIdentity
from octavia_core.ports.storage import Transaction

__all__ = ["Begun", "begin", "planned", "ready", "wanted"]


@attrs.frozen
class Begun:
    """An amphora on its way: the spare that was taken (`where.spare`), or a server that was asked for."""

    where: amphorae.Site
    booted: amphorae.Booted | None


def wanted(tx: Transaction, where: amphorae.Site) -> amphorae.Site:
    """The site, marked when a spare fits: then `begin` takes one, or inserts the row of a new one."""
    fits = where.server_group_id is None and _choose(where, tx.spares()).source is Source.SPARE
    return attrs.evolve(where, look=True) if fits else where


def planned(tx: Transaction, where: amphorae.Site) -> amphorae.Site:
    """The same, with the row of a new one when no spare fits."""
    marked = wanted(tx, where)
    if not marked.look:
        amphorae.insert_amphora(tx, where)
    return marked


def begin(run: Run, world: World, where: amphorae.Site) -> Begun:
    """Take a spare that answers, or ask for a server."""
    found = _placed(run, where) if where.look else where
    if found.spare is not None and not _answers(run, world, found, found.spare):
        found = _instead(run, where, found.spare)
    if found.spare is not None:
        return Begun(found, None)
    site, booted = found, amphorae.boot(run, world, found)
    run.later("booting", lambda tx: amphorae.booted_row(tx, site, booted))
    return Begun(site, booted)


def ready(run: Run, world: World, begun: Begun) -> Amphora:
    """The amphora, once its agent answers: a spare at once."""
    if begun.booted is not None:
        return amphorae.allocate(run, world, begun.where, begun.booted)
    assert begun.where.spare is not None
    return begun.where.spare


def _placed(run: Run, where: amphorae.Site) -> amphorae.Site:
    def take_back(tx: Transaction) -> None:
        if placed.spare is None:
            amphorae.drop_amphora(tx, placed.amphora_id)
        else:
            _give_up(tx, run.operation, placed.amphora_id, "the operation that took it was undone")

    placed: amphorae.Site = run.record(
        "place", lambda tx: _take(tx, run.operation, where), take_back, result=amphorae.Site
    )
    return placed


def _take(tx: Transaction, operation: Operation, where: amphorae.Site) -> amphorae.Site:
    """Take the first spare that fits and that nobody else has taken; without one, insert the row of a new amphora."""
    free = {} if where.server_group_id is not None else {spare.id: spare for spare in tx.spares()}
    while (decision := _choose(where, tuple(free.values()))).amphora_id is not None:
        spare = free.pop(decision.amphora_id)
        given = {
            "load_balancer_id": where.load_balancer_id,
            "role": where.role,
            "vrrp_priority": amphorae.PRIORITY[where.role],
        }
        try:
            status = tx.settle_amphora(spare.id, AmphoraEvent.ALLOCATE, **given)
        except (TransitionRefused, NotFound):  # somebody else was quicker
            continue
        text = f"amphora {spare.id} is taken: {decision.reason}"
        emit(tx, operation, "amphora.taken", text, amphora_id=spare.id)
        taken = attrs.evolve(
            spare,
            status=status,
            load_balancer_id=where.load_balancer_id,
            role=where.role,
            vrrp_priority=amphorae.PRIORITY[where.role],
        )
        return attrs.evolve(where, amphora_id=spare.id, look=False, spare=taken)
    amphorae.insert_amphora(tx, where)
    return attrs.evolve(where, look=False)


def _choose(where: amphorae.Site, free: Sequence[Amphora]) -> Decision:
    """Spares are built as settings say, with no flavor or zone asked for; `place` gives them to who asks for none, either."""
    demand = Demand(flavor=where.flavor, zone=where.zone)
    (decision,) = place(demand, (), [Candidate(amphora_id=spare.id) for spare in free])
    return decision


def _answers(run: Run, world: World, where: amphorae.Site, spare: Amphora) -> bool:
    """Whether its agent answers; it is told what its boot files did not say: that it is one of a pair."""

    def ask(_: str) -> bool:
        at = spare.agent
        if at is None or run.read(lambda tx: amphorae.declared_dead(tx, spare.id)):
            return False
        try:
            world.amphora.info(at, limit=min(LOOK, world.amphora.time_limit))
            if where.topology is not Topology.SINGLE:
                identity = BootIdentity(
                    amphora_id=spare.id,
                    topology=where.topology,
                    server_pem=Secret(b""),  # it keeps its certificate: only settings are sent
                    controller_ca_pem=world.issuer.controller_ca(),
                )
                marks.tell(run, world, at, identity)
        except (AmphoraUnreachable, AmphoraRefused):
            return False
        return True

    return run.step("spare-answers", key=spare.id, do=ask, limit=2 * world.amphora.time_limit)


def _instead(run: Run, where: amphorae.Site, silent: Amphora) -> amphorae.Site:
    """Give up a spare that does not answer; the row of a new amphora."""

    def change(tx: Transaction) -> None:
        _give_up(tx, run.operation, silent.id, "its agent does not answer")
        amphorae.insert_amphora(tx, where)

    run.record("instead", change, lambda tx: amphorae.drop_amphora(tx, where.amphora_id))
    return attrs.evolve(where, look=False)


def _give_up(tx: Transaction, operation: Operation, amphora_id: str, why: str) -> None:
    """Take an amphora that was a spare from its load balancer; an operation of its own removes it."""
    row = tx.amphora(amphora_id)
    if row is None or row.load_balancer_id is None or row.status is AmphoraStatus.DELETED:
        return  # it was given up before
    tx.settle_amphora(amphora_id, AmphoraEvent.FAIL)
    tx.change_amphora(amphora_id, load_balancer_id=None, role=None, vrrp_priority=None)
    removal = Operation(
        id=derived_id(operation.id, f"remove/{amphora_id}"),
        flow="delete-amphora",
        amphora_id=amphora_id,
        internal=True,
        actor="spares",
    )
    tx.add_operation(removal)
    emit(tx, operation, "amphora.given_up", f"amphora {amphora_id} is removed: {why}", amphora_id=amphora_id)
