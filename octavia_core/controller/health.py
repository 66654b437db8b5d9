"""Health: heartbeats in, statuses and failovers out.

Three threads: a receiver that verifies datagrams and keeps the newest of each amphora in memory; a writer that puts
them into the database in batches; a checker that judges silence. Deaths that the compute driver has proof of are acted
on at once. An observed death is claimed by a compare-and-set, so that any number of controllers start one failover.
"""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping

import attrs

from octavia_core.controller.worker import holder_name
from octavia_core.domain.heartbeat import BadPacket, Heartbeat, decode
from octavia_core.domain.operation import Event, Operation, Subject
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating
from octavia_core.errors import ConfigurationError, TransientError
from octavia_core.lifecycle.operating import roll_up
from octavia_core.policy.judgement import Ear, Finding, Heart, judge
from octavia_core.ports.clock import Clock
from octavia_core.ports.compute import ComputePort, Death, Watch
from octavia_core.ports.storage import Heard, Liveness, Storage, TrafficDelta, Transaction
from octavia_core.settings import Settings

__all__ = ["HealthManager", "bind_receiver"]

log = logging.getLogger("octavia_core.health")

LARGEST_DATAGRAM = 65536
"""Bytes; upstream's receiver takes as many."""
REAPPLY = 2.0
"""Seconds after which an unchanged report is held against the rows again: a row may have changed meanwhile."""
_WATCHED = (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED, AmphoraStatus.BOOTING)


def bind_receiver(settings: Settings) -> socket.socket:
    """The socket that heartbeats come to.

    Raises:
        ConfigurationError: address or port cannot be had; the sentence names them.
    """
    health = settings.health_manager
    family = socket.AF_INET6 if ":" in health.bind_ip else socket.AF_INET
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    if health.sock_rlimit:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, health.sock_rlimit)
    try:
        receiver.bind((health.bind_ip, health.bind_port))
    except OSError as error:
        receiver.close()
        raise ConfigurationError(
            f"heartbeats cannot be received on {health.bind_ip} port {health.bind_port}: {error.strerror}; "
            "choose others with [health_manager] bind_ip and bind_port"
        ) from error
    receiver.settimeout(0.5)
    return receiver


@attrs.define
class _Known:
    """What memory holds of one amphora."""

    heard_at: float = 0.0
    written_at: float = 0.0
    latest: Heartbeat | None = None
    fingerprint: object = None
    applied_at: float = 0.0
    matches: bool = True
    deltas: dict[str, TrafficDelta] = attrs.field(factory=dict)
    last_sequence: int | None = None


