"""What the governor decided is done here: failovers stored, settings pushed again, statuses moved, all with events."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from octavia_core.domain.operation import Event, Operation, Subject
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Topology
from octavia_core.errors import BadRequest, OctaviaError
from octavia_core.flows.world import World
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.policy.governor import Act, Decision, Rule
from octavia_core.ports.amphora import BootIdentity
from octavia_core.ports.storage import Liveness, Storage, Transaction

__all__ = ["Actor"]

log = logging.getLogger("octavia_core.health")

_QUIET = frozenset({Rule.ASKING, Rule.REFRESHED})
"""Waiting that is a matter of moments, or was said already."""


class Actor:
    """Carries out decisions. Each is claimed or idempotent, so that any number of health managers may hold the same view.

    Args:
        on_failover: called when something was stored that a worker can start at once.
    """

    def __init__(self, storage: Storage, world: World, on_failover: Callable[[], None]) -> None:
        self._storage, self._world, self._on_failover = storage, world, on_failover
        self._held: Mapping[Rule, int] = {}

    def fail_over(self, heart: Liveness, decision: Decision) -> bool:
        """Declare it dead and store its failover, in one transaction; False when somebody else did."""
        operation = Operation(
            id=str(uuid.uuid4()),
            flow="failover",
            load_balancer_id=heart.load_balancer_id,
            amphora_id=heart.amphora_id,
            subjects=(Subject(Kind.LOAD_BALANCER, heart.load_balancer_id or ""),),
            internal=True,
            actor="health",
        )

        def declare(tx: Transaction) -> bool:
            if not tx.declare_dead(heart.amphora_id):
                return False
            tx.emit(
                Event(
                    name="amphora.lost",
                    text=f"amphora {heart.amphora_id} is lost: {decision.evidence}",
                    load_balancer_id=heart.load_balancer_id,
                    amphora_id=heart.amphora_id,
                    operation_id=operation.id,
                    data={"evidence": decision.evidence, "rule": str(decision.rule)},
                )
            )
            # The row says whether it serves by now: what was seen of it may be from while it was being built, and one
            # that is still being built is missed by whoever builds it.
            row = tx.amphora(heart.amphora_id)
            if row is not None and row.load_balancer_id is not None and row.status is not AmphoraStatus.BOOTING:
                tx.add_operation(operation)
            return True

        if not self._storage.transaction(declare):
            return False
        log.warning("amphora %s is lost (%s); failover %s", heart.amphora_id, decision.evidence, operation.id)
        self._on_failover()
        return True

    def refresh(self, heart: Liveness, decision: Decision) -> None:
        """Give it its configuration (an operation) and its agent's settings (at once) again."""
        request_id = (
            f"refresh-{heart.amphora_id}-{heart.last_heard or heart.since}"  # once per silence, whoever sees it
        )
        operation = Operation(
            id=str(uuid.uuid4()),
            flow="configure",
            load_balancer_id=heart.load_balancer_id,
            subjects=(),  # its failure moves no status: the failover that follows tells
            internal=True,
            actor="health",
            request_id=request_id,
        )

        def store(tx: Transaction) -> bool:
            if heart.load_balancer_id is None or tx.requested("configure", request_id) is not None:
                return False
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
            self._on_failover()
            self._send_settings(heart)

    def _send_settings(self, heart: Liveness) -> None:
        try:
            amphora = self._storage.read(lambda tx: tx.amphora(heart.amphora_id))
            if amphora is None or amphora.agent is None:
                return
            # Its certificate stays: only settings are sent, so no key has to be made for this.
            identity = BootIdentity(
                amphora_id=amphora.id,
                topology=Topology.SINGLE,
                server_pem=Secret(b""),
                controller_ca_pem=self._world.issuer.controller_ca(),
            )
            self._world.amphora.update_agent(amphora.agent, identity)
        except OctaviaError as error:
            log.warning("amphora %s was not given its settings again: %s", heart.amphora_id, error)

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

    def tell(self, decisions: Collection[Decision]) -> None:
        """Say what holds failovers back: when a rule begins to, and when it is over; not per amphora and look."""
        waiting = [d for d in decisions if d.act in (Act.WAIT, Act.STOP) and d.rule not in _QUIET]
        held = Counter(decision.rule for decision in waiting)
        news = {d.rule: d.evidence for d in waiting if d.rule not in self._held}
        over = [rule for rule in self._held if rule not in held]
        if news or over:
            self._storage.transaction(lambda tx: _tell(tx, news, held, over))
            for rule, evidence in news.items():
                log.warning("%s amphorae are silent and not failed over (%s): %s", held[rule], rule, evidence)
        self._held = held


def _tell(tx: Transaction, news: Mapping[Rule, str], held: Mapping[Rule, int], over: Collection[Rule]) -> None:
    for rule, evidence in news.items():
        tx.emit(
            Event(
                name="failover.held",
                text=f"{held[rule]} amphorae are silent and not failed over: {evidence}",
                data={"rule": str(rule), "amphorae": held[rule], "evidence": evidence},
            )
        )
    for rule in over:
        tx.emit(
            Event(
                name="failover.resumed",
                text=f"what held failovers back is over ({rule})",
                data={"rule": str(rule)},
            )
        )
