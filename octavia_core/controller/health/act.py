"""What the governor decided is done here: failovers stored, settings pushed again, statuses moved, all with events."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import attrs

from octavia_core.controller.governing import bucket_of, pause_words
from octavia_core.controller.health.places import domains
from octavia_core.controller.holder import STALE, ended_here, living
from octavia_core.controller.holds import HELD, RESUMED, standing
from octavia_core.controller.rotation import last_marks
from octavia_core.domain.operation import Event, Operation, Subject
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning
from octavia_core.errors import BadRequest
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.policy.governor import Act, Decision, Rule, used_up
from octavia_core.ports.hearts import Liveness
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Actor"]

T = TypeVar("T")

log = logging.getLogger("octavia_core.health")

_TOGETHER = 50
"""Failovers that are declared in one transaction: the others that want to write wait for it."""
_NAMED = 10
"""Hosts, zones and networks that an event names at most, of each kind."""
_QUIET = frozenset({Rule.ASKING, Rule.REFRESHED})
"""Waiting that is a matter of moments, or was said already."""


class Actor:
    """Carries out decisions. Each is claimed or idempotent, so that any number of health managers may hold the same view.

    Args:
        on_failover: called when something was stored that a worker can start at once.
        by: the health manager whose decisions these are, which its events name.

    Attributes:
        held: rule -> how many amphorae it held back at the last look, and `evidence`: why.
        declared: rule -> how many this one declared dead since it began.
    """

    def __init__(self, storage: Storage, on_failover: Callable[[], None], by: str = "") -> None:
        self._storage, self.on_failover, self._by = storage, on_failover, by
        self._succeeded = False
        self.held: Mapping[Rule, int] = {}
        self.evidence: Mapping[Rule, str] = {}
        self.declared = Counter[Rule]()

    def fail_over(self, lost: Sequence[tuple[Liveness, Decision]], rate: float) -> Sequence[Decision]:
        """Declare them dead and store their failovers, some dozens in one transaction, each for one of the tokens that all
        health managers share. What somebody else declared costs none.

        Args:
            lost: those to be failed over, most urgent first.
            rate: tokens that come back per minute.

        Returns:
            New decisions for those that were not: no token was left, or failovers were paused meanwhile.
        """
        waiting: list[Decision] = []
        for some in _batches(lost, _TOGETHER):
            declared, refused = self._storage.transaction(lambda tx, some=some: _declare_all(tx, some, rate))  # type: ignore[misc]
            waiting += refused
            self.declared.update(decision.rule for decision, _ in declared)
            for decision, operation_id in declared:
                words = f"; failover {operation_id}" if operation_id else ""
                log.warning("amphora %s is lost (%s)%s", decision.amphora_id, decision.evidence, words)
            if declared:
                self.on_failover()
        return waiting

    def refresh(self, heart: Liveness, decision: Decision) -> None:
        """Store that it is given its agent's settings and its configuration again, each by an operation.

        A worker sends its own settings: those of a health manager may lack what agents are told, or be older than that. What
        was rotated since this fleet began goes along as marks, so that a worker with other settings tells nobody.
        """
        silence = f"refresh-{heart.amphora_id}-{heart.last_heard or heart.since}"  # once, whoever sees it
        first, second = sorted(str(uuid.uuid4()) for _ in range(2))  # of one moment, the smaller id comes first
        operation = Operation(
            id=second,
            flow="configure",
            load_balancer_id=heart.load_balancer_id,
            subjects=(),  # its failure moves no status: the failover that follows tells
            internal=True,
            actor="health",
            request_id=silence,
        )

        def store(tx: Transaction) -> bool:
            if heart.load_balancer_id is None or tx.requested("configure", silence) is not None:
                return False
            arguments = {"tell": "settings", "marks": last_marks(tx)}
            settings = attrs.evolve(
                operation,
                id=first,
                flow="configure-agent",
                amphora_id=heart.amphora_id,
                arguments=arguments,
            )
            tx.add_operation(settings)
            tx.add_operation(operation)
            tx.emit(
                Event(
                    name="amphora.refreshed",
                    text=f"amphora {heart.amphora_id}: {decision.evidence}",
                    load_balancer_id=heart.load_balancer_id,
                    amphora_id=heart.amphora_id,
                    operation_id=operation.id,
                    data={"evidence": decision.evidence, "rule": str(decision.rule)},
                )
            )
            return True

        if self._storage.transaction(store):
            log.warning("amphora %s: %s", heart.amphora_id, decision.evidence)
            self.on_failover()

    def stop(self, hearts: Collection[Liveness], evidence: str) -> None:
        """Upstream's breaker: those that serve become FAILOVER_STOPPED."""
        for heart in hearts:
            event = Event(
                name="amphora.failover_stopped",
                text=f"amphora {heart.amphora_id} is silent and is not failed over: {evidence}",
                load_balancer_id=heart.load_balancer_id,
                amphora_id=heart.amphora_id,
                data={"evidence": evidence},
            )
            self._move(heart, AmphoraEvent.STOP, event)

    def resume(self, hearts: Collection[Liveness]) -> None:
        """They are heard again: back to ALLOCATED."""
        for heart in hearts:
            event = Event(
                name="amphora.heard_again",
                text=f"amphora {heart.amphora_id} is heard again and serves as before",
                load_balancer_id=heart.load_balancer_id,
                amphora_id=heart.amphora_id,
            )
            self._move(heart, AmphoraEvent.RESUME, event)

    def _move(self, heart: Liveness, what: AmphoraEvent, event: Event) -> None:
        def move(tx: Transaction) -> None:
            tx.settle_amphora(heart.amphora_id, what)
            tx.emit(event)

        try:
            self._storage.transaction(move)
        except BadRequest as moved:  # somebody was quicker: another health manager, or a deletion
            log.info("amphora %s: %s", heart.amphora_id, moved)

    def tell(self, decisions: Collection[Decision], hearts: Mapping[str, Liveness]) -> None:
        """Say what holds failovers back: when a rule begins to, and when it is over; not per amphora and look. What a health
        manager said that has ended since is over, too.
        """
        if not self._succeeded:
            self._storage.transaction(lambda tx: _end_of_the_dead(tx, self._by))
            self._succeeded = True
        waiting = [d for d in decisions if d.act in (Act.WAIT, Act.STOP) and d.rule not in _QUIET]
        held = Counter(decision.rule for decision in waiting)
        news = {d.rule: d.evidence for d in waiting if d.rule not in self.held}
        over = [rule for rule in self.held if rule not in held]
        if news or over:
            where = {rule: _where(hearts[d.amphora_id] for d in waiting if d.rule is rule) for rule in news}
            events = [_held(rule, held[rule], evidence, where[rule], self._by) for rule, evidence in news.items()]
            events += [_resumed(rule, self._by) for rule in over]
            self._storage.transaction(lambda tx: _emit(tx, events))
            for event in events[: len(news)]:
                log.warning("%s", event.text)
        self.held = held
        self.evidence = {d.rule: d.evidence for d in waiting}


