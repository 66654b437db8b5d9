"""Outages to rehearse: generated ones by name, or one read from recorded events.

An outage says of each amphora from when to when it is silent, whether it really ended, and whether its agent could be
reached; besides, when receivers were deaf and when the database was away. Times are seconds from the beginning of the
rehearsal. What is not named is well all the time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from octavia_core.errors import BadRequest

__all__ = ["SCENARIOS", "Outage", "Place", "Shape", "Trouble", "generated", "recorded"]

EVER = math.inf
MOST_PLACES = 1_000_000
"""Amphorae, hosts and zones of a rehearsal: what is built in seconds and fits into a gibibyte."""
MOST_RECEIVERS = 1000
"""Each is asked at each look."""


@attrs.frozen(kw_only=True)
class Shape:
    """What a rehearsal consists of.

    Attributes:
        amphorae: how many there are, spread evenly over `hosts`, which are spread evenly over `zones`: a million of each at
            most.
        receivers: health managers that listen, a thousand at most; each amphora sends to one after the other.
        duration: seconds that are rehearsed.
        begin: when the outage begins, and `lasts`: how long, where it ends by itself.
        share: of the hosts that a partition cuts off, 0 to 1.
        slow: how much longer the pauses between slow heartbeats are.
        proof: whether compute says of what died that it did (a dead host often goes on to be reported as running).
        boot: seconds until a replacement serves.

    Raises:
        BadRequest: one of them is out of its bounds; the sentence says which they are. Nothing is built before.
    """

    amphorae: int = 1000
    hosts: int = 20
    zones: int = 3
    receivers: int = 3
    duration: float = 1200.0
    begin: float = 120.0
    lasts: float = 600.0
    share: float = 0.5
    slow: int = 10
    proof: bool = False
    boot: float = 60.0

    def __attrs_post_init__(self) -> None:
        rules = {
            f"there are 1 to {MOST_PLACES:,} amphorae": 1 <= self.amphorae <= MOST_PLACES,
            f"there are 1 to {MOST_PLACES:,} hosts": 1 <= self.hosts <= MOST_PLACES,
            f"there are 1 to {MOST_PLACES:,} zones": 1 <= self.zones <= MOST_PLACES,
            f"there are 1 to {MOST_RECEIVERS:,} receivers": 1 <= self.receivers <= MOST_RECEIVERS,
            "the outage must begin before the rehearsal ends": 0 <= self.begin < self.duration,
            "an outage lasts longer than no time, and less than a year": 0 < self.lasts <= 365 * 86400,
            "the share must be between 0 and 1": 0 <= self.share <= 1,
            "a replacement takes a while, of less than a week": 0 <= self.boot <= 7 * 86400,
            "slow heartbeats are 1 to 1,000,000 times as slow": 1 <= self.slow <= 1_000_000,
            "a rehearsal lasts a week at most": self.duration <= 7 * 86400,
        }
        for rule, kept in rules.items():
            if not kept:
                raise BadRequest(rule)


@attrs.frozen
class Place:
    """Where an amphora is."""

    host: str
    zone: str


@attrs.frozen(kw_only=True)
class Trouble:
    """What happens to one amphora: heartbeats that are sent from `begin` until `end` reach nobody.

    Attributes:
        dead: whether it ended at `begin`; then its failover is right, and until then it is wrong.
        agent: whether its agent answers meanwhile.
        proof: what compute or the kernel says of its end, None when they say nothing.
        slow: instead of silence: so many times the interval between its heartbeats.
    """

    begin: float
    end: float = EVER
    dead: bool = False
    agent: bool = False
    proof: str | None = None
    slow: float | None = None


@attrs.frozen(kw_only=True)
class Outage:
    """What happens.

    Attributes:
        words: one sentence about it.
        places: of each amphora, by its number.
        troubles: number of an amphora -> what happens to it.
        deaf: receiver's number -> (from, until): what is sent to it then is lost.
        away: (from, until) in which the database does not answer.
    """

    words: str
    places: Sequence[Place]
    troubles: Mapping[int, Trouble]
    deaf: Mapping[int, tuple[float, float]] = attrs.field(factory=dict)
    away: tuple[float, float] | None = None


def generated(name: str, shape: Shape) -> Outage:
    """One of `SCENARIOS`.

    Raises:
        BadRequest: there is none of that name; the message lists them.
    """
    make = SCENARIOS.get(name)
    if make is None:
        raise BadRequest(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return make(shape)


def _places(shape: Shape) -> list[Place]:
    return [
        Place(f"host-{number % shape.hosts}", f"zone-{number % shape.hosts % shape.zones}")
        for number in range(shape.amphorae)
    ]


def _those(shape: Shape, where: Callable[[Place], bool], trouble: Trouble, words: str) -> Outage:
    places = _places(shape)
    return Outage(
        words=words, places=places, troubles={number: trouble for number, at in enumerate(places) if where(at)}
    )


def _death(shape: Shape, what: str) -> Trouble:
    proof = f"compute says that its server is gone with {what}" if shape.proof else None
    return Trouble(begin=shape.begin, dead=True, proof=proof)


def _host_dies(shape: Shape) -> Outage:
    return _those(shape, lambda at: at.host == "host-0", _death(shape, "host-0"), "host-0 dies and stays dead")


def _zone_dies(shape: Shape) -> Outage:
    return _those(shape, lambda at: at.zone == "zone-0", _death(shape, "zone-0"), "zone-0 dies and stays dead")


def _receiver_deaf(shape: Shape) -> Outage:
    window = (shape.begin, shape.begin + shape.lasts)
    words = f"one receiver of {shape.receivers} hears nobody for {shape.lasts:g} s; all amphorae and agents are well"
    if shape.receivers == 1:
        trouble = Trouble(begin=window[0], end=window[1], agent=True)
        return _those(shape, lambda at: True, trouble, words)
    return Outage(words=words, places=_places(shape), troubles={}, deaf={shape.receivers - 1: window})


def _partition(shape: Shape) -> Outage:
    cut = {f"host-{number}" for number in range(round(shape.hosts * shape.share))}
    trouble = Trouble(begin=shape.begin, end=shape.begin + shape.lasts)
    words = f"{len(cut)} of {shape.hosts} hosts are cut off for {shape.lasts:g} s; their amphorae serve on"
    return _those(shape, lambda at: at.host in cut, trouble, words)


def _database_away(shape: Shape) -> Outage:
    window = (shape.begin, shape.begin + shape.lasts)
    return Outage(
        words=f"the database is away for {shape.lasts:g} s; all amphorae are well",
        places=_places(shape),
        troubles={},
        away=window,
    )


def _slow_heartbeats(shape: Shape) -> Outage:
    trouble = Trouble(begin=shape.begin, end=shape.begin + shape.lasts, agent=True, slow=shape.slow)
    words = f"every amphora sends {shape.slow:g} times less often for {shape.lasts:g} s; all of them are well"
    return _those(shape, lambda at: True, trouble, words)


def _everything_silent(shape: Shape) -> Outage:
    trouble = Trouble(begin=shape.begin, end=shape.begin + shape.lasts)
    words = f"nobody is heard and no agent answers for {shape.lasts:g} s; all amphorae serve on"
    return _those(shape, lambda at: True, trouble, words)


SCENARIOS: Mapping[str, Callable[[Shape], Outage]] = {
    "host-dies": _host_dies,
    "zone-dies": _zone_dies,
    "receiver-deaf": _receiver_deaf,
    "partition": _partition,
    "database-away": _database_away,
    "slow-heartbeats": _slow_heartbeats,
    "everything-silent": _everything_silent,
}


# -- from events -------------------------------------------------------------------------------------------------------
_LOST, _PUSHED, _HELD, _RESUMED = "amphora.lost", "amphora.refreshed", "failover.held", "failover.resumed"
_OTHERS = frozenset({"rate", "paused"})
"""Rules that hold back what others have found: they say nothing new about who is silent."""


def recorded(lines: Iterable[str], shape: Shape, timeout: float) -> Outage:
    """The outage that events tell of, as `octavia-admin events --json` writes them.

    Who was declared dead is taken as dead since a timeout before (with proof: since that moment), except by the rule
    `in-vain`: that one's agent answered. Those that were only held back were alive, silent until it was over. Events
    do not say how many amphorae there were besides: that is the shape's.

    Args:
        lines: one JSON object each; other events and empty lines are passed over.
        shape: its `begin` is where the first of them is put; hosts and zones are the recorded ones where they are known.
        timeout: seconds of silence that were too long.

    Raises:
        BadRequest: a line is no event, or none of them tells of silence.
    """
    events = sorted(filter(None, (_event(number, line) for number, line in enumerate(lines, 1))), key=lambda e: e["at"])
    if not events:
        raise BadRequest(
            f"these events tell of no silence: none of them is {_LOST}, {_PUSHED} or {_HELD}; "
            "write them with: octavia-admin events --json"
        )
    start = events[0]["at"]
    places: list[Place] = _places(shape)
    troubles: dict[int, Trouble] = {}
    numbers: dict[str, int] = {}

    def number_of(amphora_id: str, data: Mapping[str, Any]) -> int:
        number = numbers.setdefault(amphora_id, len(numbers))
        if number >= len(places):
            places.append(places[number % shape.amphorae])
        places[number] = Place(
            str(data.get("host") or places[number].host), str(data.get("zone") or places[number].zone)
        )
        return number

    for event in events:
        at, data = shape.begin + (event["at"] - start) / 1_000_000, event["data"]
        if event["name"] in (_LOST, _PUSHED) and event["amphora_id"]:
            number = number_of(event["amphora_id"], data)
            troubles[number] = _lost(event, at, timeout, troubles.get(number))
    for begin, end, many in _holds(events, start, shape.begin, timeout):
        known = [one for one in troubles.values() if not one.dead and one.begin <= end and one.end >= begin]
        free = [number for number in range(len(places)) if number not in troubles]
        troubles |= {number: Trouble(begin=begin, end=end) for number in free[: max(0, many - len(known))]}
    words = f"{len(events)} events about {len(troubles)} amphorae that were silent or lost"
    return Outage(words=words, places=places, troubles=troubles)


def _event(number: int, line: str) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        found = json.loads(line)
        event = {"name": str(found["name"]), "at": int(found["at"]), "amphora_id": found.get("amphora_id")}
        data = found.get("data") or {}
        event["data"] = data if isinstance(data, dict) else {}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BadRequest(f"line {number} is no event; write them with: octavia-admin events --json") from None
    return event if event["name"] in (_LOST, _PUSHED, _HELD, _RESUMED) else None


def _lost(event: Mapping[str, Any], at: float, timeout: float, before: Trouble | None) -> Trouble:
    silent = max(0.0, at - timeout)
    if event["name"] == _PUSHED:
        return before or Trouble(begin=silent, agent=True)
    match event["data"].get("rule"):
        case "proof":
            return Trouble(begin=at, dead=True, proof=str(event["data"].get("evidence") or "it was seen to end"))
        case "in-vain":
            return before or Trouble(begin=max(0.0, at - 3 * timeout), agent=True)
        case _:
            return Trouble(begin=silent, dead=True)


def _holds(
    events: Sequence[Mapping[str, Any]], start: int, begin: float, timeout: float
) -> Iterable[tuple[float, float, int]]:
    """(from, until, how many) were silent while a rule held them back."""
    last = begin + (events[-1]["at"] - start) / 1_000_000
    open_: dict[str, tuple[float, int]] = {}
    for event in events:
        at, rule = begin + (event["at"] - start) / 1_000_000, str(event["data"].get("rule"))
        if event["name"] == _HELD and rule not in _OTHERS:
            many = event["data"].get("amphorae")
            open_.setdefault(rule, (max(0.0, at - timeout), many if isinstance(many, int) else 0))
        elif event["name"] == _RESUMED and rule in open_:
            since, many = open_.pop(rule)
            yield since, at, many
    for since, many in open_.values():
        yield since, max(last, since + timeout), many
