"""Heartbeats at a glance: most say what the one before said, with other numbers.

Upstream's agents (and ours) write `"pools"` behind everything that changes from one heartbeat to the next. So what stands
before it is parsed, and what stands behind it is compared as a digest with the last report of that amphora; only a report
with other words is decoded whole. Verification and inflating are never left out. Rule: a report is taken at a glance only
when decoding it whole could not have said otherwise, so what is not laid out like that is just slower.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from octavia_core.domain.heartbeat import (
    DECODER,
    LARGEST_COUNTER,
    LARGEST_GAUGE,
    BadPacket,
    Heartbeat,
    Reason,
    inflate,
    parsed,
)

__all__ = ["FIELDS", "Skimmed", "Skimmer", "skimmed"]

FIELDS = 5
"""Numbers of one listener in `Skimmed.counters`: rx, tx, conns, totconns, ereq."""

_POOLS = b', "pools": {'
_HEX, _BINARY = 64, 32
_SCAN: Callable[[str, int], tuple[Any, int]] = DECODER.raw_decode
_FORGET_AFTER = 20
"""Heartbeats per remembered amphora after which those that were not heard since are forgotten."""


class Skimmed(NamedTuple):
    """One verified heartbeat.

    Attributes:
        seq: see `Heartbeat`.
        words: digest of everything that decides statuses: equal words, equal statuses.
        counters: `FIELDS` numbers of each listener, in the order of the message.
        source: what it was read from: the verified body of the datagram, or the heartbeat itself.
        listeners: their ids in the order of the message; None when the words are those of the report before.
        deltas: see `Heartbeat`.
    """

    amphora_id: str
    seq: int | None
    words: bytes
    counters: tuple[int, ...]
    source: bytes | Heartbeat
    listeners: tuple[str, ...] | None
    deltas: bool

    def heartbeat(self) -> Heartbeat:
        """All of it."""
        return self.source if isinstance(self.source, Heartbeat) else parsed(inflate(self.source))

    def complete(self) -> Skimmed:
        """The same with its listeners."""
        return self if self.listeners is not None else skimmed(self.heartbeat())._replace(
            words=self.words, source=self.source
        )  # fmt: skip


def skimmed(heartbeat: Heartbeat) -> Skimmed:
    """What a glance at a heartbeat would have seen."""
    words = repr(
        (
            [(id, report.status) for id, report in heartbeat.listeners.items()],
            [(id, pool.status, list(pool.members.items())) for id, pool in heartbeat.pools.items()],
            heartbeat.version,
        )
    )
    counters: list[int] = []
    for report in heartbeat.listeners.values():
        counters += (report.rx, report.tx, report.conns, report.totconns, report.ereq)
    return Skimmed(
        heartbeat.amphora_id,
        heartbeat.seq,
        hashlib.sha1(words.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest(),
        tuple(counters),
        heartbeat,
        tuple(heartbeat.listeners),
        heartbeat.deltas,
    )


class Skimmer:
    """Verifies and reads datagrams; remembers of each amphora the digest of its words. For one thread.

    Args:
        keys: every key that is valid now, the most likely first. Text counts as UTF-8; an empty key verifies nothing.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        secrets = [key.encode() if isinstance(key, str) else key for key in keys]
        self._signatures = [hmac.new(secret, digestmod="sha256") for secret in secrets if secret]
        self._words: dict[str, bytes] = {}
        self._older: dict[str, bytes] = {}
        self._read = 0

    def skim(self, packet: bytes) -> Skimmed:
        """One datagram.

        Raises:
            BadPacket: it is not a heartbeat signed with one of the keys. No other exception, whatever the bytes.
        """
        body = self._verified(packet)
        data = inflate(body)
        return self._glance(body, data) or self._whole(body, data)

    def _verified(self, packet: bytes) -> bytes:
        if len(packet) > _HEX:
            body, digest = packet[:-_HEX], packet[-_HEX:]
            for signature in self._signatures:
                mine = signature.copy()
                mine.update(body)
                if hmac.compare_digest(mine.hexdigest().encode(), digest):
                    return body
        if len(packet) <= _BINARY:
            raise BadPacket(Reason.TOO_SHORT, f"{len(packet)} bytes")
        body, digest = packet[:-_BINARY], packet[-_BINARY:]
        for signature in self._signatures:
            mine = signature.copy()
            mine.update(body)
            if hmac.compare_digest(mine.digest(), digest):
                return body
        raise BadPacket(
            Reason.BAD_DIGEST, f"{len(packet)} bytes, signed with none of the {len(self._signatures)} heartbeat keys"
        )

    def _glance(self, body: bytes, data: bytes) -> Skimmed | None:
        """None where it says something new, or is not laid out as expected."""
        found = _head(data)
        if found is None:
            return None
        amphora_id, seq, counters, words = found
        known = self._words.get(amphora_id)
        if known is None:
            known = self._older.get(amphora_id)
            if known is None:
                return None
            self._words[amphora_id] = known
        if words != known:
            return None
        return Skimmed(amphora_id, seq, known, counters, body, None, True)

    def _whole(self, body: bytes, data: bytes) -> Skimmed:
        said = skimmed(parsed(data))._replace(source=body)
        found = _head(data)
        if not said.deltas:
            return said  # so a glance never has to say whether its counters are totals
        if found is not None and found[:3] == (said.amphora_id, said.seq, said.counters) and _ends_plainly(data):
            said = said._replace(words=found[3])
            self._remember(said.amphora_id, found[3])
        return said

    def _remember(self, amphora_id: str, words: bytes) -> None:
        self._words[amphora_id] = words
        self._read += 1
        if self._read > _FORGET_AFTER * max(len(self._words), 1000):
            self._words, self._older, self._read = {}, self._words, 0


