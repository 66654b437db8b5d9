"""What a front process says to its health manager, as plain bytes.

    frame    length of the rest u32 | oldest f64 | lengths: reasons u32, handles u32, groups u32 | reasons (JSON)
             | handles, u32 each | groups | reports
    group    numbers of each u32, how many u32 | that many times: `Again` as fixed bytes, numbers i64 each
    report   length u32 | read at f64 | seq i64 (-1: none) | handle i32 | deltas u8 | key u8 | mark (8 bytes)
             | calm (16 bytes, zeros for none) | lengths: id u16, counters u32, listeners u32, body u32
             | id | words (20 bytes) | counters, i64 each | listeners (JSON) | body

A report says all of one heartbeat. An `Again` is a heartbeat with the words of the last report that had its handle. Groups
come before reports: they mean the words that were reported before this frame. `handles` are those that mean nobody any more.
`oldest` is when the first datagram reached this machine, seconds since the epoch; `read at` is
monotonic, and earlier where it waited in the socket; reasons count the
datagrams that were refused. Big-endian.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from octavia_core.domain.calm import SIZE
from octavia_core.domain.heartbeat import LARGEST_COUNTER
from octavia_core.domain.skim import MARK, Skimmed

__all__ = ["LENGTH", "Again", "Frame", "frame", "frame_of"]

LENGTH = struct.Struct("!I")
"""Before each frame: the bytes that follow."""
_HEAD = struct.Struct("!dIII")
_GROUP = struct.Struct("!II")
_REPORT = struct.Struct(f"!dqi?B{MARK}s{SIZE}sHIII")
_NO_CALM = bytes(SIZE)
_WORDS = 20
_MANY = 255
"""Keys are numbered up to here; those behind it count as this one."""


class Again(NamedTuple):
    """A heartbeat that says nothing new; `counters` as in `Skimmed`. In a frame, a flat tuple: its numbers follow the mark."""

    handle: int
    at: float
    seq: int
    key: int
    mark: bytes
    counters: Sequence[int]


@attrs.frozen
class Frame:
    """One frame.

    Attributes:
        oldest: when the first datagram of it reached this machine, seconds since the epoch.
        refused: how many datagrams were, by reason.
        forgotten: handles that mean nobody any more, once the rest is taken in.
        again: (handle, read at, seq, key, mark, *counters) of heartbeats that say nothing new.
        reports: (read at, all of it) of the others.
    """

    oldest: float
    refused: Mapping[str, int]
    forgotten: Sequence[int]
    again: Iterable[tuple[Any, ...]]
    reports: Iterable[tuple[float, Skimmed]]


@functools.cache
def _again(numbers: int) -> struct.Struct:
    return struct.Struct(f"!IdqB{MARK}s{numbers}q")


def frame(
    oldest: float,
    refused: Mapping[str, int],
    again: Iterable[Again],
    reports: Iterable[tuple[float, Skimmed]] = (),
    forgotten: Sequence[int] = (),
) -> bytes:
    """One frame with its length."""
    reasons = json.dumps(refused).encode() if refused else b""
    groups: dict[int, list[bytes]] = {}
    for handle, at, seq, key, mark, counters in again:
        size = len(counters)
        pack = _again(size).pack
        try:
            packed = pack(handle, at, seq, min(key, _MANY), mark, *counters)
        except struct.error:  # sums of a liar
            packed = pack(handle, at, seq, min(key, _MANY), mark, *map(_within, counters))
        try:
            groups[size].append(packed)
        except KeyError:
            groups[size] = [packed]
    steady = b"".join(part for size, records in groups.items() for part in (_GROUP.pack(size, len(records)), *records))
    parts = [
        b"",
        _HEAD.pack(oldest, len(reasons), len(forgotten), len(steady)),
        reasons,
        struct.pack(f"!{len(forgotten)}I", *forgotten),
        steady,
    ]
    for read_at, said in reports:
        parts += _report(read_at, said)
    parts[0] = LENGTH.pack(sum(map(len, parts)))
    return b"".join(parts)


def _within(number: int) -> int:
    return min(number, LARGEST_COUNTER - 1)


def _report(read_at: float, said: Skimmed) -> Sequence[bytes]:
    id, body, size = said.amphora_id.encode(), said.source, len(said.counters)
    assert isinstance(body, bytes)  # it was read from a datagram
    listeners = json.dumps(said.listeners).encode()
    seq = -1 if said.seq is None else said.seq
    lengths = len(id), size, len(listeners), len(body)
    return (
        _REPORT.pack(read_at, seq, said.handle, said.deltas, min(said.key, _MANY), said.mark, said.calm, *lengths),
        id,
        said.words,
        struct.pack(f"!{size}q", *map(_within, said.counters)),
        listeners,
        body,
    )


def frame_of(data: bytes) -> Frame:
    """The reverse, of what follows the length."""
    oldest, reasons, handles, groups = _HEAD.unpack_from(data)
    start = _HEAD.size + reasons
    refused: Mapping[str, int] = json.loads(data[_HEAD.size : start]) if reasons else {}
    forgotten = struct.unpack_from(f"!{handles}I", data, start) if handles else ()
    start += 4 * handles
    return Frame(oldest, refused, forgotten, _groups(data, start, start + groups), _reports(data, start + groups))


def _groups(data: bytes, at: int, end: int) -> Iterator[tuple[Any, ...]]:
    while at < end:
        numbers, many = _GROUP.unpack_from(data, at)
        record = _again(numbers)
        at += _GROUP.size
        yield from record.iter_unpack(data[at : at + many * record.size])
        at += many * record.size


def _reports(data: bytes, at: int) -> Iterator[tuple[float, Skimmed]]:
    end, unpack, head = len(data), _REPORT.unpack_from, _REPORT.size
    while at < end:
        read_at, seq, handle, deltas, key, mark, calm, id_size, count, listeners_size, body_size = unpack(data, at)
        words = at + head + id_size
        numbers = words + _WORDS
        listeners = numbers + 8 * count
        body = listeners + listeners_size
        yield (
            read_at,
            Skimmed(
                data[at + head : words].decode(),
                None if seq < 0 else seq,
                data[words:numbers],
                struct.unpack_from(f"!{count}q", data, numbers),
                data[body : body + body_size],
                tuple(json.loads(data[listeners:body])),
                deltas,
                mark,
                key,
                handle,
                b"" if calm == _NO_CALM else calm,
            ),
        )
        at = body + body_size
