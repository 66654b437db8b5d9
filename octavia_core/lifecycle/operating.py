"""Operating status: does it work right now? What one heartbeat says about a load balancer.

Rule 1: the words of the heartbeat become statuses by the three tables below, and each object gets one. Rule 2: within
one heartbeat a pool and a load balancer only get worse, so the order of their parts does not matter. Rule 3: what the
heartbeat does not mention is judged by the table of the absent; where it says itself that it is partial, pools and members
that it does not mention stay as they are, and count above them as the rows have them. Rule 4: the answer holds changes only, children before
parents. Rule 5: no driver, no SQL, no clock in this file.

The rules are those of upstream Octavia 19, with one more: a listener whose provisioning status is ERROR may be reported
or not (the amphora runs its last good form, if there ever was one), so it never spoils the count. Upstream counts it,
and a listener that had to be left out would cost its load balancer a failover every minute.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import attrs

from octavia_core.domain.heartbeat import FLAT_POOLS_SINCE, Heartbeat, PoolReport
from octavia_core.domain.outline import ListenerOutline, MemberOutline, Outline, PoolOutline
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, Operating, Provisioning

__all__ = [
    "ABSENT",
    "DISPUTED",
    "HALF",
    "LISTENER_WORDS",
    "MEMBER_WORDS",
    "POOL_WORDS",
    "Absence",
    "Verdict",
    "Word",
    "roll_up",
]

ONLINE = Operating.ONLINE
OFFLINE = Operating.OFFLINE
DEGRADED = Operating.DEGRADED
ERROR = Operating.ERROR
NO_MONITOR = Operating.NO_MONITOR
DRAINING = Operating.DRAINING

_SEVERITY = {ONLINE: 0, DEGRADED: 1, ERROR: 2}
"""How a pool and a load balancer get worse. OFFLINE is beside this ladder: only ERROR overrules it."""


@attrs.frozen(kw_only=True)
class Word:
    """What a status word of a heartbeat does.

    Attributes:
        word: the word, or how it begins when `prefix` (`UP 1/3`, `DOWN (agent)`).
        becomes: the status of the object itself, None leaves it as it was.
        pool: how bad its pool is at least (members only).
        load_balancer: how bad the load balancer is at least; DEGRADED spares one that is disabled, ERROR does not.
    """

    word: str
    becomes: Operating | None
    prefix: bool = False
    pool: Operating | None = None
    load_balancer: Operating | None = None

    def fits(self, said: str) -> bool:
        """Whether this is the rule for what was said."""
        return said.startswith(self.word) if self.prefix else said == self.word


HALF = "HALF"
"""A word of ours, for a pair: one amphora has the listener, the other, which is heard as well, has not."""
DISPUTED = "DISPUTED"
"""A word of ours, for a pair: the pool works, and for too long the two have differed about one of its members."""

LISTENER_WORDS = (
    Word(word="OPEN", becomes=ONLINE),
    Word(word="FULL", becomes=DEGRADED, load_balancer=DEGRADED),
    Word(word=HALF, becomes=DEGRADED, load_balancer=DEGRADED),
)
"""The FRONTEND row. FULL: as many connections as its limit allows. Another word changes nothing and is a warning."""

POOL_WORDS = (
    Word(word="UP", becomes=ONLINE),
    Word(word="DOWN", becomes=ERROR, load_balancer=ERROR),
    Word(word=DISPUTED, becomes=DEGRADED, load_balancer=DEGRADED),
)
"""The BACKEND row. A pool whose members have no monitor is UP."""

MEMBER_WORDS = (
    Word(word="UP", becomes=ONLINE, prefix=True),
    Word(word="DOWN", becomes=ERROR, prefix=True, pool=DEGRADED, load_balancer=DEGRADED),
    Word(word="DRAIN", becomes=DRAINING),
    Word(word="MAINT", becomes=OFFLINE),
    Word(word="no check", becomes=NO_MONITOR),
    Word(word="RESTARTING", becomes=None),
)
"""The server rows. RESTARTING (UDP and SCTP): the checker has not looked yet."""


@attrs.frozen(kw_only=True)
class Absence:
    """What it means that a heartbeat does not mention something."""

    kind: Kind
    when: str
    becomes: Operating | None


_LISTENER_MISSED = Absence(
    kind=Kind.LISTENER, when="enabled, and the load balancer's provisioning status is ACTIVE", becomes=ERROR
)
_LISTENER_OFF = Absence(kind=Kind.LISTENER, when="otherwise", becomes=OFFLINE)
_POOL_OFF = Absence(kind=Kind.POOL, when="always; its members stay as they were", becomes=OFFLINE)
_MEMBER_UNCHECKED = Absence(kind=Kind.MEMBER, when="its pool is reported, and it was NO_MONITOR", becomes=None)
_MEMBER_OFF = Absence(kind=Kind.MEMBER, when="its pool is reported, and it was anything else", becomes=OFFLINE)

ABSENT = (_LISTENER_MISSED, _LISTENER_OFF, _POOL_OFF, _MEMBER_UNCHECKED, _MEMBER_OFF)
"""What the heartbeat does not mention. None of these touches the load balancer's own status."""