def _head(data: bytes) -> tuple[str, int, tuple[int, ...], bytes] | None:
    """Amphora, sequence, numbers and words, where everything but pools and version stands before the pools.

    If what stands before the cut is a whole JSON object once it is closed, the cut was not within a text nor within an
    inner object. Everything behind it is part of the digest, and so are the ids and words before it.
    """
    cut = data.find(_POOLS)
    if cut < 0:
        return None
    try:
        text = data[:cut].decode() + "}"
        head, end = _SCAN(text, 0)
    except (ValueError, RecursionError):
        return None
    if end != len(text) or type(head) is not dict:
        return None
    amphora_id, listeners, seq = head.get("id"), head.get("listeners"), head.get("seq")
    if type(amphora_id) is not str or type(listeners) is not dict or "ver" in head:
        return None
    if type(seq) is not int or not 0 <= seq < LARGEST_COUNTER:
        return None
    counters: list[int] = []
    words = []
    for id, report in listeners.items():
        if type(report) is not dict:
            return None
        status, stats = report.get("status"), report.get("stats")
        if type(status) is not str or type(stats) is not dict:
            return None
        numbers: tuple[Any, ...] = (
            stats.get("rx"),
            stats.get("tx"),
            stats.get("conns"),
            stats.get("totconns"),
            stats.get("ereq"),
        )
        for number in numbers:
            if type(number) is not int or not 0 <= number < LARGEST_COUNTER:
                return None
        if numbers[2] >= LARGEST_GAUGE or "pools" in report:
            return None
        counters += numbers
        words.append(f"{id}\0{status}\0")
    before = "".join(words)
    if before.count("\0") != 2 * len(words):
        return None
    digest = hashlib.sha1(before.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    digest.update(data[cut:])
    return amphora_id, seq, tuple(counters), digest.digest()


def _ends_plainly(data: bytes) -> bool:
    """Whether nothing but pools and version stands behind the cut: JSON's last word on a name counts."""
    tail = DECODER.decode("{" + data[data.find(_POOLS) + 2 :].decode())
    return not tail.keys() - {"pools", "ver"}
