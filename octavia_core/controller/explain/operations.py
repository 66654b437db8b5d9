"""Why an operation stands where it stands."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from octavia_core.controller.duty import late
from octavia_core.controller.explain.facts import Facts, seconds
from octavia_core.controller.explanation import Explanation, Situation
from octavia_core.controller.words import holder_words, step_words, wait_words
from octavia_core.domain.operation import EntryKind, JournalEntry, Operation, OperationState, Outcome
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.flows.catalogue import CLEANUP, flow_of
from octavia_core.flows.runner import STUCK
from octavia_core.flows.waits import CHECKS

__all__ = ["of_operation"]


def of_operation(facts: Facts, row: Operation) -> Explanation:
    """The answer about one operation."""
    flow = flow_of(row.flow, row.flow_version)
    base = Explanation(
        kind="operation",
        id=row.id,
        situation=Situation.WORKING,
        status=str(row.state),
        summary="",
        operation=row.id,
        doing=flow.words if flow else ("clean up after a failed undo" if row.flow == CLEANUP else row.flow),
        age=seconds(facts.now - row.created_at),
    )
    if row.state is OperationState.SUCCEEDED:
        return attrs.evolve(base, situation=Situation.FINE, summary="it is done", age=facts.since(row.finished_at))
    if row.state.final:
        reason = row.error or str(row.state).lower()
        return attrs.evolve(
            base,
            situation=Situation.FAILED,
            summary=f"it ended without doing what was asked: {reason}",
            cause=reason,
            age=facts.since(row.finished_at),
            advice=(f"look at what it did: octavia-admin timeline {row.id}", *_after_failure(facts, row)),
        )
    return _under_way(facts, row, base)


def _under_way(facts: Facts, row: Operation, base: Explanation) -> Explanation:
    journal = facts.tx.journal(row.id)
    base = attrs.evolve(base, step=_step(journal), cause=row.error, holder=holder_words(row.holder))
    if row.state is OperationState.QUEUED:
        ahead = _ahead(facts, row)
        if ahead is not None:
            return attrs.evolve(
                base,
                situation=Situation.QUEUED,
                summary=f"it waits behind operation {ahead.id} ({ahead.flow}), which holds the load balancer",
                next="it begins when that one is over",
                advice=(f"see what that one does: octavia-admin why {ahead.id}",),
            )
    held = row.state in (OperationState.RUNNING, OperationState.UNDOING) and row.lease_until > facts.now
    if held and facts.running is not False:
        return _held(facts, row, base)
    unknown = _unknown(facts, row)
    if unknown is not None:
        return _stuck(row, base, unknown)
    if row.state is OperationState.QUEUED:
        said = attrs.evolve(
            base, situation=Situation.UNCLAIMED, summary="it is stored and nobody has taken it yet", next_attempt=0.0
        )
        return facts.next(said, "takes it")
    if row.state is OperationState.WAITING:
        return _parked(facts, row, base, journal)
    silent = seconds(facts.now - row.lease_until)
    gone = "is gone" if held else f"stopped renewing {silent:.0f} s ago"
    said = attrs.evolve(
        base,
        situation=Situation.SILENT,
        summary=f"its holder {gone} while {base.step}",
        next_attempt=0.0,
    )
    return facts.next(said, "takes it over at the recorded step; nothing is done twice")


def _held(facts: Facts, row: Operation, base: Explanation) -> Explanation:
    if row.undoing or row.state is OperationState.UNDOING:
        return attrs.evolve(
            base,
            situation=Situation.UNDOING,
            summary=f"a step failed for good ({row.error or 'unknown reason'}), and what was done is being undone",
            next="when that is finished the operation ends as FAILED, and its reason stays readable",
        )
    return attrs.evolve(
        base,
        situation=Situation.WORKING,
        summary=f"it is being carried out, now {base.step}",
        next=f"its holder goes on; should it die, another worker takes over within {facts.settings.engine.lease:g} s",
    )


def _ahead(facts: Facts, row: Operation) -> Operation | None:
    """Who holds the load balancer, or else the oldest of those that must be over before this one begins."""
    if not row.load_balancer_id:
        return None

    def turn(of: Operation) -> tuple[bool, int, str]:
        return of.state is OperationState.QUEUED, of.created_at, of.id

    others = facts.tx.operations(load_balancer_id=row.load_balancer_id, open_only=True)
    return min((other for other in others if other.id != row.id and turn(other) < turn(row)), key=turn, default=None)


# -- nobody's code can carry it on -------------------------------------------------------------------------------------
def _unknown(facts: Facts, row: Operation) -> str | None:
    """Why no worker can carry it on, however many there are; None when one can."""
    if row.state is OperationState.WAITING and row.wait is not None and row.wait.get("kind") == STUCK:
        return row.error or "its journal does not match the code"
    if facts.alive:
        known = facts.versions(row.flow)
        if row.flow_version in known:
            return None
        rest = f"; they know version {', '.join(map(str, known))}" if known else ""
        return f"none of the {len(facts.alive)} worker(s) alive knows flow {row.flow} version {row.flow_version}{rest}"
    if row.flow != CLEANUP and flow_of(row.flow, row.flow_version) is None:
        return f"this version of octavia-core does not know flow {row.flow} version {row.flow_version}"
    return None


def _stuck(row: Operation, base: Explanation, reason: str) -> Explanation:
    return attrs.evolve(
        base,
        situation=Situation.STUCK,
        summary=f"nobody can carry it on: {reason}",
        cause=row.error or reason,
        holder=None,
        next="it goes on at its recorded step as soon as a worker of a version that knows it runs",
        advice=(
            "start a worker of the version that stored it",
            f"or give it up, and have what its load balancer needs built anew: octavia-admin operation release {row.id}",
        ),
    )


# -- parked ------------------------------------------------------------------------------------------------------------
def _parked(facts: Facts, row: Operation, base: Explanation, journal: Sequence[JournalEntry]) -> Explanation:
    due = max(0.0, seconds(row.wake_at - facts.now))
    base = attrs.evolve(base, next_attempt=due, holder=None)
    undoing = row.undoing
    if row.wait is not None and not undoing:
        return _waiting(facts, row, base, due)
    attempts = max((e.attempts for e in journal if e.outcome is Outcome.INTENT), default=row.attempts)
    engine = facts.settings.engine
    if undoing:
        problem = f"it was to end ({row.error or 'unknown reason'}), and what was done is being undone"
        if attempts:
            problem += f"; {base.step} could not be done yet"
        said = attrs.evolve(base, situation=Situation.UNDOING, summary=problem)
        return facts.next(said, f"tries again; after {engine.undo_attempts} attempts a cleanup goes on with that undo")
    if row.flow == CLEANUP:
        said = attrs.evolve(
            base, situation=Situation.RETRYING, summary=f"it could not be done yet: {row.error or 'unknown'}"
        )
        return facts.next(said, "tries again, for as long as it takes")
    problem = f"{base.step} failed in a way that may pass: {row.error or 'unknown'}"
    said = attrs.evolve(base, situation=Situation.RETRYING, summary=problem)
    attempt = f"tries again (attempt {attempts + 1} of {engine.step_attempts})"
    return facts.next(said, f"{attempt}; when all fail, what was done is undone")


def _waiting(facts: Facts, row: Operation, base: Explanation, due: float) -> Explanation:
    """It waits for something outside. Where waits are looked at in bulk, it is parked until its time is over."""
    assert row.wait is not None
    said = attrs.evolve(base, situation=Situation.WAITING, summary=f"it waits for {wait_words(row.wait)}")
    if row.wait.get("kind") not in CHECKS:
        return facts.next(said, "looks again")
    if due <= 0:
        return facts.next(said, "goes on: that has come true, or its time is over")
    limit = f"it fails for good, and is undone, if that does not come true within {due:.0f} s"
    patience = late(facts.looks)
    silent = facts.unwatched(patience)
    if silent is None:
        said = attrs.evolve(said, next_attempt=min(due, facts.looks))
        return facts.next(said, f"looks every {facts.looks:g} s; {limit}")
    said = attrs.evolve(said, next_attempt=min(due, patience))
    return facts.next(said, f"looks soon: nobody has for {silent:.0f} s, and another process takes that over; {limit}")


def _after_failure(facts: Facts, row: Operation) -> tuple[str, ...]:
    tree = facts.tx.tree(row.load_balancer_id) if row.load_balancer_id else None
    if tree is None or tree.provisioning_status is Provisioning.DELETED:
        return ()
    if tree.provisioning_status is Provisioning.ERROR:
        return (f"rebuild it: octavia-admin lb failover {tree.id}", f"or delete it: octavia-admin lb delete {tree.id}")
    return ("put right what the reason names, and ask again",)


def _step(journal: Sequence[JournalEntry]) -> str:
    """Where an operation is: what is begun and not over, or after what it stands."""
    begun = [entry for entry in journal if entry.outcome is Outcome.INTENT]
    undos = [entry for entry in begun if entry.kind is EntryKind.UNDO]
    if begun:
        return " and ".join(step_words(entry.path) for entry in (undos or begun)[-3:])
    if journal:
        return f"after {step_words(journal[-1].path)}"
    return "at its beginning"