def _end_of_the_dead(tx: Transaction, mine: str) -> None:
    """What health managers hold back that have ended is over, our own earlier life included: whoever judges now says it anew."""
    now, rows = tx.governing().now, {one.name: one for one in tx.observers()}
    for event in standing(tx):
        by = str(event.data.get("by") or "")
        row = rows.get(by)  # none yet: it has just begun, or ended and took it away
        alive = living(row, now) if row else not ended_here(by) and now - event.at <= STALE * 1_000_000
        if not alive or by == mine != "":
            tx.emit(_resumed(event.data["rule"], by, "; the health manager that said so has ended"))


def _emit(tx: Transaction, events: Iterable[Event]) -> None:
    for event in events:
        tx.emit(event)


def _declare_all(
    tx: Transaction, lost: Sequence[tuple[Liveness, Decision]], rate: float
) -> tuple[list[tuple[Decision, str | None]], list[Decision]]:
    """(declared with their operations, those that have to wait)."""
    shared = tx.governing(hold=True)
    pause = pause_words(shared)
    if pause is not None:
        paused = f"failovers are {pause}"
        return [], [attrs.evolve(d, act=Act.WAIT, rule=Rule.PAUSED, evidence=paused) for _, d in lost]
    tokens = bucket_of(shared, rate).tokens
    declared: list[tuple[Decision, str | None]] = []
    waiting = []
    owners = {Subject(Kind.LOAD_BALANCER, heart.load_balancer_id) for heart, _ in lost if heart.load_balancer_id}
    deleted = {subject.id for subject, at in tx.provisioning(owners).items() if at is Provisioning.DELETED}
    for heart, decision in lost:
        if heart.load_balancer_id in deleted:
            log.info("amphora %s is silent, and its load balancer is DELETED: it is not missed", heart.amphora_id)
        elif tokens < 1:
            waiting.append(
                attrs.evolve(decision, act=Act.WAIT, rule=Rule.RATE, evidence=used_up(decision.evidence, rate))
            )
        elif tx.declare_dead(heart.amphora_id):
            tokens -= 1
            declared.append((decision, _declare(tx, heart, decision)))
    tx.set_tokens(tokens)
    return declared, waiting


