"""Why something is as it is: who holds it, at which step, for how long, the cause, what happens next and when.

Facts come from the rows, the operations and their journals; nothing is asked of the outside, so an answer takes
milliseconds whatever state the outside is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from octavia_core.controller.explanation import Explanation, Situation
from octavia_core.controller.words import holder_words, step_words, wait_words
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import EntryKind, JournalEntry, Operation, OperationState, Outcome
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating, Provisioning
from octavia_core.errors import BadRequest, NotFound
from octavia_core.flows.catalogue import CLEANUP, flow_of
from octavia_core.ports.storage import Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["Explanation", "Situation", "find", "why"]


@attrs.frozen
class _Facts:
    """One snapshot of the database, and what is known of this machine."""

    tx: Transaction
    now: int
    settings: Settings
    running: bool | None
    """Whether a controller runs on the state directory; None when nobody can know (a database on a server)."""


def find(tx: Transaction, text: str) -> tuple[Kind | None, str]:
    """What an id or name means: (kind, id), the kind None for an operation.

    Raises:
        NotFound: nothing.
        BadRequest: several things.
    """
    if tx.operation(text) is not None:
        return None, text
    if tx.amphora(text) is not None:
        return Kind.AMPHORA, text
    tree = tx.tree(text)
    if tree is not None:
        return Kind.LOAD_BALANCER, text
    kinds = (
        Kind.LOAD_BALANCER,
        Kind.LISTENER,
        Kind.POOL,
        Kind.MEMBER,
        Kind.HEALTH_MONITOR,
        Kind.L7POLICY,
        Kind.L7RULE,
    )
    for kind in kinds:
        found = tx.find(kind, text)
        if len(found) > 1:
            raise BadRequest(f"{len(found)} {kind.words}s are called {text!r}; say which: {', '.join(found)}")
        if found:
            return kind, found[0]
    raise NotFound("load balancer, amphora or operation", text)


def why(storage: Storage, settings: Settings, text: str, *, running: bool | None = None) -> Explanation:
    """Explain a load balancer, something below one, an amphora or an operation.

    `running` says whether a controller runs on the state directory; None when that cannot be known.

    Raises:
        NotFound: there is no such thing.
        BadRequest: several things have that name.
    """
    now = storage.now()

    def work(tx: Transaction) -> Explanation:
        facts = _Facts(tx, now, settings, running)
        kind, id = find(tx, text)
        if kind is None:
            row = tx.operation(id)
            assert row is not None
            return _operation(facts, row)
        if kind is Kind.AMPHORA:
            amphora = tx.amphora(id)
            assert amphora is not None
            return _amphora(facts, amphora)
        owner = id if kind is Kind.LOAD_BALANCER else tx.owner(kind, id)
        tree = tx.tree(owner) if owner else None
        if tree is None:
            raise NotFound(kind.words, id)
        return _balancer(facts, tree) if kind is Kind.LOAD_BALANCER else _child(facts, tree, kind, id)

    return storage.read(work)


# -- operations --------------------------------------------------------------------------------------------------------
def _operation(facts: _Facts, row: Operation) -> Explanation:
    flow = flow_of(row.flow, row.flow_version)
    base = Explanation(
        kind="operation",
        id=row.id,
        situation=Situation.WORKING,
        status=str(row.state),
        summary="",
        operation=row.id,
        doing=flow.words if flow else ("clean up after a failed undo" if row.flow == CLEANUP else row.flow),
        age=_seconds(facts.now - row.created_at),
    )
    if row.state is OperationState.SUCCEEDED:
        return attrs.evolve(base, situation=Situation.FINE, summary="it is done", age=_since(facts, row.finished_at))
    if row.state.final:
        reason = row.error or str(row.state).lower()
        return attrs.evolve(
            base,
            situation=Situation.FAILED,
            summary=f"it ended without doing what was asked: {reason}",
            cause=reason,
            age=_since(facts, row.finished_at),
            advice=(f"look at what it did: octavia-admin timeline {row.id}", *_after_failure(facts, row)),
        )
    return _under_way(facts, row, base)


def _under_way(facts: _Facts, row: Operation, base: Explanation) -> Explanation:
    journal = facts.tx.journal(row.id)
    step = _step(journal)
    base = attrs.evolve(base, step=step, cause=row.error, holder=holder_words(row.holder))
    undoing = row.undoing or row.state is OperationState.UNDOING
    if row.state is OperationState.QUEUED:
        return _queued(facts, row, base)
    if row.state is OperationState.WAITING:
        return _parked(facts, row, base, journal, undoing=undoing)
    if row.lease_until > facts.now:
        if undoing:
            return attrs.evolve(
                base,
                situation=Situation.UNDOING,
                summary=f"a step failed for good ({row.error or 'unknown reason'}), and what was done is being undone",
                next="when that is finished the operation ends as FAILED, and its reason stays readable",
            )
        return attrs.evolve(
            base,
            situation=Situation.WORKING,
            summary=f"it is being carried out, now {step}",
            next="its holder goes on; should it die, another worker takes over within "
            f"{facts.settings.engine.lease:g} s",
        )
    silent = _seconds(facts.now - row.lease_until)
    said = attrs.evolve(
        base,
        situation=Situation.SILENT,
        summary=f"its holder stopped renewing {silent:.0f} s ago while {step}",
        next_attempt=0.0,
    )
    return _next(facts, said, "takes it over at the recorded step; nothing is done twice")


def _parked(
    facts: _Facts, row: Operation, base: Explanation, journal: Sequence[JournalEntry], *, undoing: bool
) -> Explanation:
    due = max(0.0, _seconds(row.wake_at - facts.now))
    base = attrs.evolve(base, next_attempt=due, holder=None)
    if row.wait is not None:
        begun = max((e.started_at for e in journal if e.kind is EntryKind.WAIT), default=0)
        left = facts.settings.engine.boot_deadline - _seconds(facts.now - begun) if begun else None
        limit = f"; it fails for good in {max(0.0, left):.0f} s if that does not come true" if left is not None else ""
        said = attrs.evolve(base, situation=Situation.WAITING, summary=f"it waits for {wait_words(row.wait)}")
        return _next(facts, said, f"looks again{limit}")
    attempts = max((e.attempts for e in journal), default=row.attempts)
    engine = facts.settings.engine
    if undoing:
        problem = f"its undo hit an error that may pass ({row.error or 'unknown'})"
        said = attrs.evolve(base, situation=Situation.UNDOING, summary=problem)
        return _next(
            facts, said, f"tries again; after {engine.undo_attempts} attempts a cleanup goes on with that undo"
        )
    problem = f"{base.step} failed in a way that may pass: {row.error or 'unknown'}"
    said = attrs.evolve(base, situation=Situation.RETRYING, summary=problem)
    attempt = f"tries again (attempt {attempts + 1} of {engine.step_attempts})"
    return _next(facts, said, f"{attempt}; when all fail, what was done is undone")


def _queued(facts: _Facts, row: Operation, base: Explanation) -> Explanation:
    if row.load_balancer_id:
        others = facts.tx.operations(load_balancer_id=row.load_balancer_id, open_only=True)
        ahead = [o for o in others if o.id != row.id and (o.created_at, o.id) < (row.created_at, row.id)]
        if ahead:
            first = min(ahead, key=lambda o: (o.created_at, o.id))
            return attrs.evolve(
                base,
                situation=Situation.QUEUED,
                summary=f"it waits behind operation {first.id} ({first.flow}), which holds the load balancer",
                next="it begins when that one is over",
                advice=(f"see what that one does: octavia-admin why {first.id}",),
            )
    summary = "it is stored and nobody has taken it yet"
    said = attrs.evolve(base, situation=Situation.UNCLAIMED, summary=summary, next_attempt=0.0)
    return _next(facts, said, "takes it")


def _next(facts: _Facts, said: Explanation, does: str) -> Explanation:
    """What happens next, depending on whether anybody is there to do it."""
    if facts.running is False:
        return attrs.evolve(
            said,
            next=f"no controller runs on this state directory, so nothing happens until one is started; then it {does}",
            advice=("start one: octavia-admin up",),
        )
    if facts.running:
        return attrs.evolve(said, next=f"the controller {does}")
    return attrs.evolve(
        said,
        next=f"the next worker that looks {does}",
        advice=("if this lasts, see that a worker runs: octavia-core-worker",),
    )


def _after_failure(facts: _Facts, row: Operation) -> tuple[str, ...]:
    tree = facts.tx.tree(row.load_balancer_id) if row.load_balancer_id else None
    if tree is None or tree.provisioning_status is Provisioning.DELETED:
        return ()
    if tree.provisioning_status is Provisioning.ERROR:
        return (f"rebuild it: octavia-admin lb failover {tree.id}", f"or delete it: octavia-admin lb delete {tree.id}")
    return ("put right what the reason names, and ask again",)


def _step(journal: Sequence[JournalEntry]) -> str:
    """Where an operation is: what is begun and not over, or after what it stands."""
    begun = [entry for entry in journal if entry.outcome is Outcome.INTENT]
    if begun:
        return " and ".join(step_words(entry.path) for entry in begun[-3:])
    if journal:
        return f"after {step_words(journal[-1].path)}"
    return "at its beginning"


# -- load balancers ----------------------------------------------------------------------------------------------------
def _balancer(facts: _Facts, tree: LoadBalancer) -> Explanation:
    operations = facts.tx.operations(load_balancer_id=tree.id, limit=50)
    problems = _problems(facts, tree, operations)
    base = Explanation(
        kind="load balancer",
        id=tree.id,
        name=tree.name,
        situation=Situation.FINE,
        status=str(tree.provisioning_status),
        summary="",
        problems=problems,
    )
    under_way = [row for row in operations if not row.state.final]
    if under_way:
        first = next((r for r in under_way if r.state is not OperationState.QUEUED), under_way[-1])
        said = _operation(facts, first)
        behind = [r.id for r in under_way if r.id != first.id]
        more = f"; behind it: {', '.join(behind)}" if behind else ""
        return attrs.evolve(
            said,
            kind=base.kind,
            id=tree.id,
            name=tree.name,
            status=base.status,
            problems=problems,
            summary=f"{said.doing}: {said.summary}{more}",
        )
    if tree.provisioning_status is Provisioning.DELETED:
        return attrs.evolve(base, situation=Situation.GONE, summary="it was deleted")
    if tree.provisioning_status.pending:
        return attrs.evolve(
            base,
            situation=Situation.UNHELD,
            summary="no operation is about it, so the request for it was lost",
            advice=(f"see what happened to it: octavia-admin timeline {tree.id}",),
        )
    failed = next((row for row in operations if row.state is OperationState.FAILED), None)
    if tree.provisioning_status is Provisioning.ERROR:
        reason = (failed.error if failed else None) or "the reason was not recorded"
        return attrs.evolve(
            base,
            situation=Situation.FAILED,
            summary=f"{failed.flow if failed else 'an operation'} failed: {reason}",
            operation=failed.id if failed else None,
            doing=failed.flow if failed else None,
            cause=reason,
            age=_since(facts, failed.finished_at) if failed else None,
            next="nothing by itself: an operation that failed for good is not repeated",
            advice=(
                f"rebuild it: octavia-admin lb failover {tree.id}",
                f"or delete it: octavia-admin lb delete {tree.id}",
                *((f"see what was tried: octavia-admin timeline {failed.id}",) if failed else ()),
            ),
        )
    return _settled(facts, tree, base)


def _settled(facts: _Facts, tree: LoadBalancer, base: Explanation) -> Explanation:
    """ACTIVE and nobody at it: fine, or something below is not."""
    alone = ("no controller runs on this state directory: dead amphorae are not replaced; start one: octavia-admin up",)
    advice = alone if facts.running is False else ()
    if base.problems:
        count = len(base.problems)
        return attrs.evolve(
            base,
            situation=Situation.DEGRADED,
            summary=f"it serves with its last good configuration where needed, and {count} thing(s) below it are not well",
            advice=("change or delete what is in ERROR; the rest is not affected", *advice),
        )
    if not any(a.status is AmphoraStatus.ALLOCATED for a in facts.tx.amphorae(tree.id)):
        return attrs.evolve(
            base,
            situation=Situation.DEGRADED,
            summary="it has no amphora that serves",
            advice=(f"rebuild it: octavia-admin lb failover {tree.id}", *advice),
        )
    return attrs.evolve(base, summary=f"nothing is wrong; it is {tree.operating_status}", advice=advice)


def _problems(facts: _Facts, tree: LoadBalancer, operations: Sequence[Operation]) -> tuple[str, ...]:
    reasons: dict[str, str] = {}
    for row in operations:
        if row.state is OperationState.FAILED:
            for subject in row.subjects:
                reasons.setdefault(subject.id, row.error or "no reason recorded")
    in_error = {n.id for _, n in tree.nodes() if n.provisioning_status is Provisioning.ERROR}
    if in_error - reasons.keys():
        reasons = _left_out(facts, tree) | reasons
    found = []
    for kind, node in tree.nodes():
        label = _label(kind, node.id, getattr(node, "name", None))
        if node.provisioning_status is Provisioning.ERROR:
            if node.id in reasons or tree.provisioning_status is not Provisioning.ERROR:
                found.append(f"{label}: {reasons.get(node.id, 'no reason recorded')}")
        elif node.operating_status is Operating.ERROR and kind is Kind.MEMBER:
            address, port = getattr(node, "address", ""), getattr(node, "protocol_port", "")
            found.append(f"{label} at {address}:{port} does not pass the health monitor's checks")
    return tuple(found)


def _left_out(facts: _Facts, tree: LoadBalancer) -> dict[str, str]:
    """Why listeners are not served although no operation about them failed: id -> the newest reason."""
    found: dict[str, str] = {}
    after = 0
    while page := facts.tx.events(after=after, load_balancer_id=tree.id, limit=1000):
        after = page[-1].sequence
        found |= {e.data["id"]: str(e.data["reason"]) for e in page if e.name == "listener.left_out"}
    return found


def _child(facts: _Facts, tree: LoadBalancer, kind: Kind, id: str) -> Explanation:
    node = next(n for k, n in tree.nodes() if k is kind and n.id == id)
    above = _balancer(facts, tree)
    own = tuple(p for p in above.problems if id in p)
    base = attrs.evolve(
        above,
        kind=kind.words,
        id=id,
        name=getattr(node, "name", None),
        status=f"{node.provisioning_status}",
        problems=own,
    )
    if node.provisioning_status is Provisioning.ERROR:
        reason = own[0].partition(": ")[2] if own else "no reason recorded"
        return attrs.evolve(
            base,
            situation=Situation.FAILED,
            summary=f"it could not be put in place: {reason}",
            cause=reason,
            next="the last good configuration serves on; this object counts again once it is changed",
            advice=("change it or delete it",),
        )
    if node.provisioning_status.pending:
        return attrs.evolve(base, summary=f"load balancer {tree.name or tree.id}: {above.summary}")
    summary = f"it is in place and {node.operating_status}"
    if node.operating_status is Operating.ERROR:
        return attrs.evolve(
            base,
            situation=Situation.DEGRADED,
            summary=f"{summary}: the amphora's checks of it fail",
            advice=("see that it answers as the health monitor expects",),
        )
    return attrs.evolve(base, situation=Situation.FINE, summary=summary, problems=())


def _label(kind: Kind, id: str, name: str | None) -> str:
    return f"{kind.words} {name} ({id})" if name else f"{kind.words} {id}"


# -- amphorae ----------------------------------------------------------------------------------------------------------
def _amphora(facts: _Facts, amphora: Amphora) -> Explanation:
    hearts = facts.tx.liveness([amphora.id])
    heart = hearts[0] if hearts else None
    base = Explanation(kind="amphora", id=amphora.id, situation=Situation.FINE, status=str(amphora.status), summary="")
    lb = amphora.load_balancer_id
    rows = facts.tx.operations(load_balancer_id=lb, open_only=True) if lb else ()
    about = next((r for r in rows if r.amphora_id == amphora.id), None) or next(iter(rows), None)
    if amphora.status is AmphoraStatus.DELETED:
        return attrs.evolve(base, situation=Situation.GONE, summary="it was removed")
    if heart is not None and heart.declared_dead:
        dead = _seconds(facts.now - heart.declared_dead)
        base = attrs.evolve(base, cause=_lost(facts, amphora.id), age=dead)
        if about is None:
            return attrs.evolve(
                base,
                situation=Situation.FAILED,
                summary=f"it was declared dead {dead:.0f} s ago, and nothing replaces it",
                advice=(f"replace it: octavia-admin amphora failover {amphora.id}",),
            )
        said = _operation(facts, about)
        return attrs.evolve(
            said,
            kind=base.kind,
            id=base.id,
            status=base.status,
            cause=said.cause or base.cause,
            summary=f"it was declared dead {dead:.0f} s ago; {said.doing}: {said.summary}",
        )
    if about is not None and (amphora.status is not AmphoraStatus.ALLOCATED or about.amphora_id == amphora.id):
        said = _operation(facts, about)
        return attrs.evolve(
            said, kind=base.kind, id=base.id, status=base.status, summary=f"{said.doing}: {said.summary}"
        )
    if amphora.status is AmphoraStatus.ERROR:
        return attrs.evolve(
            base,
            situation=Situation.FAILED,
            summary="an operation on it failed",
            cause=_lost(facts, amphora.id),
            advice=(f"replace it: octavia-admin amphora failover {amphora.id}",),
        )
    last = heart.last_heard if heart else None
    heard = f"last heard {_seconds(facts.now - last):.1f} s ago" if last else "never heard from"
    limit = facts.settings.health_manager.heartbeat_timeout
    if facts.running is False:
        return attrs.evolve(
            base,
            summary=f"{heard}; no controller runs on this state directory, so nobody listens",
            advice=("start one: octavia-admin up",),
        )
    return attrs.evolve(base, summary=heard, next=f"after {limit:g} s of silence it would be replaced")


def _lost(facts: _Facts, amphora_id: str) -> str | None:
    amphora = facts.tx.amphora(amphora_id)
    if amphora is None or amphora.load_balancer_id is None:
        return None
    events = facts.tx.events(load_balancer_id=amphora.load_balancer_id, limit=10_000)
    return next((e.text for e in reversed(events) if e.name == "amphora.lost" and e.amphora_id == amphora_id), None)


def _seconds(microseconds: int) -> float:
    return microseconds / 1_000_000


def _since(facts: _Facts, at: int | None) -> float | None:
    return None if at is None else _seconds(facts.now - at)
