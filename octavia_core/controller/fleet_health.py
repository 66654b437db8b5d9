"""The health of the fleet as the rows tell it: amphorae by state, and each health manager by its own figures."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from octavia_core.controller.governing import pause_words
from octavia_core.controller.holder import has_ended, living
from octavia_core.ports.fleet import Observer
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["GONE", "Fleet", "Life", "Manager", "fleet"]

GONE = 120.0
"""Seconds of silence after which a health manager counts as gone, rather than as held up."""


class Life(StrEnum):
    """What a health manager's row says of it."""

    ALIVE = "alive"
    SILENT = "silent"
    """It has not written for half a minute: it is held up, or gone."""
    GONE = "gone"
    """Its process has ended on this host, or it has not written for `GONE` seconds."""


@attrs.frozen(kw_only=True)
class Manager:
    """One health manager, by the row that it writes every few seconds. What its version did not write is None.

    Attributes:
        age: seconds since it wrote; `life`: what follows; `alive`: whether the figures say something about now.
        ended: whether it is known that its process has ended, on this host.
        hears: amphorae that sent to this one within the timeout, of those `watched`: its reachability.
        per_second: heartbeats lately; `heartbeats`: since it began.
        lag: seconds from the arrival of a datagram until it was known there, the longest between two looks.
        oldest: the longest silence of an amphora that was ever heard, seconds; `oldest_id`: whose.
        dropped: datagrams and reports that did not count, by reason, since it began.
        held: failovers that its governor holds back, by rule.
        replaced: its processes that receive and were replaced, by what had become of them, since it began.
    """

    name: str
    age: float
    alive: bool
    watched: int | None
    hears: int | None
    never_heard: int | None
    silent: int | None
    heartbeats: int | None
    per_second: float | None
    lag: float | None
    oldest: float | None
    oldest_id: str | None
    dropped: Mapping[str, int]
    held: Mapping[str, int]
    replaced: Mapping[str, int] = attrs.field(factory=dict)
    life: Life = Life.ALIVE
    ended: bool = False


@attrs.frozen(kw_only=True)
class Fleet:
    """Everything. `paused` is the pause in words; `waiting` counts failovers that come back."""

    now: int
    amphorae: Mapping[str, int]
    paused: str | None
    waiting: int
    managers: tuple[Manager, ...]

    @property
    def heard(self) -> bool:
        """Whether any health manager is alive."""
        return any(one.alive for one in self.managers)


def fleet(storage: Storage) -> Fleet:
    """As the rows say now."""
    return storage.read(_fleet)


def _fleet(tx: Transaction) -> Fleet:
    found = tx.governing()
    return Fleet(
        now=found.now,
        amphorae=tx.amphora_states(),
        paused=pause_words(found),
        waiting=len(tx.comebacks()),
        managers=tuple(_manager(one, found.now) for one in tx.observers()),
    )


def _manager(row: Observer, now: int) -> Manager:
    """Another version may have written it: what is not there, or is not what it should be, is None."""
    age = max(0.0, (now - row.written_at) / 1_000_000)
    alive, ended = living(row, now), has_ended(row)
    oldest = row.figures.get("oldest")
    oldest = oldest if isinstance(oldest, Mapping) else {}
    return Manager(
        name=row.name,
        age=round(age, 3),
        alive=alive,
        life=Life.ALIVE if alive else Life.GONE if ended or age > GONE else Life.SILENT,
        ended=ended,
        watched=_whole(row.figures.get("watched")),
        hears=_whole(row.figures.get("hears")),
        never_heard=_whole(row.figures.get("never_heard")),
        silent=_whole(row.figures.get("silent")),
        heartbeats=_whole(row.figures.get("heartbeats")),
        per_second=_number(row.figures.get("per_second")),
        lag=_number(row.figures.get("lag")),
        oldest=_number(oldest.get("seconds")),
        oldest_id=str(oldest["amphora_id"]) if oldest.get("amphora_id") else None,
        dropped=_counts(row.figures.get("dropped")),
        held=_counts(row.figures.get("held")),
        replaced=_counts(row.figures.get("replaced")),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _counts(value: Any) -> Mapping[str, int]:
    return {str(k): v for k, v in value.items() if isinstance(v, int)} if isinstance(value, Mapping) else {}
