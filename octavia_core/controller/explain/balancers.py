"""Why a load balancer, or something below it, is as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from octavia_core.controller.explain.amphorae import later, silence
from octavia_core.controller.explain.comeback import coming_back
from octavia_core.controller.explain.facts import Facts
from octavia_core.controller.explain.operations import of_operation
from octavia_core.controller.explanation import Explanation, Situation
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, ListenerProtocol, Operating, Provisioning
from octavia_core.policy.sweep import GRACE, SweepMode

__all__ = ["of_balancer", "of_child"]


def of_balancer(facts: Facts, tree: LoadBalancer) -> Explanation:
    """The answer about a whole load balancer."""
    operations = facts.tx.operations(load_balancer_id=tree.id, limit=50)
    lacking = _lacking(facts, operations)
    problems = _problems(facts, tree, operations, lacking)
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
        return _under_way(facts, base, under_way)
    if tree.provisioning_status is Provisioning.DELETED:
        return attrs.evolve(base, situation=Situation.GONE, summary="it was deleted")
    if tree.provisioning_status.pending:
        return attrs.evolve(
            base,
            situation=Situation.UNHELD,
            summary="no operation is about it, so the request for it was lost",
            next=_swept(facts),
            advice=(f"see what happened to it: octavia-admin timeline {tree.id}",),
        )
    if tree.provisioning_status is Provisioning.ERROR:
        return _failed(facts, tree, base, operations)
    return _settled(facts, tree, base, lacking)


def _under_way(facts: Facts, base: Explanation, under_way: Sequence[Operation]) -> Explanation:
    first = next((r for r in under_way if r.state is not OperationState.QUEUED), under_way[-1])
    said = of_operation(facts, first)
    behind = [r.id for r in under_way if r.id != first.id]
    more = f"; behind it: {', '.join(behind)}" if behind else ""
    return attrs.evolve(
        said,
        kind=base.kind,
        id=base.id,
        name=base.name,
        status=base.status,
        problems=base.problems,
        summary=f"{said.doing}: {said.summary}{more}",
    )


def _swept(facts: Facts) -> str:
    if facts.settings.engine.sweep == SweepMode.REPAIR:
        return f"the sweep stores the operation that it needs, when the row is {GRACE:g} s old at the latest"
    return f"nothing by itself, since [engine] sweep is {facts.settings.engine.sweep}; with repair it would be mended"


def _failed(facts: Facts, tree: LoadBalancer, base: Explanation, operations: Sequence[Operation]) -> Explanation:
    failed = next((row for row in operations if row.state in _UNDONE), None)
    reason = (failed.error if failed else None) or "the reason was not recorded"
    said = attrs.evolve(
        base,
        situation=Situation.FAILED,
        summary=f"{failed.flow if failed else 'an operation'} {_ended(failed)}: {reason}",
        operation=failed.id if failed else None,
        doing=failed.flow if failed else None,
        cause=reason,
        age=facts.since(failed.finished_at) if failed else None,
        next="nothing by itself: an operation that failed for good is not repeated",
        advice=(
            *_mending(tree, reason),
            *((f"see what was tried: octavia-admin timeline {failed.id}",) if failed else ()),
        ),
    )
    lost = [a.id for a in facts.tx.amphorae(tree.id)]
    return coming_back(facts, said, lost) if facts.tx.comebacks(lost) else said


def _mending(tree: LoadBalancer, reason: str) -> tuple[str, ...]:
    """What may help one in ERROR. To build anew what no amphora here can serve would fail by the same words."""
    never = [listener for listener in tree.listeners if listener.id in reason and "cannot be served" in reason]
    if any(listener.protocol is ListenerProtocol.SCTP for listener in never):
        again = "and create it again without what the reason names, or where amphorae can serve it"
        return (f"delete it: octavia-admin lb delete {tree.id}", again)
    return (
        f"rebuild it: octavia-admin lb failover {tree.id}",
        f"or delete it: octavia-admin lb delete {tree.id}",
    )


_UNDONE = (OperationState.FAILED, OperationState.CANCELLED)


def _ended(operation: Operation | None) -> str:
    return "was undone" if operation is not None and operation.state is OperationState.CANCELLED else "failed"


def _settled(facts: Facts, tree: LoadBalancer, base: Explanation, lacking: Mapping[str, str]) -> Explanation:
    """ACTIVE and nobody at it: fine, or something below is not, or nobody is there to notice."""
    if base.problems:
        count = len(base.problems)
        base = attrs.evolve(
            base,
            situation=Situation.DEGRADED,
            summary=f"it serves with its last good configuration where needed, and {count} thing(s) below it are not well",
            advice=(
                *(("change or delete what is in ERROR; the rest is not affected",) if _in_error(tree) else ()),
                *(_serve_again(listener) for listener in tree.listeners if listener.id in lacking),
            ),
        )
        return facts.advised(base)
    amphorae = facts.tx.amphorae(tree.id)
    serving = [a.id for a in amphorae if a.status in (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED)]
    if not serving:
        base = attrs.evolve(
            base,
            situation=Situation.DEGRADED,
            summary="it has no amphora that serves",
            advice=(f"rebuild it: octavia-admin lb failover {tree.id}",),
        )
        return facts.advised(base)
    if facts.missing:
        return facts.nobody(base, f"it serves, and was {tree.operating_status} when it was last heard")
    for heart in facts.tx.liveness(serving):
        held = silence(facts, heart)
        if held is not None:
            return attrs.evolve(
                base,
                situation=Situation.HELD,
                summary=f"it was {tree.operating_status} when it was last heard; of amphora {heart.amphora_id}: {held[0]}",
                cause=held[1],
                next=later(facts, heart.amphora_id),
                advice=(f"replace it now all the same: octavia-admin amphora failover {heart.amphora_id}",),
            )
    return _operating(tree, base)


def _operating(tree: LoadBalancer, base: Explanation) -> Explanation:
    """Nothing is known to be wrong, and it may be so all the same: what the amphorae report decides."""
    status = tree.operating_status
    if status is Operating.ONLINE:
        return attrs.evolve(base, summary="nothing is wrong; it is ONLINE")
    if not tree.enabled or not any(listener.enabled for listener in tree.listeners):
        reason = "it is disabled" if not tree.enabled else "it has no listener that takes part"
        return attrs.evolve(base, summary=f"nothing is wrong; it is {status}, since {reason}")
    reason = " yet: no amphora has reported that its listeners are open" if status is Operating.OFFLINE else ""
    return attrs.evolve(
        base,
        situation=Situation.DEGRADED,
        summary=f"it is in place, but {'not ONLINE' if reason else status}{reason}",
        advice=(f"see what its amphorae report: octavia-admin lb show {tree.id}",),
    )


def _in_error(tree: LoadBalancer) -> bool:
    return any(node.provisioning_status is Provisioning.ERROR for _, node in tree.nodes())


def _serve_again(listener: Listener) -> str:
    """What fetches its secrets anew and serves it with them."""
    certificate = f" --cert {listener.tls_certificate_id}" if listener.tls_certificate_id else " --enable"
    return f"put its secret right, then have it served: octavia-admin listener set {listener.id}{certificate}"


def _problems(
    facts: Facts, tree: LoadBalancer, operations: Sequence[Operation], lacking: Mapping[str, str]
) -> tuple[str, ...]:
    reasons: dict[str, str] = {}
    for row in operations:
        if row.state in _UNDONE:
            for subject in row.subjects:
                reasons.setdefault(subject.id, row.error or "no reason recorded")
    in_error = {n.id for _, n in tree.nodes() if n.provisioning_status is Provisioning.ERROR}
    if in_error - reasons.keys():
        reasons = _left_out(facts, tree) | reasons
    found = []
    above = _above(tree)
    for kind, node in tree.nodes():
        label = _label(kind, node.id, getattr(node, "name", None))
        if node.provisioning_status is Provisioning.ERROR:
            if node.id not in reasons and above.get(node.id) in in_error:
                continue  # it came with what failed, and that is in the list with its reason
            if node.id in reasons or tree.provisioning_status is not Provisioning.ERROR:
                found.append(f"{label}: {reasons.get(node.id, 'no reason recorded')}")
        elif node.operating_status is Operating.ERROR and kind is Kind.MEMBER:
            address, port = getattr(node, "address", ""), getattr(node, "protocol_port", "")
            found.append(f"{label} at {address}:{port} does not pass the health monitor's checks")
        if node.id in lacking:
            found.append(f"{label} {lacking[node.id]}")
    return tuple(found)


def _above(tree: LoadBalancer) -> dict[str, str]:
    """What is below a pool or a listener -> the next above it."""
    found: dict[str, str] = {}
    for pool in tree.pools:
        found |= {node.id: pool.id for node in (*pool.members, pool.health_monitor) if node is not None}
    for listener in tree.listeners:
        for policy in listener.l7policies:
            found |= {policy.id: listener.id, **{rule.id: policy.id for rule in policy.rules}}
    return found


_PUSHING = ("create", "configure", "failover")
_LACKING = ("listener.kept", "listener.partial", "listener.doubtful")


def _lacking(facts: Facts, operations: Sequence[Operation], names: Sequence[str] = _LACKING) -> dict[str, str]:
    """What is not as wanted of listeners (that are served): listener id -> what the last push said of it."""
    for row in operations:
        if row.state is not OperationState.SUCCEEDED or row.flow not in _PUSHING:
            continue
        events = facts.tx.events(operation_id=row.id)
        if any(event.name == "request.over" for event in events):
            continue  # it touched nothing
        found: dict[str, str] = {}
        for event in events:
            if event.name in names:
                said = str(event.data["reason"])
                before = found.get(event.data["id"])
                found[event.data["id"]] = f"{before}; {said}" if before else said
        return found
    return {}


def _left_out(facts: Facts, tree: LoadBalancer) -> dict[str, str]:
    """Why listeners are not served although no operation about them failed: id -> the newest reason."""
    found: dict[str, str] = {}
    after = 0
    while page := facts.tx.events(after=after, load_balancer_id=tree.id, limit=1000):
        after = page[-1].sequence
        found |= {e.data["id"]: str(e.data["reason"]) for e in page if e.name == "listener.left_out"}
    return found


def of_child(facts: Facts, tree: LoadBalancer, kind: Kind, id: str) -> Explanation:
    """The answer about a listener, pool, member, ..."""
    node = next(n for k, n in tree.nodes() if k is kind and n.id == id)
    above = of_balancer(facts, tree)
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
        over = _above(tree).get(id)
        if not own and over is not None:  # it failed with what it came with
            own = tuple(p for p in above.problems if over in p)
        reason = own[0].partition(": ")[2] if own else "no reason recorded"
        good = facts.tx.last_good(tree.id)
        worked = good is not None and any(one.id == id for _, one in good.tree.nodes())
        now = "the last good configuration serves on" if worked else "it never worked, so it is left out"
        base = attrs.evolve(
            base,
            situation=Situation.FAILED,
            summary=f"it could not be put in place: {reason}",
            cause=reason,
            next=f"{now}; this object counts again once it is changed",
            advice=("change it or delete it",),
        )
        rows = facts.tx.operations(load_balancer_id=tree.id, limit=50)
        if isinstance(node, Listener) and id in _lacking(facts, rows, ("listener.left_out",)):
            again = "the first push that finds what it lacks serves it again; until then nobody answers there"
            return attrs.evolve(base, next=again, advice=(_serve_again(node), "or delete it"))
        return base
    if node.provisioning_status.pending:
        return attrs.evolve(base, summary=f"load balancer {tree.name or tree.id}: {above.summary}")
    summary = f"it is in place and {node.operating_status}"
    if above.situation in (Situation.UNSERVED, Situation.UNHEARD, Situation.HELD):
        return attrs.evolve(
            base,
            summary=f"it is in place, and was {node.operating_status} when its amphora was last heard; "
            f"load balancer {tree.name or tree.id}: {above.summary}",
            problems=(),
        )
    if node.operating_status is Operating.ERROR:
        return attrs.evolve(
            base,
            situation=Situation.DEGRADED,
            summary=f"{summary}: the amphora's checks of it fail",
            advice=("see that it answers as the health monitor expects",),
        )
    if own and kind is Kind.LISTENER and isinstance(node, Listener):
        said = f"{summary}, but {own[0].partition(f'({id}) ')[2] or own[0]}"
        return attrs.evolve(base, situation=Situation.DEGRADED, summary=said, advice=(_serve_again(node),))
    return attrs.evolve(base, situation=Situation.FINE, summary=summary, problems=())


def _label(kind: Kind, id: str, name: str | None) -> str:
    return f"{kind.words} {name} ({id})" if name else f"{kind.words} {id}"
