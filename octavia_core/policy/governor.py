"""What is done about silent amphorae: facts in, decisions with their evidence out.

Rule 1: the rows of `ROWS` are looked at from the top; the first that holds decides. Rule 2: no row remembers: each look
judges anew, so whatever held decisions back lets go by itself once it is over. Rule 3: whatever is decided, the bucket
limits how many failovers may start. Rule 4: no clock, no driver, no SQL in this file; all times are integer
microseconds of one clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum

import attrs

__all__ = [
    "ENOUGH",
    "PATIENCE",
    "ROWS",
    "Act",
    "Agent",
    "Bucket",
    "Decision",
    "Facts",
    "Receiver",
    "Row",
    "Rule",
    "Ruling",
    "Suspect",
    "decide",
    "hearing_doubt",
    "holding",
    "table",
    "used_up",
]

ENOUGH = 5
"""So many amphorae must have been heard before their common silence says something about the listener."""
PATIENCE = 3
"""Timeouts after which an amphora whose agent answers is given up."""


class Act(StrEnum):
    """What to do about an amphora."""

    FAIL_OVER = "fail over"
    PUSH = "push again"
    WAIT = "wait"
    STOP = "stop"
    """As upstream's threshold: its status becomes FAILOVER_STOPPED until it is heard again."""


class Agent(StrEnum):
    """What a look at the agent's own interface gave."""

    UNASKED = "unasked"
    ANSWERS = "answers"
    SILENT = "silent"


class Rule(StrEnum):
    """The rows of the table, by name. Stable words: events hold them."""

    PAUSED = "paused"
    PROOF = "proof"
    DROPS = "drops"
    DOUBT = "doubt"
    ALONE = "alone"
    THRESHOLD = "threshold"
    ASKING = "asking"
    REFRESH = "refresh"
    REFRESHED = "refreshed"
    IN_VAIN = "in-vain"
    OUTAGE = "outage"
    DOMAIN = "domain"
    SILENCE = "silence"
    RATE = "rate"


@attrs.frozen(kw_only=True)
class Suspect:
    """One amphora that is silent for too long, or known to have ended.

    Attributes:
        evidence: what is known of its silence, for a person.
        overdue: microseconds of silence beyond what is allowed.
        proof: what proves that it ended, None without proof.
        agent: what its agent's own interface said when it was asked, after it fell silent.
        pushed: whether it was given its configuration and settings again since it was heard.
        domains: where it is: kind ("host", "zone", "network") -> name. What is not known is left out.
    """

    amphora_id: str
    evidence: str
    overdue: int = 0
    proof: str | None = None
    agent: Agent = Agent.UNASKED
    pushed: bool = False
    domains: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Receiver:
    """One of those who listen.

    Attributes:
        name: host and process.
        before: amphorae that it is known to have heard.
        now: those of them that it has heard within the timeout.
        mine: whether it is the one who asks.
    """

    name: str
    before: int
    now: int
    mine: bool = False


@attrs.frozen(kw_only=True)
class Bucket:
    """Tokens for failovers: each costs one, `rate` come back per minute, `size` are kept at most.

    Attributes:
        at: when `tokens` was counted, microseconds.
    """

    rate: float
    size: float
    tokens: float
    at: int

    @classmethod
    def full(cls, rate: float, now: int) -> Bucket:
        """A bucket that holds a minute's worth, at least one."""
        size = max(1.0, rate)
        return cls(rate=rate, size=size, tokens=size, at=now)

    @classmethod
    def shared(cls, rate: float, tokens: float | None, at: int, now: int) -> Bucket:
        """The bucket that all health managers have together, as it is now.

        Args:
            rate: tokens that come back per minute.
            tokens: what was left when somebody counted last; None when nobody has counted yet.
            at: when that was, microseconds.
            now: microseconds of the same clock.
        """
        full = cls.full(rate, now)
        if tokens is None:
            return full
        return attrs.evolve(full, tokens=max(0.0, min(tokens, full.size)), at=min(at, now)).filled(now)

    def filled(self, now: int) -> Bucket:
        """The bucket as it is now. A clock that went back adds nothing."""
        gained = max(0, now - self.at) / 60_000_000 * self.rate
        return attrs.evolve(self, tokens=min(self.size, self.tokens + gained), at=max(now, self.at))


@attrs.frozen(kw_only=True)
class Facts:
    """Everything that is known at one look.

    Attributes:
        timeout: microseconds of silence that are too long.
        suspects: who is silent or known to have ended.
        watched: (kind of domain, name) -> how many amphorae are watched there, silent ones included.
        late: (kind of domain, name) -> how many there were not heard for suspiciously long, suspects included: what
            strikes many at once reaches the timeout one after the other, and the first must not be judged alone.
        late_total: how many are late in all; with `late` empty the suspects alone count.
        receivers: those who listen; the one who asks is marked.
        dropped: datagrams that the kernel dropped within the last timeout.
        threshold: as many silent without proof: no failover at all; None for no such limit.
        paused: who paused failovers and why, None when nobody did.
    """

    now: int
    timeout: int
    suspects: tuple[Suspect, ...]
    watched: Mapping[tuple[str, str], int] = attrs.field(factory=dict)
    late: Mapping[tuple[str, str], int] = attrs.field(factory=dict)
    late_total: int = 0
    receivers: tuple[Receiver, ...] = ()
    dropped: int = 0
    threshold: int | None = None
    paused: str | None = None


