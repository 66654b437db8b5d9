"""A rehearsal: the governor with an operator's own settings against an outage, in virtual time, without a machine.

Rule 1: decisions are `octavia_core.policy.governor`'s and nobody else's; here is only what it is told, and when: looks at
the interval of the settings, silence counted as health counts it, agents asked as many at a time as health asks them.
Rule 2: nothing happens between two moments that matter, so time jumps: ten thousand amphorae take seconds. Rule 3: all
health managers see the same rows, so one of them decides for all, with the tokens that they share.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs

from octavia_core.controller.health.ask import LONGEST
from octavia_core.errors import BadRequest
from octavia_core.policy.governor import (
    PATIENCE,
    Act,
    Agent,
    Bucket,
    Decision,
    Facts,
    Receiver,
    Rule,
    Suspect,
    decide,
    hearing_doubt,
    holding,
)
from octavia_core.policy.judgement import Ear, Heart, judge, late_after
from octavia_core.settings import Settings
from octavia_core.testing.clock import VirtualClock
from octavia_core.testing.outages import Outage, Shape
from octavia_core.testing.rehearsed import Beats, Questions

__all__ = ["Entry", "Report", "rehearse"]

_MICRO = 1_000_000
MOST = 5_000_000
"""Looks, and heartbeats of an amphora, of one rehearsal: what takes some minutes."""
MOST_OF_ALL = 500_000_000
"""Heartbeats of all amphorae in one rehearsal, for the same reason."""
_ACTS = {Act.FAIL_OVER: "failed over", Act.PUSH: "given settings again", Act.WAIT: "waiting", Act.STOP: "stopped"}


@attrs.frozen(kw_only=True)
class Entry:
    """One line of the timeline: what the governor did to how many, from when to when (seconds), and why.

    Attributes:
        amphorae: started, for failovers and pushes; for waiting the most at one look.
        wrong: failovers of amphorae that were alive.
        evidence: that of the first of them.
    """

    begin: float
    end: float
    act: str
    rule: str
    amphorae: int
    wrong: int
    evidence: str


@attrs.frozen(kw_only=True)
class Report:
    """What came of it. Times are seconds.

    Attributes:
        dead: amphorae that really ended; `failed_over`: of all, how many failovers were started.
        wrong: failovers of amphorae that were alive.
        unreplaced: the dead for whom no failover was started before the end.
        last_started, last_rebuilt: after the outage began; None when nothing was before the end.
        looks: looks of the health manager; `decisions`: those at which the governor had something new to decide.
    """

    scenario: str
    words: str
    amphorae: int
    duration: float
    dead: int
    failed_over: int
    wrong: int
    unreplaced: int
    last_started: float | None
    last_rebuilt: float | None
    looks: int
    decisions: int
    settings: Mapping[str, float | int | None]
    timeline: tuple[Entry, ...]


def rehearse(settings: Settings, outage: Outage, shape: Shape, *, scenario: str = "recorded") -> Report:
    """Run it to its end. Deterministic: the same arguments give the same report.

    Raises:
        BadRequest: with these settings nothing could be rehearsed.
    """
    _check(settings, shape)
    run = _Rehearsal(settings, outage, shape)
    run.to_the_end()
    started = [at for at, _ in run.failovers.values()]
    rebuilt = [at + shape.boot for at in started if at + shape.boot <= shape.duration]
    begin = min((one.begin for one in outage.troubles.values()), default=shape.begin)
    dead = [number for number, one in outage.troubles.items() if one.dead]
    health = settings.health_manager
    return Report(
        scenario=scenario,
        words=outage.words,
        amphorae=len(outage.places),
        duration=shape.duration,
        dead=len(dead),
        failed_over=len(started),
        wrong=sum(wrong for _, wrong in run.failovers.values()),
        unreplaced=sum(number not in run.failovers for number in dead),
        last_started=round(max(started) - begin, 3) if started else None,
        last_rebuilt=round(max(rebuilt) - begin, 3) if rebuilt else None,
        looks=run.looks,
        decisions=run.decided,
        settings={
            "heartbeat_interval": health.heartbeat_interval,
            "heartbeat_timeout": health.heartbeat_timeout,
            "health_check_interval": health.health_check_interval,
            "failover_threshold": health.failover_threshold,
            "failovers_per_minute": settings.engine.failovers_per_minute,
        },
        timeline=run.timeline.entries(),
    )


def _check(settings: Settings, shape: Shape) -> None:
    health = settings.health_manager
    if health.heartbeat_timeout <= health.heartbeat_interval:
        raise BadRequest(
            f"[health_manager] heartbeat_timeout ({health.heartbeat_timeout:g} s) must be longer than heartbeat_interval "
            f"({health.heartbeat_interval:g} s), or everybody is silent between two heartbeats"
        )
    looks = shape.duration / health.health_check_interval
    beats = shape.duration / health.heartbeat_interval
    if max(looks, beats) > MOST:
        raise BadRequest(
            f"{shape.duration:g} s are {looks:,.0f} looks and {beats:,.0f} heartbeats of each amphora with these settings; a "
            f"rehearsal has {MOST:,} of each at most, so give a shorter --duration"
        )
    if shape.amphorae * beats > MOST_OF_ALL:
        raise BadRequest(
            f"{shape.amphorae:,} amphorae send {shape.amphorae * beats:,.0f} heartbeats in {shape.duration:g} s with these settings; "
            f"a rehearsal has {MOST_OF_ALL:,} at most, so give a shorter --duration or fewer --amphorae"
        )


class _Timeline:
    """What happened, look after look, drawn together."""

    def __init__(self) -> None:
        self._open: dict[tuple[Act, Rule], Entry] = {}
        self._over: list[Entry] = []

    def look(self, now: float, decisions: Sequence[Decision], wrong: Mapping[Rule, int]) -> None:
        counts = Counter((d.act, d.rule) for d in decisions)
        for key in [key for key in self._open if key not in counts]:
            self._over.append(self._open.pop(key))
        first = {(d.act, d.rule): d.evidence for d in reversed(decisions)}
        for (act, rule), many in counts.items():
            known = self._open.get((act, rule))
            bad = wrong.get(rule, 0) if act is Act.FAIL_OVER else 0
            if known is None:
                self._open[act, rule] = Entry(
                    begin=round(now, 3),
                    end=round(now, 3),
                    act=_ACTS[act],
                    rule=str(rule),
                    amphorae=many,
                    wrong=bad,
                    evidence=first[act, rule],
                )
                continue
            total = known.amphorae + many if act in (Act.FAIL_OVER, Act.PUSH) else max(known.amphorae, many)
            self._open[act, rule] = attrs.evolve(known, end=round(now, 3), amphorae=total, wrong=known.wrong + bad)

    def lasts(self, now: float) -> None:
        """Nothing new at this look: whatever waited waits on."""
        for key, entry in self._open.items():
            if key[0] in (Act.WAIT, Act.STOP):
                self._open[key] = attrs.evolve(entry, end=round(now, 3))

    def entries(self) -> tuple[Entry, ...]:
        return tuple(sorted((*self._over, *self._open.values()), key=lambda one: (one.begin, one.end, one.rule)))


class _Rehearsal:
    """One run."""

    def __init__(self, settings: Settings, outage: Outage, shape: Shape) -> None:
        health = settings.health_manager
        self._outage, self._shape, self._clock = outage, shape, VirtualClock(0.0)
        self._timeout, self._every = health.heartbeat_timeout, health.health_check_interval
        self._late_after = late_after(health.heartbeat_timeout, health.heartbeat_interval)
        self._threshold = health.failover_threshold
        self._beats = Beats(outage, shape, health.heartbeat_interval)
        self._questions = Questions(outage, min(LONGEST, self._timeout / 5))
        self._bucket = Bucket.full(settings.engine.failovers_per_minute, 0)
        self._since = self._forgiven = self._held_at = -math.inf
        self._pending = list(self._affected())
        heapq.heapify(self._pending)
        proven = [(one.begin, number) for number, one in outage.troubles.items() if one.proof is not None]
        self._proofs = sorted(proven, reverse=True)
        self._quiet: dict[int, float] = {}
        """Number -> from when on its silence counts."""
        self._late: Counter[tuple[str, str]] = Counter()
        self._suspects: dict[int, Suspect] = {}
        self._pushed: set[int] = set()
        self._watched = Counter(place for at in outage.places for place in (("host", at.host), ("zone", at.zone)))
        self._others: dict[int, float] = {}
        self._fresh = True
        self._ruling: tuple[Decision, ...] = ()
        self.failovers: dict[int, tuple[float, bool]] = {}
        self._rebuilt: list[tuple[float, int]] = []
        self._served_again = 0
        self.timeline = _Timeline()
        self.looks = self.decided = 0

    def _affected(self) -> Iterator[tuple[float, int]]:
        """(from when, who): those that are worth a look; of the others it is known that they are heard."""
        common = [*self._outage.deaf.values(), *([self._outage.away] if self._outage.away else [])]
        self._settled = max((end for _, end in common), default=-math.inf)
        begin = min((begin for begin, _ in common), default=math.inf)
        for number in range(len(self._outage.places)) if common else self._outage.troubles:
            trouble = self._outage.troubles.get(number)
            yield min(begin, trouble.begin if trouble else math.inf), number

    def _over(self, number: int, now: float) -> bool:
        """Whether nothing can befall it any more."""
        trouble = self._outage.troubles.get(number)
        end = max(self._settled, trouble.end if trouble else -math.inf)
        return now > end + 2 * self._timeout

    def to_the_end(self) -> None:
        away, back = self._outage.away or (math.inf, math.inf)
        deaf_before = False
        while self._clock.now() < self._shape.duration:
            self._clock.advance(self._every)
            now = self._clock.now()
            if away <= now < back:
                deaf_before = True
                continue
            if deaf_before:
                deaf_before, self._since, self._fresh = (
                    False,
                    now,
                    True,
                )  # silence counts from when writing worked again
                self._pending += [(now, number) for number in self._quiet]
                heapq.heapify(self._pending)
            self._look(now)

    # -- one look --------------------------------------------------------------------------------------------------
    def _look(self, now: float) -> None:
        self.looks += 1
        self._come_back(now)
        while self._pending and self._pending[0][0] <= now:
            self._recheck(heapq.heappop(self._pending)[1], now)
        self._prove(now)
        for number in self._questions.take(now):
            self._suspect(number, now)
        if self._quiet:
            facts = self._facts(now, ())
            if holding(facts):
                self._held_at = now
            elif self._held_at > self._forgiven:
                self._forgive(now)
            if hearing_doubt(facts) is None:
                late = self._late_after
                numbers = [number for number, last in self._quiet.items() if now - max(last, self._forgiven) > late]
                self._questions.ask(numbers, now)
                for number in self._questions.take(now):
                    self._suspect(number, now)
        self._decide(now)

    def _forgive(self, now: float) -> None:
        """What held everything back is over: silence counts anew from then."""
        self._forgiven = self._held_at
        for number in [number for number, one in self._suspects.items() if one.proof is None]:
            del self._suspects[number]
            self._questions.forget(number)
            self._again(now, number)
        self._fresh = True

    def _recheck(self, number: int, now: float) -> None:
        if number in self.failovers:
            return
        last = max(self._beats.last(number, now), self._since)
        early, late = last + self._late_after, max(last, self._forgiven) + self._timeout
        if now <= early:
            self._no_longer(number)
            self._pushed.discard(number)
            self._questions.forget(number)
            if not self._over(number, now):
                self._again(early, number)
            return
        self._is_late(number, last)
        heard = self._beats.next(number, now, self._shape.duration)
        if now <= late:
            self._again(min(late, heard), number)
            return
        self._suspect(number, now)
        patience = max(last, self._forgiven) + PATIENCE * self._timeout
        self._again(min(patience, heard) if now <= patience else heard, number)

    def _is_late(self, number: int, last: float) -> None:
        if number not in self._quiet:
            at = self._outage.places[number]
            self._late.update((("host", at.host), ("zone", at.zone)))
            self._fresh = True
        self._quiet[number] = last

    def _no_longer(self, number: int) -> None:
        if self._quiet.pop(number, None) is not None:
            at = self._outage.places[number]
            self._late.subtract((("host", at.host), ("zone", at.zone)))
            self._fresh = True
        self._suspects.pop(number, None)

    def _again(self, at: float, number: int) -> None:
        if at < self._shape.duration:
            heapq.heappush(self._pending, (math.nextafter(at, math.inf), number))

    def _prove(self, now: float) -> None:
        """Proof needs no silence: whoever has it tells at once."""
        while self._proofs and self._proofs[-1][0] <= now:
            begin, number = self._proofs.pop()
            if number not in self.failovers:
                self._is_late(number, self._quiet.get(number, begin))
                self._suspect(number, now)

    def _suspect(self, number: int, now: float) -> None:
        last = self._quiet.get(number)
        trouble = self._outage.troubles.get(number)
        last = None if last is None else max(last, self._forgiven)
        proof = trouble.proof if trouble is not None and trouble.begin <= now else None
        if last is None or number in self.failovers or (now - last <= self._timeout and proof is None):
            return
        at = self._outage.places[number]
        timeout = int(self._timeout * _MICRO)
        ear = Ear(now=int(now * _MICRO), timeout=timeout, deadline=timeout)
        found = judge(Heart(last_heard=int(last * _MICRO), since=0), ear)
        suspect = Suspect(
            amphora_id=str(number),
            evidence=found.evidence,
            overdue=found.overdue,
            proof=proof,
            agent=self._questions.answers.get(number, Agent.UNASKED),
            pushed=number in self._pushed,
            domains={"host": at.host, "zone": at.zone},
        )
        self._suspects[number] = suspect
        self._fresh = True

    def _facts(self, now: float, suspects: tuple[Suspect, ...]) -> Facts:
        total = len(self._outage.places) - len(self.failovers) + self._served_again
        me = Receiver(name="receiver-0", before=total, now=total - len(self._quiet), mine=True)
        return Facts(
            now=int(now * _MICRO),
            timeout=int(self._timeout * _MICRO),
            suspects=suspects,
            watched=self._watched,
            late=self._late,
            late_total=len(self._quiet),
            receivers=(me, *self._hearing(now, total, len(self._quiet))),
            threshold=self._threshold,
        )

    def _hearing(self, now: float, total: int, silent: int) -> Iterator[Receiver]:
        """The others, each with its part of those that are heard; one that hears nobody counts for three timeouts."""
        for number in range(1, self._shape.receivers):
            window = self._outage.deaf.get(number)
            deaf = window is not None and window[0] <= now < window[1]
            heard = 0 if deaf else (total - silent) // self._shape.receivers
            if heard:
                self._others[number] = now
            if now - self._others.get(number, -math.inf) <= 3 * self._timeout:
                yield Receiver(name=f"receiver-{number}", before=total // self._shape.receivers, now=heard)

    def _decide(self, now: float) -> None:
        if not self._suspects:
            self.timeline.look(now, (), {})
            self._ruling, self._fresh = (), False
            return
        waits = any(d.rule is Rule.RATE for d in self._ruling)
        if not self._fresh and not (waits and self._bucket.filled(int(now * _MICRO)).tokens >= 1):
            self.timeline.lasts(now)
            return
        self.decided += 1
        self._fresh = False
        facts = self._facts(now, tuple(self._suspects.values()))
        ruling = decide(facts, self._bucket)
        self._bucket, self._ruling = ruling.bucket, ruling.decisions
        wrong: Counter[Rule] = Counter()
        for decision in ruling.decisions:
            number = int(decision.amphora_id)
            if decision.act is Act.FAIL_OVER:
                wrong[decision.rule] += self._fail_over(number, now)
            elif decision.act is Act.PUSH:
                self._pushed.add(number)
                self._suspect(number, now)
        self.timeline.look(now, ruling.decisions, wrong)

    def _fail_over(self, number: int, now: float) -> bool:
        """Start it; whether that was wrong."""
        trouble = self._outage.troubles.get(number)
        wrong = trouble is None or not trouble.dead or now < trouble.begin
        self.failovers[number] = (now, wrong)
        self._no_longer(number)
        at = self._outage.places[number]
        for place in (("host", at.host), ("zone", at.zone)):
            self._watched[place] -= 1
            if not self._watched[place]:
                del self._watched[place]
        heapq.heappush(self._rebuilt, (now + self._shape.boot, number))
        self._fresh = True
        return wrong

    def _come_back(self, now: float) -> None:
        """Replacements that serve by now are heard like all others."""
        while self._rebuilt and self._rebuilt[0][0] <= now:
            heapq.heappop(self._rebuilt)
            self._served_again += 1
            self._fresh = True