@attrs.frozen
class Verdict:
    """What a heartbeat means for the rows.

    Attributes:
        counts_match: it reports as many listeners as it should, or nobody can say. False: do not count the amphora as
            heard, so that a lasting mismatch ends in a failover; the statuses hold all the same.
        statuses: changes only, children before parents, the load balancer last.
        warnings: sentences about words nobody knows and counts that differ.
    """

    counts_match: bool
    statuses: Mapping[tuple[Kind, str], Operating]
    warnings: tuple[str, ...] = ()


_WORDS = {Kind.LISTENER: LISTENER_WORDS, Kind.POOL: POOL_WORDS, Kind.MEMBER: MEMBER_WORDS}
_LONGEST = 40
"""Characters of what is said that tell which rule it is: no word is as long."""


@functools.lru_cache(maxsize=1000)
def _meaning(kind: Kind, said: str) -> Word | None:
    """The rule for it; agents say a handful of words."""
    return next((word for word in _WORDS[kind] if word.fits(said)), None)


_Thing = LoadBalancer | Listener | Pool | Member | Outline | ListenerOutline | PoolOutline | MemberOutline


def roll_up(load_balancer: LoadBalancer | Outline, heartbeat: Heartbeat) -> Verdict:
    """Judge one heartbeat of one amphora of this load balancer.

    Total: it raises nothing, whatever the heartbeat says. What the amphorae of a pair say is put together before
    (`lifecycle.together`); only whether one has all listeners is judged by its own heartbeat.

    Args:
        load_balancer: as the rows say now; neither it nor the amphora is DELETED (the caller sees to that).
        heartbeat: verified, of an amphora of this load balancer.
    """
    if isinstance(load_balancer, Outline) and _all_is_well(load_balancer, heartbeat):
        return _WELL
    round_ = _Round(load_balancer, heartbeat)
    for listener in load_balancer.listeners:
        round_.listener(listener)
    reports = heartbeat.reports_by_pool()
    for pool in load_balancer.pools:
        round_.pool(pool, reports.get(pool.id))
    return round_.verdict()


_WELL = Verdict(True, {})


def _all_is_well(outline: Outline, heartbeat: Heartbeat) -> bool:
    """Whether the rows say of everything that it works, and the heartbeat too: what the tables say of nearly all that a health
    manager hears when it begins, for a tenth of their price. False where they have to be asked.
    """
    reported = heartbeat.listeners
    if not outline.enabled or outline.operating_status is not ONLINE or len(reported) != len(outline.listeners):
        return False
    for id, _, enabled, _, _, provisioning, operating in outline.listeners:
        report = reported.get(id)
        if report is None or report.status != "OPEN" or operating is not ONLINE:
            return False
        if not enabled or provisioning is Provisioning.ERROR:
            return False  # then other counts match, too
    if not outline.pools:
        return heartbeat.version >= FLAT_POOLS_SINCE
    pools = heartbeat.reports_by_pool()
    for id, _, operating, members in outline.pools:
        pool = pools.get(id)
        if pool is None or pool.status != "UP" or operating is not ONLINE:
            return False
        said = pool.members.get
        for member, _, _, status in members:
            if status is not ONLINE or said(member) != "UP":
                return False
    return heartbeat.version >= FLAT_POOLS_SINCE