@attrs.frozen(kw_only=True)
class Decision:
    """What to do about one amphora, by which row, and one sentence that says why."""

    amphora_id: str
    act: Act
    rule: Rule
    evidence: str


@attrs.frozen(kw_only=True)
class Ruling:
    """Decisions in the order of the suspects, those with proof first, and the bucket that remains."""

    decisions: tuple[Decision, ...]
    bucket: Bucket


@attrs.frozen
class Row:
    """One line of the table: when it holds (`when` in words, `holds` returns the evidence or None), and what is done."""

    rule: Rule
    when: str
    act: Act
    then: str
    holds: Callable[[Suspect, _View], str | None] = attrs.field(repr=False)


def decide(facts: Facts, bucket: Bucket) -> Ruling:
    """Decide about every suspect. Total: it raises nothing.

    Args:
        facts: what is known.
        bucket: as the last ruling left it.
    """
    view, bucket = _View(facts), bucket.filled(facts.now)
    decisions = []
    for suspect in sorted(facts.suspects, key=lambda one: one.proof is None):
        row, why = next((row, why) for row in ROWS if (why := row.holds(suspect, view)) is not None)
        if row.act is not Act.FAIL_OVER:
            decisions.append(Decision(amphora_id=suspect.amphora_id, act=row.act, rule=row.rule, evidence=why))
        elif bucket.tokens < 1:
            why = used_up(why, bucket.rate)
            decisions.append(Decision(amphora_id=suspect.amphora_id, act=Act.WAIT, rule=Rule.RATE, evidence=why))
        else:
            bucket = attrs.evolve(bucket, tokens=bucket.tokens - 1)
            decisions.append(Decision(amphora_id=suspect.amphora_id, act=row.act, rule=row.rule, evidence=why))
    return Ruling(decisions=tuple(decisions), bucket=bucket)


def used_up(evidence: str, rate: float) -> str:
    """The evidence for a failover that waits for a token."""
    return f"{evidence}; but {rate:g} failovers per minute are allowed, and they are used up"


def hearing_doubt(facts: Facts) -> str | None:
    """Why the silence may be ours, None when it is not: nobody needs to ask agents then, since nothing follows from it."""
    view = _View(facts)
    return view.drops or view.doubt or view.alone


def holding(facts: Facts) -> str | None:
    """Why all who are silent are left alone now, None when they are not. What was silence meanwhile counts for nobody
    afterwards: those who are heard again send one after the other, and the last of them is not dead. (Dropped datagrams
    count for a timeout after the last of them, which does the same.)
    """
    view = _View(facts)
    return view.doubt or view.alone or view.threshold or view.outage


