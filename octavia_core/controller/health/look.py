"""Finding the silent: memory first, the rows of those that memory does not clear, then the governor."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs

from octavia_core.controller.governing import bucket_of, pause_words
from octavia_core.controller.health.act import Actor
from octavia_core.controller.health.again import Comebacks
from octavia_core.controller.health.ask import Inquiry
from octavia_core.controller.health.changing import Changing
from octavia_core.controller.health.figures import EVERY, NEWEST, SOME, Figures, signatures
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.places import domains
from octavia_core.controller.health.wall import Wall
from octavia_core.controller.health.watched import Watched
from octavia_core.controller.holds import ENDED
from octavia_core.controller.worker import ended_here
from octavia_core.domain.fingerprint import fingerprint
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.policy.governor import (
    Act,
    Decision,
    Facts,
    Receiver,
    Rule,
    Suspect,
    decide,
    hearing_doubt,
    holding,
)
from octavia_core.policy.judgement import Ear, Finding, Heart, judge, late_after
from octavia_core.ports.clock import Clock
from octavia_core.ports.hearts import Liveness
from octavia_core.ports.storage import Storage
from octavia_core.settings import Settings

__all__ = ["Evidence", "Lookout"]

log = logging.getLogger("octavia_core.health")

_MICRO = 1_000_000
_WATCHED = (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED, AmphoraStatus.BOOTING, AmphoraStatus.READY)
MANY = 200
"""Amphorae that memory does not clear, above which the database is asked who is silent instead of about each."""
PART, PARTS = 2000, 20
"""Rows of amphorae that one look reads at least when all are to be read anew, and looks that this takes at most: a look at a
hundred thousand must not keep the machine for seconds.
"""
STEP = 2 * _MICRO
"""A difference between two clocks that a slow query may make, microseconds; half the timeout where that is longer."""
_REMEMBERED = 3
"""Timeouts for which a receiver that hears nobody still counts as one that should agree."""
_ENDED = 50
"""Amphorae that are known to have ended that a health manager's row names at most, while nothing replaces them."""


@attrs.frozen
class Evidence:
    """What is known of amphorae beside their rows.

    Attributes:
        memory: what was heard of them.
        ask: what agents and servers answer.
        keys: every valid key by the number that memory has it under; None: as the settings number them.
    """

    memory: Memory
    ask: Inquiry
    keys: Mapping[int, bytes] | None = None


