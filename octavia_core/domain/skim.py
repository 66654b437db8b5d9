"""Heartbeats at a glance: most say what the one before said, with other numbers.

Upstream's agents (and ours) write `"pools"` behind everything that changes from one heartbeat to the next. Of what stands
before it, everything but the numbers, and all that stands behind it, is compared as a digest with what was decoded whole
before. The numbers' places were tried when it was decoded: other numbers were put there, and decoding had to find each of
them as one counter. Verification and inflating are never left out. Rule: a report is taken at a glance only when decoding it
whole could not have said otherwise, so what is not laid out like that is just slower.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from octavia_core.domain.calm import calm_of
from octavia_core.domain.heartbeat import LARGEST_GAUGE, BadPacket, Heartbeat, Reason, inflate, parsed, statuses

__all__ = ["FIELDS", "MARK", "Sheet", "Skimmed", "Skimmer", "skimmed"]

FIELDS = 5
"""Numbers of one listener in `Skimmed.counters`: rx, tx, conns, totconns, ereq."""
MARK = 8
"""Bytes of a heartbeat's mark: the end of its digest, which no other heartbeat has (but by a chance of one in 2**64)."""

_POOLS = b', "pools": {'
_NUMBERS = re.compile(rb": (0|[1-9][0-9]{0,17})")
"""Numbers below 10**18 where JSON has them behind a name; what is more of a number would be among the words."""
_PROBE = 1_000_000
"""Numbers from here on are put into the places of numbers to try them: gauges take them, too."""
_HEX, _BINARY, _BLOCK = 64, 32, 64
_Hash = Any  # what hashlib.sha256() makes
_FORGET_AFTER = 20
"""Heartbeats per remembered amphora after which those that were not heard since are forgotten."""
_FEW = 1000
"""As many amphorae are remembered for some while anyway."""
MOST = 150_000
"""Amphorae that one process remembers at most; those that it has known longest are read whole again."""
LISTENERS = 2000
"""Listeners of a heartbeat that is remembered: more than an agent's datagram takes, and what is made up may have far more."""


class Skimmed(NamedTuple):
    """One verified heartbeat.

    Attributes:
        seq: see `Heartbeat`.
        words: digest of everything that decides statuses: equal words, equal statuses.
        counters: `FIELDS` numbers of each listener, in the order of the message.
        source: what it was read from: the verified body of the datagram, or the heartbeat itself.
        listeners: their ids in the order of the message; None when the words are those of the report before.
        deltas: see `Heartbeat`.
        mark: tells it from every other heartbeat; empty where it was not read from a datagram.
        key: the number of the key that it is signed with, see `Skimmer.accept`.
        handle: of the amphora whose words are remembered, see `Sheet`; -1 where they are not.
        calm: see `calm.calm_of`; b"" as well where it was taken at a glance.
    """

    amphora_id: str
    seq: int | None
    words: bytes
    counters: tuple[int, ...]
    source: bytes | Heartbeat
    listeners: tuple[str, ...] | None
    deltas: bool
    mark: bytes = b""
    key: int = 0
    handle: int = -1
    calm: bytes = b""

    def heartbeat(self) -> Heartbeat:
        """All of it."""
        return self.source if isinstance(self.source, Heartbeat) else parsed(inflate(self.source))

    def statuses(self) -> Heartbeat:
        """All of it but its counters, which may be 0: for half the price."""
        return self.source if isinstance(self.source, Heartbeat) else statuses(inflate(self.source))

    def complete(self) -> Skimmed:
        """The same with its listeners."""
        return self if self.listeners is not None else self._replace(listeners=tuple(self.heartbeat().listeners))