class _Round:
    """The working table of one call of `roll_up`."""

    def __init__(self, load_balancer: LoadBalancer | Outline, heartbeat: Heartbeat) -> None:
        self._load_balancer, self._heartbeat = load_balancer, heartbeat
        self._worst = ONLINE
        self._statuses: dict[tuple[Kind, str], Operating] = {}
        self._warnings: list[str] = []

    def listener(self, listener: Listener | ListenerOutline) -> None:
        report = self._heartbeat.listeners.get(listener.id)
        if report is None:
            missed = listener.enabled and self._load_balancer.provisioning_status is Provisioning.ACTIVE
            self._set(Kind.LISTENER, listener, (_LISTENER_MISSED if missed else _LISTENER_OFF).becomes)
        elif rule := self._rule(Kind.LISTENER, report.status, listener.id):
            self._set(Kind.LISTENER, listener, rule.becomes)
            self._worst = _worse(self._worst, rule.load_balancer)

    def pool(self, pool: Pool | PoolOutline, report: PoolReport | None) -> None:
        if report is None and self._heartbeat.partial:
            self._worst = _worse(self._worst, _as_bad(pool.operating_status))
            return
        if report is None:
            self._set(Kind.POOL, pool, _POOL_OFF.becomes)
            return
        rule = self._rule(Kind.POOL, report.status, pool.id)
        rules = {found.word: found for member in pool.members if (found := self._member(member, report))}.values()
        if rule is None or rule.becomes is None:
            return  # unchanged, and so its members cannot make anything above them worse
        self._worst = _worse(self._worst, rule.load_balancer, *(found.load_balancer for found in rules))
        self._set(Kind.POOL, pool, _worse(rule.becomes, *(found.pool for found in rules)))

    def _member(self, member: Member | MemberOutline, report: PoolReport) -> Word | None:
        said = report.members.get(member.id)
        if said is None and self._heartbeat.partial:
            return _DOWN if member.operating_status is ERROR else None
        if said is None:
            unchecked = member.operating_status is NO_MONITOR
            self._set(Kind.MEMBER, member, (_MEMBER_UNCHECKED if unchecked else _MEMBER_OFF).becomes)
            return None
        rule = self._rule(Kind.MEMBER, said, member.id)
        if rule:
            self._set(Kind.MEMBER, member, rule.becomes)
        return rule

    def _rule(self, kind: Kind, said: str, id: str) -> Word | None:
        word = _meaning(kind, said[:_LONGEST])
        if word is not None:
            return word
        self._warnings.append(f"{said[:40]!r} of {kind.words} {id}, which says nothing about its status")
        return None

    def _set(self, kind: Kind, thing: _Thing, status: Operating | None) -> None:
        if status is not None and status is not thing.operating_status:
            self._statuses[kind, thing.id] = status

    def verdict(self) -> Verdict:
        status = ONLINE if self._load_balancer.enabled else OFFLINE
        if self._load_balancer.enabled or self._worst is ERROR:
            status = self._worst
        self._set(Kind.LOAD_BALANCER, self._load_balancer, status)
        low, high = _expected(self._load_balancer, self._heartbeat.version)
        reported = len(self._heartbeat.listeners)
        waived = self._load_balancer.provisioning_status.pending or not self._load_balancer.enabled
        matches = waived or low <= reported <= high
        if not matches:
            count = str(low) if low == high else f"{low} to {high}"
            self._warnings.append(
                f"{reported} listener(s) of load balancer {self._load_balancer.id}, which has {count} to report"
            )
        return Verdict(matches, self._statuses, tuple(self._warnings))


_DOWN = next(word for word in MEMBER_WORDS if word.word == "DOWN")
"""What a member said that is ERROR in the rows, where a partial heartbeat leaves it out."""


def _as_bad(status: Operating) -> Operating | None:
    """How bad the load balancer is at least with a pool of that status, when the pool's report said so."""
    return status if status in _SEVERITY else None


def _worse(status: Operating, *others: Operating | None) -> Operating:
    for other in others:
        if other and _SEVERITY[other] > _SEVERITY[status]:
            status = other
    return status


def _expected(load_balancer: LoadBalancer | Outline, version: int) -> tuple[int, int]:
    """The fewest and the most listeners that an amphora in order reports."""
    settled = uncertain = 0
    for listener in load_balancer.listeners:
        if listener.provisioning_status is Provisioning.ERROR:
            uncertain += 1
        elif listener.enabled and (version >= FLAT_POOLS_SINCE or not _idle_udp(load_balancer, listener)):
            settled += 1
    return settled, settled + uncertain


def _idle_udp(load_balancer: LoadBalancer | Outline, listener: Listener | ListenerOutline) -> bool:
    """UDP without anybody to send to, which agents of the versionless form do not report."""
    if listener.protocol is not ListenerProtocol.UDP:
        return False
    pool = load_balancer.pool(listener.default_pool_id)
    return pool is None or not any(member.enabled for member in pool.members)