class Lookout:
    """Looks for the silent and does what the governor says. `look` is called by one thread, `died` by any.

    Attributes:
        paused: why this process starts no failovers, None when it may; besides, an operator may have paused everybody's.
        figures: what the last look that was written down found.
        lag: asks how many seconds a datagram waited until it was known, at the longest; None while nobody can say.
        replaced: asks how many processes that receive were replaced, by what had become of them.
    """

    def __init__(
        self, storage: Storage, settings: Settings, clock: Clock, wall: Wall, evidence: Evidence, actor: Actor
    ) -> None:
        health, engine = settings.health_manager, settings.engine
        self._storage, self._clock, self._memory, self._wall = storage, clock, evidence.memory, wall
        self._ask, self._actor = evidence.ask, actor
        keys = dict(enumerate(health.keys)) if evidence.keys is None else evidence.keys
        self._figures, self._accepts = Figures(storage), {number: fingerprint(key) for number, key in keys.items()}
        self._again = Comebacks(storage, settings, actor.on_failover)
        self._timeout = int(health.heartbeat_timeout * _MICRO)
        self._late = int(late_after(health.heartbeat_timeout, health.heartbeat_interval) * _MICRO)
        turn = 1.5 * health.heartbeat_interval * max(1, len(health.controller_ip_port_list))
        self._quiet = max(self._late, int(max(turn, EVERY + 2 * health.health_check_interval + 1) * _MICRO))
        self._deadline = int((engine.boot_deadline + health.heartbeat_timeout) * _MICRO)
        self._threshold, self._rate = health.failover_threshold, engine.failovers_per_minute
        self._lock = threading.RLock()
        self._all, self._forgotten = Watched(), 0
        self._read_at: int | None = None
        self._unread: list[str] = []
        self._pushed: set[str] = set()
        self._changing = Changing(storage, evidence.memory, self._timeout)
        self._proofs: dict[str, str] = {}
        self._others: dict[str, int] = {}
        self._dropped_at, self._dropped = 0, 0
        self._held_at = self._stepped_at = 0
        self._looked: tuple[int, float] | None = None
        self.paused: str | None = None
        self.figures: Mapping[str, Any] = {}
        self.lag: Callable[[], float] | None = None
        self.replaced: Callable[[], Mapping[str, int]] = dict

    def dropped(self, datagrams: int) -> None:
        """The kernel dropped so many since the last look."""
        now = self._wall.now()
        if datagrams:
            recent = now - self._dropped_at <= self._timeout
            self._dropped_at, self._dropped = now, datagrams + (self._dropped if recent else 0)
        elif now - self._dropped_at > self._timeout:
            self._dropped = 0

    def died(self, server_id: str, evidence: str) -> None:
        """There is proof that a server ended: judged at once, and at every look until its failover could start."""
        self.died_together({server_id: evidence})

    def died_together(self, servers: Mapping[str, str]) -> None:
        """The same for several, server -> evidence: one decision, and a transaction for some dozens of them."""
        with self._lock:
            now = self._wall.now()
            if not servers.keys() <= self._all.servers.keys():
                self._read_young(now)  # some are younger than the last look
            found = {self._all.servers.get(server_id): evidence for server_id, evidence in servers.items()}
            proofs = {id: evidence for id, evidence in found.items() if id is not None}
            if proofs:
                self._proofs |= proofs
                self._decide([], now, proofs=proofs)

    def look(self, listening_since: int, observer: str) -> None:
        """One look at everybody. Raises TransientError when the database is away."""
        with self._lock:
            now, mono = self._wall.now(), self._clock.monotonic()
            listening_since = self._after_steps(listening_since, now, mono)
            self._read_on(now)
            ear = Ear(now=now, timeout=self._timeout, deadline=self._deadline, listening_since=listening_since)
            early = Ear(
                now=now,
                timeout=self._late,
                deadline=self._deadline - self._timeout + self._late,
                listening_since=listening_since,
            )
            quiet: list[Liveness] = []
            uncleared = self._uncleared(mono)
            # before that, nobody can be late, heard or not
            if now - listening_since > min(early.timeout, early.deadline):
                quiet = [heart for heart in uncleared if not self._alive(heart, early, mono)]
            if quiet:
                quiet = self._read_again(quiet, early, mono, observer)
            if quiet and self._changing.look(quiet, now, mono):
                quiet = [heart for heart in quiet if not self._alive(heart, early, mono)]
            self._pushed &= {heart.amphora_id for heart in quiet}
            self._resume(early, mono)
            facts = None
            if quiet:
                facts = self._facts(quiet, now, observer)
                if holding(facts):
                    self._held_at = now
                elif self._held_at > listening_since:  # it is over: silence counts anew from then
                    ear, early = (attrs.evolve(one, listening_since=self._held_at) for one in (ear, early))
                    quiet = [heart for heart in quiet if not self._alive(heart, early, mono)]
                self._ask.ask([] if hearing_doubt(facts) else quiet)
            suspects = [one for heart in quiet if (one := self._suspect(heart, ear, mono)) is not None]
            if suspects or self._proofs:
                self._decide(suspects, now, facts)
            else:
                self._actor.tell([], {})
            self._again.tick(mono)
            self._ask.place(self._all.hearts.values())
            told = self._memory.counters
            self._figures.tick(mono, observer, told, lambda: self._figure(ear, mono, len(suspects)))

    def _after_steps(self, listening_since: int, now: int, mono: float) -> int:
        """From when on silence counts. Where the database's clock was set since the last look, what was written by it
        before says nothing about now: silence counts anew, and no time of ours stays in a future that was taken back.
        """
        before, self._looked = self._looked, (now, mono)
        if before is not None:
            step = now - before[0] - int((mono - before[1]) * _MICRO)
            if abs(step) > max(self._timeout / 2, STEP):
                log.warning("the database's clock was set by %+.1f s; silence is counted from now", step / _MICRO)
                self._stepped_at = self._held_at = now
                self._dropped_at = min(self._dropped_at, now)
                self._others = {name: min(at, now) for name, at in self._others.items()}
                self._read_at = None
        if listening_since > now and not 0 < self._stepped_at <= now:
            self._stepped_at = now
        return self._stepped_at if listening_since > now else max(self._stepped_at, listening_since)

    @property
    def watched(self) -> frozenset[str] | None:
        """Amphorae that are judged, None before the first look."""
        return None if self._read_at is None and not self._all.hearts else frozenset(self._all.hearts)

    def _read_on(self, now: int) -> None:
        """All rows once in a timeout: at first and after a step of the clock at once, then a part of them at each look."""
        if self._read_at is None or now < self._read_at:
            self._read_all(now)
            return
        if not self._unread:
            if now - self._read_at < self._timeout:
                return
            self._begin_anew(now)
        size = max(PART, len(self._all.hearts) // PARTS)
        part, self._unread = self._unread[:size], self._unread[size:]
        self._refresh(part)

    def _read_all(self, now: int) -> None:
        rows = self._storage.read(lambda tx: tx.liveness())
        self._all = Watched()
        self._all.put(heart for heart in rows if _watched(heart))
        self._unread = []
        self._begin(now)

    def _begin_anew(self, now: int) -> None:
        """Who is gone is not judged any more, and all rows are to be read, those of who is new first."""
        ids = self._storage.read(lambda tx: tx.amphora_ids())
        self._all.drop([id for id in self._all.hearts if id not in ids])
        self._unread = sorted(ids, key=lambda one: (one in self._all.hearts, one))
        self._begin(now)

    def _begin(self, now: int) -> None:
        self._read_at = now
        wanted = self._all.hearts.keys() | set(self._unread)
        self._memory.forget_others(wanted, self._clock.monotonic() - self._timeout / _MICRO)

    def _read_young(self, now: int) -> None:
        """Rows that are new, and those of amphorae whose servers were not known."""
        if self._read_at is None:
            self._read_all(now)
            return
        ids = set(self._storage.read(lambda tx: tx.amphora_ids()))
        self._refresh([id for id in ids if (heart := self._all.hearts.get(id)) is None or not heart.compute_id])

    def _refresh(self, ids: Collection[str]) -> list[Liveness]:
        """Read the rows of these; those of them that are watched."""
        rows = self._storage.read(lambda tx: tx.liveness(ids)) if ids else ()
        fresh = {heart.amphora_id: heart for heart in rows if _watched(heart)}
        self._all.put(fresh.values())
        self._all.drop(id for id in ids if id not in fresh)
        return list(fresh.values())

    def _read_again(self, quiet: Sequence[Liveness], ear: Ear, mono: float, observer: str) -> list[Liveness]:
        ids = [heart.amphora_id for heart in quiet]
        if len(ids) > MANY:
            return list(quiet) if self._deaf(quiet, ear.now, observer) else self._read_silent(quiet, ear, mono)
        return [heart for heart in self._refresh(ids) if not self._alive(heart, ear, mono)]

    def _deaf(self, quiet: Sequence[Liveness], now: int, observer: str) -> bool:
        """Whether nothing follows from their silence, and nobody else could have written that they were heard: then the rows of a
        whole fleet are not read at each look, of which the database may know nothing now either.
        """
        facts = self._facts(quiet, now, observer)
        return len(facts.receivers) == 1 and hearing_doubt(facts) is not None

    def _read_silent(self, quiet: Sequence[Liveness], ear: Ear, mono: float) -> list[Liveness]:
        """The same where memory clears few: there are many receivers, or an outage. The database finds those whose rows are
        old by an index; those that have no such row are read by their ids. Who is gone is noticed by the next look at all.
        """
        ids = {heart.amphora_id for heart in quiet}
        unknown = [heart.amphora_id for heart in quiet if heart.last_heard is None or heart.observer is None]
        before = ear.now - ear.timeout
        rows = self._storage.read(lambda tx: [*tx.silent(before), *tx.liveness(unknown)])
        fresh = {h.amphora_id: h for h in rows if h.amphora_id in ids and _watched(h)}
        self._all.put(fresh.values())
        return [heart for heart in fresh.values() if not self._alive(heart, ear, mono)]

    def _uncleared(self, mono: float) -> list[Liveness]:
        """Those of whom memory does not say that they were heard lately: it knows who was not, without asking of each."""
        hearts, forgotten = self._all.hearts, self._memory.forgotten
        if forgotten != self._forgotten:
            self._forgotten, self._all.strangers = forgotten, set(hearts)
        self._all.strangers = {id for id in self._all.strangers if not self._memory.knows(id)}
        late = self._memory.late(mono - self._late / _MICRO)
        return [hearts[id] for id in sorted(late | self._all.strangers) if id in hearts]

    def _newest(self, heart: Liveness, ear: Ear, mono: float) -> int | None:
        """The later of what the row and what memory say; memory counts only what the rows would accept, or what came while an operation
        changed its load balancer.
        """
        heard = self._memory.heard_at(heart.amphora_id)
        written = heart.last_heard
        if written is not None and written > ear.now:
            # the clock was ahead when it was written: that proves nothing now
            written = min(ear.listening_since or ear.now, ear.now)
        if (changed := self._changing.seen(heart.amphora_id)) is not None:
            written = max(written or 0, changed)
        if heard is None:
            return written
        return max(written or 0, ear.now - int((mono - heard) * _MICRO))

    def _alive(self, heart: Liveness, ear: Ear, mono: float) -> bool:
        if heart.status is AmphoraStatus.BOOTING:
            return True  # the operation that builds it waits for it, and has the deadline
        newest = self._newest(heart, ear, mono)
        if newest is not None and ear.now - newest <= ear.timeout:
            return True
        return judge(Heart(last_heard=newest, since=heart.since), ear).finding is Finding.ALIVE

    def _heard_lately(self, heart: Liveness, ear: Ear, mono: float) -> bool:
        own, written = self._memory.heard_at(heart.amphora_id), heart.last_heard
        if own is not None and (mono - own) * _MICRO <= ear.timeout:
            return True
        return written is not None and 0 <= ear.now - written <= ear.timeout

    def _suspect(self, heart: Liveness, ear: Ear, mono: float) -> Suspect | None:
        found = judge(Heart(last_heard=self._newest(heart, ear, mono), since=heart.since), ear)
        if found.finding is Finding.ALIVE:
            return None
        wrong = "it reports a wrong number of listeners; " if self._memory.miscounted(heart.amphora_id) else ""
        return Suspect(
            amphora_id=heart.amphora_id,
            evidence=wrong + found.evidence,
            overdue=found.overdue,
            proof=self._proofs.get(heart.amphora_id) or self._ask.ended(heart.amphora_id),
            agent=self._ask.agent(heart.amphora_id),
            pushed=heart.amphora_id in self._pushed,
            domains=domains(heart),
        )

    def _facts(self, quiet: Collection[Liveness], now: int, observer: str) -> Facts:
        """All but the suspects; who is late is not heard."""
        late = {heart.amphora_id for heart in quiet}
        unheard = {id for id in self._all.unwritten if not self._memory.heard_at(id)}
        before = len(self._all.hearts) - len(unheard)
        newest = self._newest_of_all(now, self._clock.monotonic())
        deaf = newest is not None and newest < now - self._quiet  # whatever others have heard meanwhile
        me = Receiver(name=observer, before=before, now=0 if deaf else before - len(late - unheard), mine=True)
        return Facts(
            now=now,
            timeout=self._timeout,
            suspects=(),
            watched=self._all.places,
            late=Counter(place for h in quiet for place in domains(h).items()),
            late_total=len(late),
            receivers=(me, *self._receivers(now, observer)),
            dropped=self._dropped,
            threshold=self._threshold,
        )

    def _figure(self, ear: Ear, mono: float, silent: int) -> Mapping[str, Any]:
        """What of this look goes into the row of this health manager."""
        hearts = self._all.hearts
        silent_here = self._memory.late(mono - ear.timeout / _MICRO) | self._all.strangers
        unheard = [id for id in silent_here if id in hearts]
        first = self._memory.oldest(hearts, silent_here)
        newest = {id: self._newest(hearts[id], ear, mono) for id in (*unheard, *([first] if first else []))}
        ages = [(ear.now - at, id) for id, at in newest.items() if at is not None]
        oldest = max(ages, default=(0, ""))
        ended = self._ask.all_ended | self._proofs
        self.figures = {
            "listening_since": ear.listening_since,
            "accepts": list(self._accepts.values()),
            "signed": signatures(self._memory.signed(mono - ear.timeout / _MICRO, SOME), self._accepts),
            "watched": len(hearts),
            "hears": len(hearts) - len(unheard),
            NEWEST: self._newest_of_all(ear.now, mono),
            "never_heard": len(newest) - len(ages),
            "silent": silent,
            "oldest": {"amphora_id": oldest[1], "seconds": round(oldest[0] / _MICRO, 3)} if oldest[1] else None,
            "lag": None if self.lag is None else round(max(0.0, self.lag()), 3),
            "replaced": dict(self.replaced()),
            "held": {str(rule): many for rule, many in self._actor.held.items()},
            "evidence": {str(rule): why for rule, why in self._actor.evidence.items()},
            ENDED: dict(islice(((id, words) for id, words in ended.items() if id in hearts), _ENDED)),
        }
        return self.figures

    def _newest_of_all(self, now: int, mono: float) -> int | None:
        """When this health manager heard somebody last, microseconds of the database's clock."""
        newest = self._memory.newest()
        return None if newest is None else now - int((mono - newest) * _MICRO)

    def _receivers(self, now: int, observer: str) -> Iterable[Receiver]:
        """The others that worked until lately, by the rows they wrote; not those that ended on this host, among them our own
        earlier life: what they heard last, nobody but us hears now.

        What rows say of amphorae is up to a timeout old, they are of those who are judged, and name only who heard each last: an
        outage that silences both them and the others would be seen too late. So each says in its own row when it heard somebody last.
        """
        lately = now - 2 * self._timeout
        heard, told = self._all.heard_by(lately, but=observer), self._told(observer)
        worked = {name for name, (_, fresh) in heard.items() if fresh} | {n for n, at in told.items() if at >= lately}
        self._others |= dict.fromkeys(worked, now)  # deaf by now or not: it may be the first time that anybody asks
        remembered = {n: at for n, at in self._others.items() if now - at <= _REMEMBERED * self._timeout}
        self._others = {name: at for name, at in remembered.items() if not ended_here(name)}
        for name in self._others:
            before, fresh = heard.get(name, (0, 0))
            if name in told:
                fresh = max(fresh, 1) if told[name] >= now - self._quiet else 0
            yield Receiver(name=name, before=before, now=fresh)

    def _told(self, observer: str) -> Mapping[str, int]:
        """Another health manager -> when it heard somebody last, by its own row."""
        rows = self._storage.read(lambda tx: tx.observers())
        told = {one.name: one.figures.get(NEWEST) for one in rows if one.name != observer}
        return {name: newest for name, newest in told.items() if isinstance(newest, int)}

    def _decide(
        self,
        suspects: Sequence[Suspect],
        now: int,
        facts: Facts | None = None,
        proofs: Mapping[str, str] | None = None,
    ) -> None:
        """About suspects, and those with proof (all that are known, unless some are given)."""
        known = {one.amphora_id for one in suspects}
        alone = proofs is not None  # then what is held is told by the next look, which sees everybody
        if proofs is None:
            proofs = self._proofs = {id: proof for id, proof in self._proofs.items() if id in self._all.hearts}
        proven = [
            Suspect(amphora_id=id, evidence=proof, proof=proof) for id, proof in proofs.items() if id not in known
        ]
        all_of_them = (*suspects, *proven)
        shared = self._storage.read(lambda tx: tx.governing())
        pause = pause_words(shared)
        paused = f"failovers are {pause}" if pause else self.paused
        facts = facts or Facts(now=now, timeout=self._timeout, suspects=())
        facts = attrs.evolve(facts, suspects=all_of_them, paused=paused)
        ruling = decide(facts, bucket_of(shared, self._rate))
        hearts = {d.amphora_id: self._all.hearts[d.amphora_id] for d in ruling.decisions}
        decisions = self._carry_out(ruling.decisions)
        stopped = [d for d in decisions if d.act is Act.STOP]
        serving = [hearts[d.amphora_id] for d in stopped]
        serving = [heart for heart in serving if heart.status is AmphoraStatus.ALLOCATED]
        if serving:
            self._actor.stop(serving, stopped[0].evidence)
            self._refresh([heart.amphora_id for heart in serving])
        if not alone and (suspects or any(d.rule in (Rule.RATE, Rule.PAUSED) for d in decisions)):
            self._actor.tell(decisions, hearts)

    def _carry_out(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
        """Do it; the decisions as they came to be, once the tokens that everybody shares were asked for."""
        for decision in decisions:
            if decision.act is Act.PUSH:
                self._pushed.add(decision.amphora_id)
                self._ask.beside(self._actor.refresh, self._all.hearts[decision.amphora_id], decision)
        lost = [(self._all.hearts[d.amphora_id], d) for d in decisions if d.act is Act.FAIL_OVER]
        if not lost:
            return decisions
        waiting = {d.amphora_id: d for d in self._actor.fail_over(lost, self._rate)}
        done = {heart.amphora_id for heart, _ in lost} - waiting.keys()
        self._all.drop(done)
        for id in done:
            self._proofs.pop(id, None)
        return [waiting.get(d.amphora_id, d) for d in decisions]

    def _resume(self, ear: Ear, mono: float) -> None:
        """Those that were heard lately: that silence counts anew, for whatever reason, is not enough."""
        back = [
            heart for id in sorted(self._all.stopped) if self._heard_lately(heart := self._all.hearts[id], ear, mono)
        ]
        if back:
            self._actor.resume(back)
            self._refresh([heart.amphora_id for heart in back])


def _watched(heart: Liveness) -> bool:
    return not heart.declared_dead and not heart.busy and heart.status in _WATCHED