class HealthManager:
    """Receives, writes and judges until it is stopped.

    Args:
        receiver: a bound UDP socket; closed by `stop`.
        on_failover: called when a failover was stored, so that a worker of this process starts it at once.
    """

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        compute: ComputePort,
        clock: Clock,
        receiver: socket.socket,
        on_failover: Callable[[], None],
    ) -> None:
        health = settings.health_manager
        self._storage, self._compute, self._clock, self._receiver = storage, compute, clock, receiver
        self._on_failover = on_failover
        self._keys = [health.heartbeat_key.reveal()] if health.heartbeat_key else []
        self._timeout, self._check_every = health.heartbeat_timeout, health.health_check_interval
        self._write_every = max(health.heartbeat_interval, health.heartbeat_timeout / 3)
        self._never_heard = settings.engine.boot_deadline + health.heartbeat_timeout
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._stop, self._written = threading.Event(), threading.Event()
        self._pending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._watch: Watch | None = None
        self._observer = holder_name()
        self._listening_since = 0
        self._last_check = 0.0
        self.counters: Counter[str] = Counter()

    def start(self) -> None:
        """Start the threads and, where the compute driver offers it, the watch over its servers."""
        self._listening_since = self._storage.now()
        for name, target in (("receive", self._receive), ("write", self._write), ("check", self._check)):
            thread = threading.Thread(target=target, name=f"octavia-health-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._watch = self._compute.watch(self.died)

    def stop(self) -> None:
        """End all of it; what was heard is written first."""
        self._stop.set()
        self._pending.set()
        if self._watch is not None:
            self._watch.close()
        for thread in self._threads:
            thread.join(5)
        self._receiver.close()

    # -- receiving -------------------------------------------------------------------------------------------------
    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                packet = self._receiver.recv(LARGEST_DATAGRAM)
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stop.is_set():
                    log.error("the heartbeat socket failed: %s; nobody is judged until it is back", error)
                    self._listening_since = 0
                return
            try:
                heartbeat = decode(packet, self._keys)
            except BadPacket as bad:
                self.counters[str(bad.reason)] += 1
                continue
            self._keep(heartbeat)

    def _keep(self, heartbeat: Heartbeat) -> None:
        now = self._clock.monotonic()
        with self._lock:
            known = self._known.setdefault(heartbeat.amphora_id, _Known())
            if heartbeat.seq is not None and heartbeat.seq == known.last_sequence and known.latest == heartbeat:
                self.counters["repeated"] += 1
                return
            self.counters["accepted"] += 1
            known.last_sequence, known.heard_at = heartbeat.seq, now
            for delta in _deltas(heartbeat):
                known.deltas[delta.listener_id] = _sum(known.deltas.get(delta.listener_id), delta)
            fingerprint = _fingerprint(heartbeat)
            if fingerprint != known.fingerprint or not known.matches or now - known.applied_at > REAPPLY:
                self._pending.set()
            known.latest = heartbeat

    # -- writing ---------------------------------------------------------------------------------------------------
    def _write(self) -> None:
        while not self._stop.is_set():
            self._pending.wait(self._write_every)
            self._pending.clear()
            try:
                self._flush()
            except TransientError as error:
                log.warning("heartbeats cannot be written, they are kept in memory: %s", error)
                self._listening_since = 0
            self._stop.wait(WRITE_PAUSE)
        self._flush_last()

    def _flush_last(self) -> None:
        try:
            self._flush()
        except TransientError as error:
            log.warning("the last heartbeats were not written: %s", error)

    def _flush(self) -> None:
        now, wall = self._clock.monotonic(), self._storage.now()
        if self._listening_since == 0:
            self._listening_since = wall
        with self._lock:
            fresh = {i: k for i, k in self._known.items() if k.latest is not None and k.heard_at > k.written_at}
            beats = {i: (k.latest, k.heard_at) for i, k in fresh.items()}
            due = {
                i: beat
                for i, (beat, heard) in beats.items()
                if beat is not None
                and (
                    _fingerprint(beat) != fresh[i].fingerprint
                    or not fresh[i].matches
                    or now - fresh[i].applied_at > REAPPLY
                )
            }
            deltas = [delta for k in fresh.values() for delta in k.deltas.values()]
            for known in fresh.values():
                known.deltas = {}
        if not beats:
            return

        def write(tx: Transaction) -> tuple[dict[str, bool], list[tuple[Kind, str, Operating]]]:
            matches: dict[str, bool] = {}
            changes: list[tuple[Kind, str, Operating]] = []
            for amphora_id, beat in due.items():
                statuses, matches[amphora_id] = self._judge_report(tx, amphora_id, beat)
                if statuses:
                    tx.set_operating(statuses)
                    changes += [(kind, id, status) for (kind, id), status in statuses.items()]
            heard = [
                Heard(amphora_id=i, at=wall - int((now - at) * 1_000_000), sequence=b.seq, observer=self._observer)
                for i, (b, at) in beats.items()
                if b is not None and matches.get(i, fresh[i].matches)
            ]
            if heard:
                tx.heard(heard)
            if deltas:
                tx.add_traffic(deltas)
            return matches, changes

        try:
            matches, _ = self._storage.transaction(write)
        except TransientError:
            with self._lock:
                for delta in deltas:
                    known = self._known[delta.amphora_id]
                    known.deltas[delta.listener_id] = _sum(delta, known.deltas.get(delta.listener_id))
            raise
        with self._lock:
            for amphora_id, (beat, heard_at) in beats.items():
                known = self._known[amphora_id]
                known.written_at = heard_at
                if amphora_id in matches and beat is not None:
                    known.matches, known.applied_at = matches[amphora_id], now
                    known.fingerprint = _fingerprint(beat)

    def _judge_report(
        self, tx: Transaction, amphora_id: str, beat: Heartbeat
    ) -> tuple[Mapping[tuple[Kind, str], Operating], bool]:
        amphora = tx.amphora(amphora_id)
        if amphora is None:
            self.counters["unknown amphora"] += 1
            return {}, True
        if amphora.load_balancer_id is None or amphora.status is not AmphoraStatus.ALLOCATED:
            return {}, True
        tree = tx.tree(amphora.load_balancer_id)
        if tree is None:
            return {}, True
        if tree.provisioning_status.pending and not beat.listeners:
            return {}, True  # it was not given its configuration yet: that says nothing about what it will serve
        verdict = roll_up(tree, beat)
        for (kind, id), status in verdict.statuses.items():
            tx.emit(
                Event(
                    name=f"{kind}.{status}".lower(),
                    text=f"{kind.words} {_name(tree, id)} is {status}: so amphora {amphora_id} reports",
                    load_balancer_id=tree.id,
                    amphora_id=amphora_id,
                    data={"id": id, "kind": str(kind), "operating_status": str(status)},
                )
            )
        if not verdict.counts_match:
            self.counters["listener count differs"] += 1
        return verdict.statuses, verdict.counts_match

    # -- judging ---------------------------------------------------------------------------------------------------
    def _check(self) -> None:
        self._last_check = self._clock.monotonic()
        while not self._clock.sleep(self._check_every, self._stop):
            now = self._clock.monotonic()
            paused = now - self._last_check > self._check_every + self._timeout / 2
            self._last_check = now
            if paused:
                log.warning("this process stood still; silence is counted from now")
                self._listening_since = self._storage.now()
                continue
            try:
                self._look()
            except TransientError as error:
                log.warning("amphorae cannot be judged now: %s", error)

    def _look(self) -> None:
        since = self._listening_since
        if since == 0:
            return
        hearts = self._storage.read(lambda tx: tx.liveness())
        now, mono = self._storage.now(), self._clock.monotonic()
        ear = Ear(
            now=now,
            timeout=int(self._timeout * 1_000_000),
            deadline=int(self._never_heard * 1_000_000),
            listening_since=since,
        )
        for heart in hearts:
            if heart.declared_dead or heart.busy or heart.status not in _WATCHED:
                continue
            judgement = judge(Heart(last_heard=self._newest(heart, now, mono), since=heart.since), ear)
            if judgement.finding is not Finding.ALIVE and heart.status is not AmphoraStatus.BOOTING:
                self._declare(heart, judgement.evidence)

    def _newest(self, heart: Liveness, now: int, mono: float) -> int | None:
        """The later of what the row and what memory say; memory counts only what the rows would accept."""
        with self._lock:
            known = self._known.get(heart.amphora_id)
            if known is None or not known.heard_at or not known.matches:
                return heart.last_heard
            return max(heart.last_heard or 0, now - int((mono - known.heard_at) * 1_000_000))

    def died(self, death: Death) -> None:
        """There is proof: of the compute driver's watch, or of a look when the controller started."""
        try:
            hearts = self._storage.read(lambda tx: tx.liveness())
            for heart in hearts:
                if heart.compute_id == death.server_id and heart.status in _WATCHED and not heart.declared_dead:
                    self._declare(heart, death.evidence)
        except TransientError as error:
            log.warning("the death of server %s is judged later, by its silence: %s", death.server_id, error)

    def _declare(self, heart: Liveness, evidence: str) -> None:
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
                    text=f"amphora {heart.amphora_id} is lost: {evidence}",
                    load_balancer_id=heart.load_balancer_id,
                    amphora_id=heart.amphora_id,
                    operation_id=operation.id,
                    data={"evidence": evidence},
                )
            )
            if heart.load_balancer_id is not None and heart.status is not AmphoraStatus.BOOTING:
                tx.add_operation(operation)
            return True

        if self._storage.transaction(declare):
            log.warning("amphora %s is lost (%s); failover %s", heart.amphora_id, evidence, operation.id)
            self._on_failover()


