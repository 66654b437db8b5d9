"""The bytes of a heartbeat: what an amphora says about itself, signed, in one datagram.

    zlib stream (level 9) of a JSON document | HMAC-SHA256 of that stream: 64 lower case hex characters,
                                             | or 32 raw bytes (agents of the first releases)

Rule 1: verify, then inflate, then parse; nothing of an unsigned packet is looked at. Rule 2: whatever the bytes, the
answer is a `Heartbeat` or `BadPacket`. Rule 3: no socket, no clock, no database, and nothing but attrs beside the
standard library, because the local agent imports this file too.

The layout is that of upstream Octavia 19: document versions 2 and 3, and the versionless form before them; and one field
of ours, `PARTIAL`.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, NoReturn

import attrs

from octavia_core.errors import OctaviaError

__all__ = [
    "DECODER",
    "DELTAS_SINCE",
    "FLAT_POOLS_SINCE",
    "LARGEST_COUNTER",
    "LARGEST_DATAGRAM",
    "LARGEST_GAUGE",
    "MAX_INFLATED",
    "PARTIAL",
    "BadPacket",
    "Heartbeat",
    "ListenerReport",
    "PoolReport",
    "Reason",
    "decode",
    "encode",
    "inflate",
    "parsed",
    "pool_id",
    "statuses",
]

MAX_INFLATED = 4 * 1024 * 1024
"""Bytes that one packet may inflate to; a full 64 KiB datagram of real statuses stays below 1 MiB."""

DELTAS_SINCE = 3
"""First document version whose counters are deltas since the message before."""

FLAT_POOLS_SINCE = 2
"""First document version that lists pools at the top level instead of inside each listener."""

LARGEST_DATAGRAM = 65507
"""Bytes of one UDP datagram over IPv4 (65,535 less both headers); over IPv6 it may be 20 more."""

PARTIAL = "partial"
"""Field of a document, behind its pools: true when it names all listeners, but not all pools and members. Agents of ours
send it when not everything fits into a datagram; upstream's send nothing then.
"""

_SURE = MAX_INFLATED // 1032
"""Bytes that cannot inflate to more than `MAX_INFLATED`: deflate makes 258 bytes of two bits at most."""
_USUAL = 4096
"""Bytes that most heartbeats inflate to less than."""
_HEX, _BINARY = 64, 32
_LONGEST_ID = 36
"""As long as the columns that ids end in (a UUID as text): a longer one is nobody's, and a server would refuse its batch."""
_LONGEST_KEY = 2 * _LONGEST_ID + 1
"""Of a pool: its id, a colon, its listener's id."""
_AN_ID = "1 to {} printable ASCII characters"
_LONGEST_WORD = 128
"""Characters of a status: HAProxy's are shorter, those that name a tracked server too; a longer one would be kept in memory and rows."""
_A_WORD = f"text of {_LONGEST_WORD} characters at most"
LARGEST_COUNTER = 2**63
"""Counters stay below it: they end in BIGINT columns."""
LARGEST_GAUGE = 2**31
"""Connections that are open stay below it: listener_statistics.active_connections is an INT."""


class Reason(StrEnum):
    """Why a packet was dropped."""

    TOO_SHORT = "too_short"
    """No room for a signature and something signed."""
    BAD_DIGEST = "bad_digest"
    """Signed with none of the keys, or damaged."""
    NOT_ZLIB = "not_zlib"
    """Signed, but not one whole zlib stream."""
    BOMB = "bomb"
    """Inflates to more than `MAX_INFLATED` bytes."""
    NOT_JSON = "not_json"
    MALFORMED = "malformed"
    """JSON, but not a heartbeat: a field is missing, of the wrong type or out of range."""


class BadPacket(OctaviaError):
    """The packet is dropped; `reason` is one word to count by, the text says more. It holds nothing of an unsigned packet."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"heartbeat dropped ({reason}): {detail}")
        self.reason = reason


@attrs.frozen
class ListenerReport:
    """One listener as its amphora sees it.

    Attributes:
        status: HAProxy's word, `OPEN` or `FULL`.
        rx: bytes from clients; `tx`: bytes to clients; `totconns`: connections; `ereq`: request errors. Deltas or
            totals, see `Heartbeat.deltas`; 0 when the agent did not say.
        conns: connections open now, never a delta.
    """

    status: str
    rx: int = 0
    tx: int = 0
    conns: int = 0
    totconns: int = 0
    ereq: int = 0


@attrs.frozen
class PoolReport:
    """One pool as its amphora sees it: its word, and each member's (`UP`, `DOWN`, `UP 1/3`, `DRAIN`, `no check`, ...)."""

    status: str
    members: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Heartbeat:
    """One verified message of one amphora.

    Attributes:
        seq: counts the messages of one agent process from 0, None in the oldest form. Gaps and resets are normal.
        version: version of the document, 0 when it names none.
        listeners: by listener id, in the order of the message.
        pools: by key as sent, `<pool id>:<listener id>` or a bare pool id, in the order of the message. Pools of the
            versionless form, which hang below their listener, get the first kind of key.
        partial: it names all listeners, but of pools and members only some: of the others it says nothing.
    """

    amphora_id: str
    seq: int | None
    version: int
    listeners: Mapping[str, ListenerReport]
    pools: Mapping[str, PoolReport]
    partial: bool = False

    @property
    def deltas(self) -> bool:
        """True when counters are to be added to what is stored, False when they replace it."""
        return self.version >= DELTAS_SINCE

    def reports_by_pool(self) -> dict[str, PoolReport]:
        """Reports by pool id; where several listeners share a pool, the last one in the message."""
        return {pool_id(key): report for key, report in self.pools.items()}


