"""What an answer is made from: one snapshot of the rows, and what is known of the machine that asks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import attrs

from octavia_core.controller.explanation import Explanation, Situation
from octavia_core.controller.holder import living
from octavia_core.controller.holds import ENDED
from octavia_core.controller.waiter import WAITS
from octavia_core.controller.words import holder_words
from octavia_core.ports.storage import Attendance, Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["Facts", "seconds"]

_START_WORKER = "start one: octavia-core-worker --config-file FILE"
FULL = 256 * 1024
"""Bytes: with less room than this an embedded database cannot be relied upon to store anything."""


def seconds(microseconds: int) -> float:
    """A duration of the rows."""
    return microseconds / 1_000_000


@attrs.define
class Facts:
    """One snapshot of the database, and what is known of this machine.

    Attributes:
        now: the database's clock, microseconds.
        running: whether a controller runs on the state directory; None when nobody can know (a database on a server).
        storage: what else there is to know of the database: where it is, how full, whether it stores anything.
        looks: seconds between two looks of a worker at servers that are awaited.
    """

    tx: Transaction
    now: int
    settings: Settings
    running: bool | None
    storage: Storage
    looks: float

    @cached_property
    def attendance(self) -> Attendance:
        """Who says that they work."""
        return self.tx.attendance()

    @property
    def alive(self) -> list[str]:
        """The workers whose word still holds."""
        return [holder for holder, until in self.attendance.workers.items() if until > self.now]

    def versions(self, flow: str) -> list[int]:
        """The versions of a flow that somebody who is alive knows."""
        return sorted(v for (name, v), until in self.attendance.flows.items() if name == flow and until > self.now)

    def since(self, at: int | None) -> float | None:
        """Seconds since then."""
        return None if at is None else seconds(self.now - at)

    @cached_property
    def unserved(self) -> tuple[str, str] | None:
        """Why nobody carries anything out, and what to do about it; None when somebody does."""
        room = self.storage.room()
        if room is not None and room < FULL:
            return (
                f"the file system of {self.storage.place()} is full ({room // 1024} KiB left), so nothing can be stored",
                "make room there; what was asked for goes on by itself then",
            )
        if self.running is False:
            return "no controller runs on this state directory", "start one: octavia-admin up"
        if self.alive:
            return None
        # workers that live cannot say so; of a file this program may be forbidden what they are not
        refused = self.storage.unwritable() if room is None else None
        if refused is not None:
            return (
                f"nothing can be stored: {refused}",
                "mend that at the database; what was asked for goes on by itself then",
            )
        last = max(self.attendance.workers.items(), key=lambda item: item[1], default=None)
        if self.running:
            if last is None:
                return None  # it has just begun
            return (
                f"the controller of this state directory could store nothing for {seconds(self.now - last[1]):.0f} s",
                "look at what it logs; end it and start it again if it does not recover: octavia-admin up",
            )
        if last is None:
            return "no worker is alive", _START_WORKER
        silent = f"{seconds(self.now - last[1]):.0f} s or more"
        return f"no worker is alive; the last one was {holder_words(last[0])}, silent for {silent}", _START_WORKER

    @cached_property
    def unheard(self) -> tuple[str, str] | None:
        """Why nobody hears amphorae, and what to do about it; None when a health manager works, or something is in its way."""
        if self.running or (self.unserved is not None and self.unserved[1] != _START_WORKER):
            return None  # a controller hears by itself; on a full disk nobody can say that he lives
        rows = self.tx.observers()
        if any(living(row, self.now) for row in rows):
            return None
        start = "start one: octavia-core-health-manager --config-file FILE"
        last = max(rows, key=lambda row: row.written_at, default=None)
        if last is None:
            return "no health manager is alive", start
        silent = f"{seconds(self.now - last.written_at):.0f} s"
        return f"no health manager is alive; the last one was {holder_words(last.name)}, silent for {silent}", start

    def ended(self, amphora_id: str) -> str | None:
        """What proves that an amphora has ended that is not replaced yet, by a health manager that lives; None where none knows."""
        for row in self.tx.observers():
            known = row.figures.get(ENDED)
            if isinstance(known, Mapping) and amphora_id in known and living(row, self.now):
                return str(known[amphora_id])
        return None

    def advised(self, said: Explanation) -> Explanation:
        """The answer with what to do besides, where nobody is there to carry anything out, or to hear."""
        return attrs.evolve(said, advice=(*said.advice, *(advice for _, advice in self.missing)))

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Both: why what serves is looked after by nobody, and heard by nobody; empty when all is as it should be."""
        return [one for one in (self.unserved, self.unheard) if one is not None]

    def unwatched(self, limit: float) -> float | None:
        """Seconds for which no worker has looked at what is waited for, when that is longer than the limit."""
        last = None if self.running else self.tx.turned(WAITS)
        ago = None if last is None else seconds(self.now - last)
        return ago if ago is not None and ago > limit else None

    def next(self, said: Explanation, does: str) -> Explanation:
        """The answer with what happens next, which depends on whether anybody is there to do it."""
        if self.unserved is not None:
            why, advice = self.unserved
            return attrs.evolve(
                said,
                next=f"nothing until that is mended: {why}; then a worker {does}",
                next_attempt=None,
                advice=(advice,),
            )
        who = "the controller" if self.running else "a worker"
        return attrs.evolve(said, next=f"{who} {does}")

    def nobody(self, base: Explanation, summary: str) -> Explanation:
        """The answer about something that is in place, and that nobody looks after, or nobody hears."""
        why = ", and ".join(words for words, _ in self.missing)
        what = (
            "nothing that goes wrong is noticed or mended"
            if self.unserved is not None
            else "nobody notices when an amphora dies, or reads what it reports"
        )
        return attrs.evolve(
            base,
            situation=Situation.UNHEARD if self.unserved is None else Situation.UNSERVED,
            summary=f"{summary}, but {why}: {what}",
            cause=why,
            advice=(*base.advice, *(advice for _, advice in self.missing)),
        )
