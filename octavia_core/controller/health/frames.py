"""What a front process says to its health manager, as plain bytes.

    frame   length of the rest u32 | oldest f64 | length u32, reasons (JSON) | reports
    report  length u32 | read at f64 | seq i64 (-1: none) | deltas u8 | lengths: id u16, counters u32, listeners u32, body u32
            | id | words (20 bytes) | counters, i64 each | listeners (JSON; nothing: those of the report before) | body

`oldest` is when the first datagram reached this machine, seconds since the epoch; `read at` is monotonic; reasons count
the datagrams that were refused. Big-endian.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping

from octavia_core.domain.heartbeat import LARGEST_COUNTER
from octavia_core.domain.skim import Skimmed

__all__ = ["LENGTH", "frame", "frame_of"]

LENGTH = struct.Struct("!I")
"""Before each frame: the bytes that follow."""
_HEAD = struct.Struct("!dI")
_REPORT = struct.Struct("!dq?HIII")
_WORDS = 20


def frame(oldest: float, refused: Mapping[str, int], reports: Iterable[tuple[float, Skimmed]]) -> bytes:
    """One frame with its length."""
    reasons = json.dumps(refused).encode() if refused else b""
    parts = [b"", _HEAD.pack(oldest, len(reasons)), reasons]
    for read_at, said in reports:
        id, body, counters = said.amphora_id.encode(), said.source, said.counters
        assert isinstance(body, bytes)  # it was read from a datagram
        listeners = b"" if said.listeners is None else json.dumps(said.listeners).encode()
        seq = -1 if said.seq is None else said.seq
        size = len(counters)
        try:
            numbers = struct.pack(f"!{size}q", *counters)
        except struct.error:  # sums of a liar
            numbers = struct.pack(f"!{size}q", *(min(number, LARGEST_COUNTER - 1) for number in counters))
        parts += (
            _REPORT.pack(read_at, seq, said.deltas, len(id), size, len(listeners), len(body)),
            id,
            said.words,
            numbers,
            listeners,
            body,
        )
    parts[0] = LENGTH.pack(sum(map(len, parts)))
    return b"".join(parts)


def frame_of(data: bytes) -> tuple[float, Mapping[str, int], Iterator[tuple[float, Skimmed]]]:
    """The reverse, of what follows the length."""
    oldest, size = _HEAD.unpack_from(data)
    start = _HEAD.size + size
    reasons: Mapping[str, int] = json.loads(data[_HEAD.size : start]) if size else {}
    return oldest, reasons, _reports(data, start)


def _reports(data: bytes, at: int) -> Iterator[tuple[float, Skimmed]]:
    end, unpack, head = len(data), _REPORT.unpack_from, _REPORT.size
    while at < end:
        read_at, seq, deltas, id_size, count, listeners_size, body_size = unpack(data, at)
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
                tuple(json.loads(data[listeners:body])) if listeners_size else None,
                deltas,
            ),
        )
        at = body + body_size