def pool_id(key: str) -> str:
    """The pool that a key of `Heartbeat.pools` names: what stands before the last colon, or all of it."""
    head, colon, _ = key.rpartition(":")
    return head if colon else key


def encode(document: Mapping[str, Any], key: str | bytes) -> bytes:
    """Sign and pack a document as an agent sends it, with the hexadecimal digest.

    Args:
        document: JSON values; `id`, `seq`, `ver`, `listeners` and `pools` as the module describes. It is not checked.
        key: the shared heartbeat key; text counts as UTF-8.

    Raises:
        ValueError: the key is empty (anybody could sign), or a number is not a JSON number (NaN).
        TypeError: a value is not JSON.
    """
    secret = _bytes(key)
    if not secret:
        raise ValueError("the heartbeat key is empty; set heartbeat_key")
    body = zlib.compress(json.dumps(document, allow_nan=False).encode(), 9)
    return body + hmac.digest(secret, body, "sha256").hex().encode()


def decode(packet: bytes, keys: Sequence[str | bytes]) -> Heartbeat:
    """Verify, unpack, parse.

    Args:
        packet: one datagram.
        keys: every key that is valid now, the most likely first. Text counts as UTF-8; an empty key verifies nothing.

    Raises:
        BadPacket: it is not a heartbeat signed with one of the keys. No other exception, whatever the bytes.
    """
    return parsed(inflate(_verified(packet, keys)))


def parsed(data: bytes) -> Heartbeat:
    """The heartbeat that an inflated body holds. Raises BadPacket, and nothing else."""
    return _heartbeat(_parse(data))


def statuses(data: bytes) -> Heartbeat:
    """What `parsed` made of these bytes before, with all counters at 0: they were checked then, and are not again."""
    document = json.loads(data.decode())
    version = document.get("ver", 0)
    raw = document["listeners"]
    if version >= FLAT_POOLS_SINCE:
        pools = document.get("pools", {})
    else:
        pools = {f"{key}:{id}": pool for id, each in raw.items() for key, pool in each.get("pools", {}).items()}
    return Heartbeat(
        document["id"],
        document.get("seq"),
        version,
        {id: _SILENT_REPORTS.get(word := each["status"]) or ListenerReport(word) for id, each in raw.items()},
        {key: PoolReport(pool["status"], pool.get("members", {})) for key, pool in pools.items()},
        document.get(PARTIAL) is True,
    )


_SILENT_REPORTS = {word: ListenerReport(word) for word in ("OPEN", "FULL")}
"""Of the words that HAProxy has, without counters; made once, since they never change."""


def _bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _verified(packet: bytes, keys: Sequence[str | bytes]) -> bytes:
    if len(packet) <= _BINARY:
        raise BadPacket(Reason.TOO_SHORT, f"{len(packet)} bytes")
    secrets = [secret for key in keys if (secret := _bytes(key))]
    body, digest = packet[:-_HEX], packet[-_HEX:]
    for secret in secrets:
        if hmac.compare_digest(hmac.digest(secret, body, "sha256").hex().encode(), digest):
            return body
    body, digest = packet[:-_BINARY], packet[-_BINARY:]
    for secret in secrets:
        if hmac.compare_digest(hmac.digest(secret, body, "sha256"), digest):
            return body
    raise BadPacket(Reason.BAD_DIGEST, f"{len(packet)} bytes, signed with none of the {len(secrets)} heartbeat keys")