def _declare(tx: Transaction, heart: Liveness, decision: Decision) -> str | None:
    """Store the failover (of a spare: the removal) of one that was just declared dead, unless whoever builds it misses it."""
    # The row says what it is by now: what was seen of it may be from while it was being built, or from when it was a spare.
    row = tx.amphora(heart.amphora_id)
    if row is not None and row.load_balancer_id is None:
        tx.change_amphora(row.id)  # nobody takes it from here on; perhaps somebody just has
        row = tx.amphora(row.id)
    spare = row is not None and row.status is AmphoraStatus.READY
    lb_id = row.load_balancer_id if row is not None else heart.load_balancer_id
    operation = Operation(
        id=str(uuid.uuid4()),
        flow="delete-amphora" if spare else "failover",
        load_balancer_id=lb_id,
        amphora_id=heart.amphora_id,
        subjects=() if spare else (Subject(Kind.LOAD_BALANCER, lb_id or ""),),
        internal=True,
        actor="health",
    )
    places = domains(heart)
    words = ", ".join(f"{kind} {name}" for kind, name in places.items())
    tx.emit(
        Event(
            name="amphora.lost",
            text=f"{'spare ' if spare else ''}amphora {heart.amphora_id}{f' ({words})' if words else ''} is lost: {decision.evidence}",
            load_balancer_id=lb_id,
            amphora_id=heart.amphora_id,
            operation_id=operation.id,
            data={"evidence": decision.evidence, "rule": str(decision.rule), **places},
        )
    )
    if spare:
        tx.settle_amphora(heart.amphora_id, AmphoraEvent.FAIL)  # nobody is to miss it: it is removed
    elif row is None or row.load_balancer_id is None or row.status is AmphoraStatus.BOOTING:
        return None  # whoever builds it will miss it
    tx.add_operation(operation)
    return operation.id


def _where(hearts: Iterable[Liveness]) -> Mapping[str, Mapping[str, int]]:
    """Kind of domain -> name -> how many are silent there: those with the most."""
    counts: dict[str, Counter[str]] = {}
    for heart in hearts:
        for kind, name in domains(heart).items():
            counts.setdefault(kind, Counter())[name] += 1
    return {kind: dict(sorted(found.most_common(_NAMED))) for kind, found in sorted(counts.items())}


def _held(rule: Rule, many: int, evidence: str, where: Mapping[str, Mapping[str, int]], by: str) -> Event:
    places = [f"{kind} {name} ({count})" for kind in ("host", "zone") for name, count in where.get(kind, {}).items()]
    words = f", of {', '.join(places[:4])}{' and others' if len(places) > 4 else ''}," if places else ""
    return Event(
        name=HELD,
        text=f"{many} amphorae{words} are silent and not failed over: {evidence}",
        data={"rule": str(rule), "amphorae": many, "evidence": evidence, "silent": where, **_whose(by)},
    )


def _resumed(rule: str, by: str, why: str = "") -> Event:
    return Event(
        name=RESUMED, text=f"what held failovers back is over ({rule}){why}", data={"rule": str(rule), **_whose(by)}
    )


def _whose(by: str) -> Mapping[str, str]:
    return {"by": by} if by else {}


def _batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