class _View:
    """What follows from the facts for all suspects alike, worked out once."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        absent = [one for one in facts.suspects if one.proof is None]
        self.paused = facts.paused
        self.drops = _drops(facts)
        self.doubt, self.alone = _doubt(facts.receivers), _alone(facts.receivers)
        self.threshold = _threshold(facts, len(absent))
        silent = Counter(place for one in facts.suspects for place in one.domains.items())
        silent |= Counter(facts.late)
        self.dead = {place for place, count in silent.items() if count >= max(2, facts.watched.get(place, 0))}
        self.outage = _outage(facts, silent)


def _drops(facts: Facts) -> str | None:
    if not facts.dropped:
        return None
    return f"{facts.dropped} datagrams were dropped before they could be read, and its heartbeats may be among them"


def _doubt(receivers: tuple[Receiver, ...]) -> str | None:
    for me in receivers:
        if me.mine and me.before >= ENOUGH and me.now * 2 < me.before:
            return f"{me.before} amphorae were heard before and {me.now} are now: it is more likely that we are deaf"
    return None


def _alone(receivers: tuple[Receiver, ...]) -> str | None:
    others = [one for one in receivers if not one.mine]
    heard = max((one.before for one in receivers), default=0)  # the same amphorae may have been heard by several
    if not others or heard < ENOUGH or any(one.now for one in others):
        return None
    names = ", ".join(sorted(one.name for one in others))
    return f"no other receiver confirms it: nothing is heard through {names}, which worked until lately"


def _threshold(facts: Facts, absent: int) -> str | None:
    absent = max(absent, facts.late_total)
    if facts.threshold is None or absent < facts.threshold:
        return None
    return f"{absent} amphorae are silent or late at once, and [health_manager] failover_threshold is {facts.threshold}"


def _outage(facts: Facts, silent: Mapping[tuple[str, str], int]) -> str | None:
    """Most domains of one kind silent at once; a kind with less than three domains gives nothing to compare."""
    if sum(one.before for one in facts.receivers if one.mine) < ENOUGH:
        return None
    for kind in sorted({kind for kind, _ in facts.watched}):
        places = [place for place in facts.watched if place[0] == kind]
        down = [place for place in places if silent.get(place, 0) * 2 > facts.watched[place]]
        if len(places) >= 3 and len(down) * 2 > len(places):
            return f"{len(down)} of {len(places)} {kind}s are silent at once: rather an outage than so many deaths"
    return None


def _dead_domain(one: Suspect, view: _View) -> str | None:
    dead = [place for place in one.domains.items() if place in view.dead]
    heard = sum(receiver.now for receiver in view.facts.receivers if receiver.mine)
    if not dead or not heard:
        return None
    kind, name = min(dead)
    return f"{one.evidence}; its agent is silent, as is all of {kind} {name}, while {heard} others are heard"


def _in_vain(one: Suspect, view: _View) -> str | None:
    if one.agent is not Agent.ANSWERS or one.overdue < (PATIENCE - 1) * view.facts.timeout:
        return None
    again = ", also after it was given its settings again" if one.pushed else ""
    return f"{one.evidence}; its agent answers, but it sends no heartbeat that counts{again}"


def _when(condition: bool, evidence: str) -> str | None:
    return evidence if condition else None


ROWS: tuple[Row, ...] = (
    Row(
        Rule.PAUSED,
        "an operator paused failovers",
        Act.WAIT,
        "wait, whatever is known",
        lambda one, view: view.paused,
    ),
    Row(
        Rule.PROOF,
        "its process is seen to end, or compute says that its server is stopped, failed or gone",
        Act.FAIL_OVER,
        "fail over at once; doubt and threshold do not count",
        lambda one, view: one.proof,
    ),
    Row(
        Rule.DROPS,
        "datagrams were dropped within the last timeout",
        Act.WAIT,
        "wait: nobody is judged by absence",
        lambda one, view: view.drops,
    ),
    Row(
        Rule.DOUBT,
        f"at least {ENOUGH} amphorae were heard before, and less than half of them are heard now (who is late is not; nobody is while we hear nobody "
        "ourselves)",
        Act.WAIT,
        "wait: it is us",
        lambda one, view: view.doubt,
    ),
    Row(
        Rule.ALONE,
        f"at least {ENOUGH} amphorae were heard before, and the other receivers that worked until lately hear nobody",
        Act.WAIT,
        "wait: nobody confirms it",
        lambda one, view: view.alone,
    ),
    Row(
        Rule.THRESHOLD,
        "as many are silent or late as `[health_manager] failover_threshold` says",
        Act.STOP,
        "no failover; `FAILOVER_STOPPED` until it is heard again or fewer are silent",
        lambda one, view: view.threshold,
    ),
    Row(
        Rule.ASKING,
        "its agent was not asked yet",
        Act.WAIT,
        "ask it, and wait for the answer",
        lambda one, view: _when(one.agent is Agent.UNASKED, f"{one.evidence}; its agent is being asked"),
    ),
    Row(
        Rule.IN_VAIN,
        f"its agent answers, and {PATIENCE} timeouts are over",
        Act.FAIL_OVER,
        "fail over",
        _in_vain,
    ),
    Row(
        Rule.REFRESH,
        "its agent answers (or reports a wrong number of listeners)",
        Act.PUSH,
        "have a worker send its heartbeat settings and its configuration again, once",
        lambda one, view: _when(
            one.agent is Agent.ANSWERS and not one.pushed,
            f"{one.evidence}; its agent answers, so it is given its configuration and heartbeat settings again",
        ),
    ),
    Row(
        Rule.REFRESHED,
        "its agent answers, and they were pushed",
        Act.WAIT,
        f"wait until {PATIENCE} timeouts are over",
        lambda one, view: _when(one.agent is Agent.ANSWERS, f"{one.evidence}; its agent answers and has its settings"),
    ),
    Row(
        Rule.OUTAGE,
        "its agent is silent too, and most hosts, zones or networks (of at least three) are silent or late",
        Act.WAIT,
        "wait, and say so",
        lambda one, view: view.outage,
    ),
    Row(
        Rule.DOMAIN,
        "its agent is silent too, and so is all of its host, zone or network, while others are heard",
        Act.FAIL_OVER,
        "fail over",
        _dead_domain,
    ),
    Row(
        Rule.SILENCE,
        "its agent is silent too",
        Act.FAIL_OVER,
        "fail over",
        lambda one, view: f"{one.evidence}; its agent is silent too",
    ),
)
"""From the top, the first that holds; the last always does."""

_BUCKET = ("any failover, and the tokens of this minute are used up", "wait for a token")


def table() -> str:
    """The rows as Markdown, for `docs/explanation/governor.md`; a test compares."""
    lines = ["| rule | when | what is done |", "|---|---|---|"]
    lines += [f"| `{row.rule}` | {row.when} | {row.then} |" for row in ROWS]
    lines.append(f"| `{Rule.RATE}` | {_BUCKET[0]} | {_BUCKET[1]} |")
    return "\n".join(lines)