def inflate(body: bytes) -> bytes:
    """A verified body, inflated within `MAX_INFLATED` bytes. Raises BadPacket, and nothing else."""
    if len(body) <= _SURE:
        with contextlib.suppress(zlib.error):
            data = zlib.decompress(body, bufsize=_USUAL)
            if zlib.adler32(data) == int.from_bytes(body[-4:]):  # the stream's last word; nothing follows it
                return data
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(body, MAX_INFLATED + 1)
    except zlib.error as error:
        raise BadPacket(Reason.NOT_ZLIB, str(error)) from None
    if len(data) > MAX_INFLATED:
        raise BadPacket(Reason.BOMB, f"{len(body)} bytes inflate to more than {MAX_INFLATED}")
    if not stream.eof:
        raise BadPacket(Reason.NOT_ZLIB, "the stream ends too early")
    if stream.unused_data:
        raise BadPacket(Reason.NOT_ZLIB, "something follows the stream")
    return data


def _parse(data: bytes) -> Any:
    try:
        return DECODER.decode(data.decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadPacket(Reason.NOT_JSON, str(error)[:200]) from None
    except RecursionError:
        raise BadPacket(Reason.NOT_JSON, "nested too deep") from None
    except ValueError as error:  # a number that JSON or Python does not have: NaN, ten thousand digits
        raise BadPacket(Reason.MALFORMED, str(error)[:200]) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""JSON without the numbers that it does not have."""


def _heartbeat(document: Any) -> Heartbeat:
    if type(document) is not dict:
        raise _malformed("document", "an object")
    version = _number(document, "ver")
    raw = _object(document, "listeners")
    if raw is None:
        raise _malformed("listeners", "an object")
    listeners: dict[str, ListenerReport] = {}
    pools: dict[str, PoolReport] = {}
    for listener_id, listener in raw.items():
        _check_id("listener id", listener_id)
        if type(listener) is not dict:
            raise _malformed("listener", "an object")
        listeners[listener_id] = _listener(listener)
        if version < FLAT_POOLS_SINCE:
            for nested, pool in (_object(listener, "pools") or {}).items():
                _check_id("pool key", nested, _LONGEST_KEY)
                pools[f"{nested}:{listener_id}"] = _pool(pool)
    if version >= FLAT_POOLS_SINCE:
        for key, pool in (_object(document, "pools") or {}).items():
            _check_id("pool key", key, _LONGEST_KEY)
            pools[key] = _pool(pool)
    return Heartbeat(
        _check_id("id", document.get("id")),
        _number(document, "seq") if "seq" in document else None,
        version,
        listeners,
        pools,
        document.get(PARTIAL) is True,
    )


def _listener(document: dict[str, Any]) -> ListenerReport:
    stats = _object(document, "stats") or {}
    return ListenerReport(
        _word(document),
        _number(stats, "rx"),
        _number(stats, "tx"),
        _number(stats, "conns", LARGEST_GAUGE),
        _number(stats, "totconns"),
        _number(stats, "ereq"),
    )


def _pool(document: Any) -> PoolReport:
    if type(document) is not dict:
        raise _malformed("pool", "an object")
    members = _object(document, "members") or {}
    _check_ids("member id", members)
    if members and (set(map(type, members.values())) != {str} or max(map(len, members.values())) > _LONGEST_WORD):
        raise _malformed("member status", _A_WORD)
    return PoolReport(_word(document), members)


def _malformed(field: str, wanted: str) -> BadPacket:
    return BadPacket(Reason.MALFORMED, f"{field} is not {wanted}")


def _object(document: dict[str, Any], field: str) -> dict[str, Any] | None:
    if field not in document:
        return None
    value = document[field]
    if type(value) is not dict:
        raise _malformed(field, "an object")
    return value


def _number(document: dict[str, Any], field: str, limit: int = LARGEST_COUNTER) -> int:
    value = document.get(field, 0)
    if type(value) is not int or not 0 <= value < limit:  # type(), because True is an int
        raise _malformed(field, f"a whole number below {limit}")
    return value


def _word(document: dict[str, Any]) -> str:
    value = document.get("status")
    if type(value) is not str or len(value) > _LONGEST_WORD:
        raise _malformed("status", _A_WORD)
    return value


def _check_ids(field: str, values: Collection[str]) -> None:
    """All of them at once, which is most of the work of a heartbeat; keys of JSON objects are always text."""
    if not values:
        return
    joined = "".join(values)
    if not (joined.isascii() and joined.isprintable() and min(map(len, values)) > 0):
        raise _malformed(field, _AN_ID.format(_LONGEST_ID))
    if max(map(len, values)) > _LONGEST_ID:
        raise _malformed(field, _AN_ID.format(_LONGEST_ID))


def _check_id(field: str, value: Any, longest: int = _LONGEST_ID) -> str:
    if type(value) is not str or not 0 < len(value) <= longest or not value.isascii() or not value.isprintable():
        raise _malformed(field, _AN_ID.format(longest))
    return value