def skimmed(heartbeat: Heartbeat) -> Skimmed:
    """What a glance at a heartbeat would have seen."""
    words = repr(
        (
            [(id, report.status) for id, report in heartbeat.listeners.items()],
            [(id, pool.status, list(pool.members.items())) for id, pool in heartbeat.pools.items()],
            heartbeat.version,
            heartbeat.partial,
        )
    )
    return Skimmed(
        heartbeat.amphora_id,
        heartbeat.seq,
        hashlib.sha1(words.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest(),
        _counters(heartbeat),
        heartbeat,
        tuple(heartbeat.listeners),
        heartbeat.deltas,
        hashlib.sha1(repr(heartbeat).encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()[-MARK:],
        calm=calm_of(heartbeat),
    )


def _counters(heartbeat: Heartbeat) -> tuple[int, ...]:
    counters: list[int] = []
    for report in heartbeat.listeners.values():
        counters += (report.rx, report.tx, report.conns, report.totconns, report.ereq)
    return tuple(counters)


class Sheet:
    """What is remembered of one amphora: how its last whole report was laid out.

    Attributes:
        handle: a small number of its own, as long as it is remembered.
        words: see `Skimmed`.
        places: how many numbers there are; `sequence`: which of them is the sequence number; `counters` picks the
            counters out of all numbers, in the order of `Skimmed.counters`.
        seen: in which round of forgetting it was heard last.
        top, marks: for whoever reads: the highest sequence number that was handed on, -1 for none, and the ends of the last marks.
    """

    __slots__ = ("amphora_id", "counters", "handle", "marks", "places", "seen", "sequence", "top", "words")

    def __init__(self, amphora_id: str, handle: int) -> None:
        self.amphora_id, self.handle = amphora_id, handle
        self.words = b""
        self.places = self.sequence = self.seen = 0
        self.top, self.marks = -1, b""
        self.counters: Callable[[Sequence[int]], Any] = tuple


class Skimmer:
    """Verifies and reads datagrams; remembers of each amphora how it says what it says. For one thread.

    Args:
        keys: every key that is valid now, the most likely first. Text counts as UTF-8; an empty key verifies nothing.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        self.accept({number: key.encode() if isinstance(key, str) else key for number, key in enumerate(keys)})
        self._sheets: dict[bytes, Sheet] = {}
        self._amphorae: dict[str, Sheet] = {}
        self.forgotten: list[int] = []
        """Handles that mean nobody any more; whoever reads it empties it."""
        self._handles = self._round = 0
        self._left = _FORGET_AFTER * _FEW

    def accept(self, keys: Mapping[int, bytes]) -> None:
        """From now on every key that is valid is one of these, the most likely first, with the number that `Skimmed.key` has
        for it. What is remembered of amphorae stays.
        """
        self._signatures = [(number, *_begun(secret)) for number, secret in keys.items() if secret]

    def skim(self, packet: bytes) -> Skimmed:
        """One datagram.

        Raises:
            BadPacket: it is not a heartbeat signed with one of the keys. No other exception, whatever the bytes.
        """
        found = self.read(packet)
        if isinstance(found, Skimmed):
            return found
        sheet, seq, counters, mark, key, body = found
        return Skimmed(sheet.amphora_id, seq, sheet.words, counters, body, None, True, mark, key, sheet.handle)

    def read(self, packet: bytes) -> Skimmed | tuple[Sheet, int, tuple[int, ...], bytes, int, bytes]:
        """The same, for those who read many: what was taken at a glance comes as (sheet, sequence number, counters, mark, key,
        body), which is nearly all of its cost less. Errors as `skim`.
        """
        body, mark, key = self._verified(packet)
        data = inflate(body)
        self._left -= 1
        if self._left < 0:
            self._forget()
        cut, found = data.find(_POOLS), None
        if cut > 0:
            head, rest = data[:cut], data[cut:]
            parts = _NUMBERS.split(head)
            words = _digest(parts, rest)
            sheet = self._sheets.get(words)
            if sheet is not None and len(parts) == 2 * sheet.places + 1:
                numbers = list(map(int, parts[1::2]))
                counters = sheet.counters(numbers)
                if max(counters[2::FIELDS], default=0) < LARGEST_GAUGE:
                    sheet.seen = self._round
                    return sheet, numbers[sheet.sequence], counters, mark, key, body
            found = _Parts(head, rest, parts, words)
        return self._whole(body, parsed(data), mark, key, found)

    def sheet(self, amphora_id: str) -> Sheet | None:
        """What is remembered of it."""
        return self._amphorae.get(amphora_id)

    def doubt(self, amphora_id: str) -> None:
        """Its next heartbeat is read whole, whatever it says; what else is remembered of it stays."""
        if (sheet := self._amphorae.get(amphora_id)) is not None:
            self._sheets.pop(sheet.words, None)

    def _verified(self, packet: bytes) -> tuple[bytes, bytes, int]:
        """Its body, its mark, and the number of the key."""
        if len(packet) >= _HEX:
            body, digest = packet[:-_HEX], packet[-_HEX:]
            for number, inner, outer in self._signatures:
                mine = _signed(inner, outer, body)
                if hmac.compare_digest(mine.hex().encode(), digest):
                    return body, mine[-MARK:], number
        if len(packet) <= _BINARY:
            raise BadPacket(Reason.TOO_SHORT, f"{len(packet)} bytes")
        body, digest = packet[:-_BINARY], packet[-_BINARY:]
        for number, inner, outer in self._signatures:
            if hmac.compare_digest(_signed(inner, outer, body), digest):
                return body, digest[-MARK:], number
        raise BadPacket(
            Reason.BAD_DIGEST, f"{len(packet)} bytes, signed with none of the {len(self._signatures)} heartbeat keys"
        )

    def _whole(self, body: bytes, heartbeat: Heartbeat, mark: bytes, key: int, found: _Parts | None) -> Skimmed:
        # only of deltas, so a glance never has to say what counters are
        few = heartbeat.deltas and len(heartbeat.listeners) <= LISTENERS
        layout = _layout(found, heartbeat) if found is not None and few else None
        if layout is None:
            self._drop(heartbeat.amphora_id)
            return skimmed(heartbeat)._replace(source=body, mark=mark, key=key)
        sheet = self._remember(heartbeat.amphora_id, layout)
        return Skimmed(
            heartbeat.amphora_id,
            heartbeat.seq,
            sheet.words,
            _counters(heartbeat),
            body,
            tuple(heartbeat.listeners),
            True,
            mark,
            key,
            sheet.handle,
            calm_of(heartbeat),
        )

    def _remember(self, amphora_id: str, layout: _Layout) -> Sheet:
        sheet = self._amphorae.get(amphora_id)
        if sheet is None:
            if len(self._amphorae) >= MOST:
                self._drop(next(iter(self._amphorae)))
            sheet = self._amphorae[amphora_id] = Sheet(amphora_id, self._handles)
            self._handles += 1
        else:
            self._sheets.pop(sheet.words, None)
        sheet.words, sheet.places, sheet.sequence, sheet.counters = layout
        sheet.seen = self._round
        self._sheets[sheet.words] = sheet
        return sheet

    def _drop(self, amphora_id: str) -> None:
        sheet = self._amphorae.pop(amphora_id, None)
        if sheet is not None:
            self._sheets.pop(sheet.words, None)
            self.forgotten.append(sheet.handle)

    def _forget(self) -> None:
        """Those that were not heard since the last time."""
        for id in [id for id, sheet in self._amphorae.items() if sheet.seen < self._round]:
            self._drop(id)
        self._round, self._left = self._round + 1, _FORGET_AFTER * max(len(self._amphorae), _FEW)


def _begun(secret: bytes) -> tuple[_Hash, _Hash]:
    """HMAC-SHA256 (RFC 2104) as far as it is the same for all messages: copying these two is half as dear as copying an
    object of `hmac`, which is a class in Python around the same.
    """
    block = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(_BLOCK, b"\0")
    return hashlib.sha256(block.translate(hmac.trans_36)), hashlib.sha256(block.translate(hmac.trans_5C))


def _signed(inner: _Hash, outer: _Hash, body: bytes) -> bytes:
    first, second = inner.copy(), outer.copy()
    first.update(body)
    second.update(first.digest())
    whole: bytes = second.digest()
    return whole


class _Layout(NamedTuple):
    """See `Sheet`."""

    words: bytes
    places: int
    sequence: int
    counters: Callable[[Sequence[int]], Any]


class _Parts(NamedTuple):
    """A document at a glance: `head` is what stands before its pools, `rest` what is behind; `parts`: the head, cut at its numbers,
    with these in between; `words`: digest of all but the numbers.
    """

    head: bytes
    rest: bytes
    parts: Sequence[bytes]
    words: bytes


def _digest(parts: Sequence[bytes], rest: bytes) -> bytes:
    """Of what stands between numbers, and behind them all. No JSON has a zero byte."""
    found = hashlib.sha1(b"\0".join(parts[::2]), usedforsecurity=False)
    found.update(rest)
    return found.digest()


def _layout(found: _Parts, heartbeat: Heartbeat) -> _Layout | None:
    """Where the numbers of a heartbeat stand; None unless each number before the pools is one of its counters or its
    sequence number. Where it is not written as agents write, that is tried: decoded with other numbers there, it must have
    these, and nothing else may change.
    """
    parts = found.parts
    places = len(parts) // 2
    if not places:
        return None
    if _as_agents_write(found, heartbeat):
        return _Layout(found.words, places, 0, _picker(_usual_order(places // FIELDS)))
    probe = list(parts)
    probe[1::2] = [b": %d" % (_PROBE + number) for number in range(places)]
    try:
        tried = parsed(b"".join((*probe, found.rest)))
    except BadPacket:
        return None
    if (tried.amphora_id, tried.version, tried.pools) != (heartbeat.amphora_id, heartbeat.version, heartbeat.pools):
        return None
    if tried.partial is not heartbeat.partial:
        return None
    if [(id, one.status) for id, one in tried.listeners.items()] != [
        (id, one.status) for id, one in heartbeat.listeners.items()
    ]:
        return None
    sequence = (tried.seq or 0) - _PROBE
    order = [number - _PROBE for number in _counters(tried)]
    if sorted([sequence, *order]) != list(range(places)):
        return None
    return _Layout(found.words, places, sequence, _picker(tuple(order)))


def _as_agents_write(found: _Parts, heartbeat: Heartbeat) -> bool:
    """Whether what stands before the pools is, byte for byte, what this heartbeat makes when it is written as agents do, with
    no other number in it, and nothing behind can mean one of these numbers: so with other numbers it means those.
    """
    rest = found.rest
    if b"\\" in rest or b'"listeners"' in rest or b'"seq"' in rest:
        return False
    listeners, numbers = [], [heartbeat.seq]
    for id, one in heartbeat.listeners.items():
        listeners.append(
            f'"{id}": {{"status": "{one.status}", "stats": {{"tx": {one.tx}, "rx": {one.rx}, "conns": {one.conns},'
            f' "totconns": {one.totconns}, "ereq": {one.ereq}}}}}'
        )
        numbers += (one.tx, one.rx, one.conns, one.totconns, one.ereq)
    head = f'{{"id": "{heartbeat.amphora_id}", "seq": {heartbeat.seq}, "listeners": {{{", ".join(listeners)}}}'
    return list(map(int, found.parts[1::2])) == numbers and found.head == head.encode("utf-8", "surrogatepass")


@functools.lru_cache(maxsize=1000)
def _usual_order(listeners: int) -> tuple[int, ...]:
    """The places of the counters, in the order of `Skimmed.counters`, where agents write tx first and rx then."""
    return tuple(1 + FIELDS * each + place for each in range(listeners) for place in (1, 0, 2, 3, 4))


@functools.lru_cache(maxsize=1000)
def _picker(order: tuple[int, ...]) -> Callable[[Sequence[int]], Any]:
    """One for all amphorae with as many listeners."""
    return itemgetter(*order) if order else _nothing


def _nothing(numbers: Sequence[int]) -> tuple[int, ...]:
    return ()
