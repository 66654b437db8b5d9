"""Why an amphora is as it is: heard, silent, replaced or not."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from octavia_core.controller.explain.comeback import coming_back, paused
from octavia_core.controller.explain.facts import Facts, seconds
from octavia_core.controller.explain.operations import of_operation
from octavia_core.controller.explanation import Explanation, Situation
from octavia_core.controller.holds import standing
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation
from octavia_core.domain.reportable import excess_of
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.policy.governor import PATIENCE
from octavia_core.ports.hearts import Liveness

__all__ = ["later", "of_amphora", "silence"]

_MANY = 1000
"""Open operations that are looked through for one about an amphora without a load balancer."""


def of_amphora(facts: Facts, amphora: Amphora) -> Explanation:
    """The answer about one amphora."""
    heart = next(iter(facts.tx.liveness([amphora.id])), None)
    base = Explanation(kind="amphora", id=amphora.id, situation=Situation.FINE, status=str(amphora.status), summary="")
    lb = amphora.load_balancer_id
    rows = facts.tx.operations(load_balancer_id=lb, open_only=True) if lb else _about(facts, amphora.id)
    about = next((r for r in rows if r.amphora_id == amphora.id), None) or next(iter(rows), None)
    if amphora.status is AmphoraStatus.DELETED:
        return attrs.evolve(base, situation=Situation.GONE, summary="it was removed")
    if amphora.status is AmphoraStatus.READY and about is None:
        return _spare(facts, base, heart)
    if heart is not None and heart.declared_dead and lb:
        dead = seconds(facts.now - heart.declared_dead)
        base = attrs.evolve(base, cause=_lost(facts, amphora), age=dead)
        if about is None:
            said = attrs.evolve(
                base,
                situation=Situation.FAILED,
                summary=f"it was declared dead {dead:.0f} s ago, and nothing replaces it",
                advice=(f"replace it: octavia-admin amphora failover {amphora.id}",),
            )
            return coming_back(facts, said, [amphora.id])
        said = of_operation(facts, about)
        return attrs.evolve(
            said,
            kind=base.kind,
            id=base.id,
            status=base.status,
            cause=said.cause or base.cause,
            summary=f"it was declared dead {dead:.0f} s ago; {said.doing}: {said.summary}",
        )
    serving = (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED)
    if about is not None and (amphora.status not in serving or about.amphora_id == amphora.id):
        said = of_operation(facts, about)
        return attrs.evolve(
            said, kind=base.kind, id=base.id, status=base.status, summary=f"{said.doing}: {said.summary}"
        )
    if amphora.status is AmphoraStatus.ERROR:
        said = attrs.evolve(
            base,
            situation=Situation.FAILED,
            summary="an operation on it failed" if lb else "it serves nobody and could not be removed",
            cause=_lost(facts, amphora),
            advice=(
                f"replace it: octavia-admin amphora failover {amphora.id}"
                if lb
                else f"remove it: octavia-admin amphora delete {amphora.id}",
            ),
        )
        return coming_back(facts, said, [amphora.id])
    return _serving(facts, base, heart)


def _about(facts: Facts, amphora_id: str) -> Sequence[Operation]:
    """Open operations about an amphora without a load balancer."""
    return [one for one in facts.tx.operations(open_only=True, limit=_MANY) if one.amphora_id == amphora_id]


def _spare(facts: Facts, base: Explanation, heart: Liveness | None) -> Explanation:
    said = f"it is a spare: it runs and serves nobody, {_heard(facts, heart)}"
    if facts.missing:
        return facts.nobody(base, said)
    return attrs.evolve(
        base,
        summary=said,
        next="the next creation or failover that it fits takes it; should it die, it is removed",
        advice=(f"remove it: octavia-admin amphora delete {base.id}",),
    )


def _heard(facts: Facts, heart: Liveness | None) -> str:
    if heart is not None and heart.last_heard:
        return f"last heard {seconds(facts.now - heart.last_heard):.1f} s ago"
    return "never heard from"


def _serving(facts: Facts, base: Explanation, heart: Liveness | None) -> Explanation:
    heard = _heard(facts, heart)
    if facts.missing:
        return facts.nobody(base, heard)
    held = silence(facts, heart) if heart is not None else None
    if held is not None:
        words, cause = held
        return attrs.evolve(
            base,
            situation=Situation.HELD,
            summary=words,
            cause=cause,
            next=later(facts, base.id),
            advice=(f"replace it now all the same: octavia-admin amphora failover {base.id}",),
        )
    limit = facts.settings.health_manager.heartbeat_timeout
    return attrs.evolve(base, summary=heard, next=f"after {limit:g} s of silence it would be replaced")


def later(facts: Facts, amphora_id: str) -> str:
    """What becomes of one that is silent and held back."""
    again = "" if facts.ended(amphora_id) else ", or heard again"
    return f"it is judged anew at every look: once what holds that back is over it is replaced{again}"


def silence(facts: Facts, heart: Liveness) -> tuple[str, str | None] | None:
    """(sentence, cause) about one that is silent for longer than it may and was not given up; None for all others."""
    timeout = facts.settings.health_manager.heartbeat_timeout
    if heart.declared_dead or heart.status not in (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED):
        return None
    if heart.last_heard:
        silent, allowed = seconds(facts.now - heart.last_heard), timeout
        words = f"it is silent for {silent:.0f} s, longer than the {allowed:g} s that it may be"
    else:
        silent, allowed = seconds(facts.now - heart.since), facts.settings.engine.boot_deadline + timeout
        words = f"it was never heard from, {silent:.0f} s after its server was asked for"
    proof = facts.ended(heart.amphora_id)
    if proof is not None:
        heard = f"it was last heard {max(0.0, silent):.0f} s ago" if heart.last_heard else "it was never heard from"
        words = f"{proof}; {heard}"
    if heart.status is AmphoraStatus.FAILOVER_STOPPED:
        event = facts.tx.newest_event(("amphora.failover_stopped",), amphora_id=heart.amphora_id)
        cause = str(event.data.get("evidence")) if event else "too many were silent at once"
        return f"{words}, and its failover is stopped: {cause}", cause
    if silent <= allowed and proof is None:
        return None
    words += "" if proof else _too_many(facts, heart.load_balancer_id)
    pause = paused(facts)
    if pause is not None:
        return f"{words}, and {pause}", pause
    held = standing(facts.tx)
    if held:
        cause = str(held[0].data.get("evidence"))
        return f"{words}, and its failover is held back: {cause}", cause
    if proof is not None:
        return f"{words}; the health manager is about to replace it", proof
    return _refreshed(facts, heart, words) or (f"{words}; the health manager is about to decide what that means", None)


def _refreshed(facts: Facts, heart: Liveness, words: str) -> tuple[str, str | None] | None:
    """The same of one that answers, and was given its settings again since it was heard last."""
    event = facts.tx.newest_event(("amphora.refreshed",), amphora_id=heart.amphora_id)
    if event is None or event.at <= (heart.last_heard or heart.since):
        return None
    cause = str(event.data.get("evidence"))
    allowed = PATIENCE * facts.settings.health_manager.heartbeat_timeout
    since = seconds(facts.now - event.at)
    later = f"its settings and its configuration were sent again {since:.0f} s ago, and after {allowed:g} s of silence it is replaced"
    return f"{words} ({cause}); {later}", cause


def _lost(facts: Facts, amphora: Amphora) -> str | None:
    event = facts.tx.newest_event(("amphora.lost",), amphora_id=amphora.id)
    return None if event is None else event.text + _too_many(facts, amphora.load_balancer_id)


def _too_many(facts: Facts, load_balancer_id: str | None) -> str:
    """What goes with the silence of an amphora that has more members than its heartbeat takes; empty for all others."""
    tree = facts.tx.tree(load_balancer_id) if load_balancer_id else None
    found = excess_of(tree) if tree is not None else None
    return "" if found is None else f"; an agent of upstream's cannot be heard there: {found}"
