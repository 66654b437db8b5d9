"""What the silence of an amphora means: facts in, a finding with its evidence out.

Rule 1: evidence that its process or server ended is certain; nothing else is. Rule 2: silence counts only while
somebody listened: from when the receiver began (or began again) to hear, until it went deaf. Rule 3: an amphora that
was never heard has a deadline, counted from when its server was asked for. Rule 4: no clock in this file; all times
are integer microseconds of one clock, and a time in the future counts as now.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

__all__ = ["Ear", "Finding", "Heart", "Judgement", "judge", "late_after"]

SUSPICIOUS = 0.6
"""Share of the timeout after which one is late: its agent is asked, and the answer is there when the timeout is."""


class Finding(StrEnum):
    """What is to be thought of an amphora."""

    ALIVE = "ALIVE"
    """Heard lately, or there was no time yet to hear it."""
    SILENT = "SILENT"
    """It was heard once, and not for longer than the timeout."""
    NEVER_HEARD = "NEVER_HEARD"
    """Its server was asked for, and its first heartbeat is overdue."""
    DEAD = "DEAD"
    """It is known to have ended."""


@attrs.frozen(kw_only=True)
class Heart:
    """What is known of one amphora.

    Attributes:
        last_heard: when its last heartbeat came, None when none ever did.
        since: when its server was asked for.
        ended: what proves that it ended ("process 4711 was killed by signal 9"), None without proof.
    """

    last_heard: int | None
    since: int
    ended: str | None = None


@attrs.frozen(kw_only=True)
class Ear:
    """What is known of those who listen, the same for every amphora of one look.

    Attributes:
        now: the time of the look.
        timeout: silence that is too long.
        deadline: how long an amphora may take from the asking for its server to its first heartbeat.
        listening_since: when receiving began, or began again after an outage; 0 when it never stopped.
        deaf_since: when the receiver began to hear nobody at all (or lost its database), None while all is well.
    """

    now: int
    timeout: int
    deadline: int
    listening_since: int = 0
    deaf_since: int | None = None


@attrs.frozen
class Judgement:
    """A finding, one sentence that says why, and the microseconds of silence beyond what is allowed (0: none)."""

    finding: Finding
    evidence: str
    overdue: int = 0


def late_after(timeout: float, interval: float) -> float:
    """Silence (any unit) after which an amphora is late: not yet too long, and longer than one lost heartbeat explains."""
    return min(timeout, max(SUSPICIOUS * timeout, 1.5 * interval))


def judge(heart: Heart, ear: Ear) -> Judgement:
    """Judge one amphora. Whether anything follows from it is not decided here."""
    if heart.ended is not None:
        return Judgement(Finding.DEAD, heart.ended)
    heard = heart.last_heard is not None
    start = heart.since if heart.last_heard is None else heart.last_heard
    end = ear.now if ear.deaf_since is None else min(ear.now, ear.deaf_since)
    silence = max(0, end - max(start, ear.listening_since))
    limit = ear.timeout if heard else ear.deadline
    what = "last heard" if heard else "never heard; its server was asked for"
    evidence = f"{what} {_seconds(ear.now - start)} ago; "
    if silence < ear.now - start:
        evidence += f"of that, we could hear for {_seconds(silence)}; "
    evidence += f"allowed are {_seconds(limit)}"
    if silence <= limit:
        return Judgement(Finding.ALIVE, evidence)
    return Judgement(Finding.SILENT if heard else Finding.NEVER_HEARD, evidence, silence - limit)


def _seconds(microseconds: int) -> str:
    return f"{max(0, microseconds) / 1_000_000:.1f} s"
