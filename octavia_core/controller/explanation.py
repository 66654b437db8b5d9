"""The answer to "why": a value that the library returns and the command prints."""

from __future__ import annotations

from enum import StrEnum

import attrs

__all__ = ["Explanation", "Situation"]


class Situation(StrEnum):
    """What kind of answer it is."""

    FINE = "fine"
    WORKING = "working"
    """A holder is at it."""
    WAITING = "waiting"
    """For something outside, a server for example."""
    RETRYING = "retrying"
    """After an error that may pass."""
    QUEUED = "queued"
    """Behind another operation."""
    UNCLAIMED = "unclaimed"
    """Nobody has taken it yet."""
    SILENT = "silent"
    """Its holder has stopped renewing; it is taken over next."""
    UNDOING = "undoing"
    FAILED = "failed"
    DEGRADED = "degraded"
    """In place, but something below it is in ERROR."""
    UNHELD = "unheld"
    """A pending status that no operation is about."""
    STUCK = "stuck"
    """No worker's code can carry it on: the flow's version is unknown to all, or its journal does not match."""
    HELD = "held"
    """An amphora is silent for too long, and the governor holds its failover back."""
    UNSERVED = "unserved"
    """In place, but nobody looks after it: no controller or worker is alive, or nothing can be stored."""
    UNHEARD = "unheard"
    """In place, but no health manager is alive: nobody would notice that an amphora dies."""
    GONE = "gone"


@attrs.frozen(kw_only=True)
class Explanation:
    """An answer. Absent facts are None.

    Attributes:
        kind: "load balancer", "operation", "amphora", or what is below a load balancer.
        summary: one sentence that goes on after "<kind> <id> is <status>: ".
        operation: the operation that the answer is about.
        doing: what that operation is for, in words.
        holder: who works at it.
        step: where it is, in words.
        age: seconds since it was asked for, or since it ended.
        cause: the error that led here.
        next_attempt: seconds until it is looked at again, at most; 0 when that is due; None when nobody is there to.
        next: what happens next.
        problems: what is not well below it (in ERROR, served without what it wants), with the reason.
        advice: what you can do.
    """

    kind: str
    id: str
    name: str | None = None
    situation: Situation
    status: str
    summary: str
    operation: str | None = None
    doing: str | None = None
    holder: str | None = None
    step: str | None = None
    age: float | None = None
    cause: str | None = None
    next_attempt: float | None = None
    next: str | None = None
    problems: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
