"""Pausing failovers, letting them go again, and what holds now: for all health managers on all hosts, by the database.

A pause holds everything back, proof too, until somebody resumes. What the governor holds back by itself is not stored:
it lets go by itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import attrs

from octavia_core.controller.holder import living
from octavia_core.domain.operation import Event
from octavia_core.errors import Refused
from octavia_core.policy.governor import Bucket
from octavia_core.ports.fleet import Governing
from octavia_core.ports.storage import Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["Overview", "bucket_of", "overview", "pause", "pause_words", "resume"]

RECENT = 600.0
"""Seconds of failovers that an overview counts."""


@attrs.frozen(kw_only=True)
class Overview:
    """What holds for failovers now. Times are microseconds of the database's clock.

    Attributes:
        words: "paused by X since T because R", None while nobody has paused them.
        tokens: failovers that may start at once unless they are paused, by the settings of whoever asks.
        per_minute: tokens that come back.
        held: what the health managers hold back by themselves at the moment, rule -> amphorae (the largest number).
        evidence: the same rules -> why.
        recent: failovers by rule that were declared in the last ten minutes.
        waiting: failovers that failed and come back later.
        observers: health managers that live.
    """

    now: int
    paused_by: str | None
    paused_reason: str | None
    paused_at: int | None
    words: str | None
    tokens: float
    per_minute: float
    held: Mapping[str, int]
    evidence: Mapping[str, str]
    recent: Mapping[str, int]
    waiting: int
    observers: int


def pause(storage: Storage, *, actor: str, reason: str) -> Governing:
    """Pause failovers: none is started, whatever is known, until `resume`.

    Raises:
        Refused: somebody has paused them already; the message says who.
    """

    def work(tx: Transaction) -> Governing:
        before = tx.governing(hold=True)
        if before.paused_by is not None:
            raise Refused(f"failovers are {pause_words(before)}; resume them with: octavia-admin governor resume")
        tx.set_pause(actor, reason)
        text = f"failovers are paused by {actor} because {reason}"
        tx.emit(Event(name="governor.paused", text=text, data={"actor": actor, "reason": reason}))
        return tx.governing()

    return storage.transaction(work)


def resume(storage: Storage, *, actor: str, reason: str | None = None) -> Governing:
    """Let failovers go again; what it was before.

    Raises:
        Refused: nobody has paused them.
    """

    def work(tx: Transaction) -> Governing:
        before = tx.governing(hold=True)
        if before.paused_by is None:
            raise Refused("failovers are not paused; what the governor holds back by itself goes on by itself")
        tx.set_pause(None, None)
        lasted = (before.now - (before.paused_at or before.now)) / 1_000_000
        text = f"failovers are resumed by {actor}; they were {pause_words(before)}"
        data = {"actor": actor, "reason": reason, "paused_by": before.paused_by, "seconds": round(lasted, 3)}
        tx.emit(Event(name="governor.resumed", text=text + (f" ({reason})" if reason else ""), data=data))
        return before

    return storage.transaction(work)


def pause_words(governing: Governing) -> str | None:
    """The pause in words: "paused by X since T because R"; None while there is none."""
    if governing.paused_by is None:
        return None
    since = datetime.datetime.fromtimestamp((governing.paused_at or 0) / 1_000_000, datetime.UTC)
    return (
        f"paused by {governing.paused_by} since {since:%Y-%m-%d %H:%M:%S} UTC because "
        f"{governing.paused_reason or 'no reason was given'}"
    )


def bucket_of(governing: Governing, rate: float) -> Bucket:
    """The bucket that all health managers share, as it is now."""
    return Bucket.shared(rate, governing.tokens, governing.counted_at, governing.now)


def overview(storage: Storage, settings: Settings) -> Overview:
    """What holds now, by the database alone."""
    return storage.read(lambda tx: _overview(tx, settings))


def _overview(tx: Transaction, settings: Settings) -> Overview:
    found = tx.governing()
    held: dict[str, int] = {}
    evidence: dict[str, str] = {}
    alive = [one for one in tx.observers() if living(one, found.now)]
    for one in alive:
        for rule, many in _mapping(one.figures.get("held")).items():
            if many >= held.get(rule, 0):
                held[rule] = int(many)
                evidence[rule] = str(_mapping(one.figures.get("evidence")).get(rule, ""))
    rate = settings.engine.failovers_per_minute
    return Overview(
        now=found.now,
        paused_by=found.paused_by,
        paused_reason=found.paused_reason,
        paused_at=found.paused_at,
        words=pause_words(found),
        tokens=round(bucket_of(found, rate).tokens, 3),
        per_minute=rate,
        held=held,
        evidence=evidence,
        recent=tx.lost_lately(RECENT),
        waiting=len(tx.comebacks()),
        observers=len(alive),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    """Figures are written by other versions too: what is no mapping says nothing."""
    return value if isinstance(value, Mapping) else {}