WRITE_PAUSE = 0.02
"""Seconds between two batches at least: what arrives meanwhile shares one transaction."""


def _name(tree: LoadBalancer, id: str) -> str:
    for _, node in tree.nodes():
        name = getattr(node, "name", None)
        if node.id == id and name:
            return f"{name} ({id})"
    return id


def _fingerprint(beat: Heartbeat) -> object:
    """What of a heartbeat decides statuses."""
    return (
        tuple(sorted((i, report.status) for i, report in beat.listeners.items())),
        tuple(sorted((i, p.status, tuple(sorted(p.members.items()))) for i, p in beat.pools.items())),
    )


def _deltas(beat: Heartbeat) -> list[TrafficDelta]:
    return [
        TrafficDelta(
            listener_id=listener_id,
            amphora_id=beat.amphora_id,
            bytes_in=report.rx,
            bytes_out=report.tx,
            active_connections=report.conns,
            total_connections=report.totconns,
            request_errors=report.ereq,
            absolute=not beat.deltas,
        )
        for listener_id, report in beat.listeners.items()
    ]


def _sum(older: TrafficDelta | None, newer: TrafficDelta | None) -> TrafficDelta:
    if older is None or newer is None or newer.absolute:
        kept = newer or older
        assert kept is not None
        return kept
    return attrs.evolve(
        newer,
        bytes_in=older.bytes_in + newer.bytes_in,
        bytes_out=older.bytes_out + newer.bytes_out,
        total_connections=older.total_connections + newer.total_connections,
        request_errors=older.request_errors + newer.request_errors,
        absolute=older.absolute,
    )
