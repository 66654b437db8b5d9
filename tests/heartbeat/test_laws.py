"""Laws of the heartbeat, for any document and any bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.heartbeat import BadPacket, Heartbeat, ListenerReport, PoolReport, Reason, decode, encode
from tests.heartbeat.vectors import A_BINARY, A_HEX, KEY

ids = st.uuids(version=4).map(str)
words = st.sampled_from(["OPEN", "FULL", "UP", "UP 1/3", "DOWN", "DRAIN", "MAINT", "no check", "RESTARTING"]) | st.text(
    max_size=128  # a longer one is malformed
)
counts = st.integers(0, 2**63 - 1)
gauges = st.integers(0, 2**31 - 1)
listeners = st.dictionaries(ids, st.builds(ListenerReport, words, counts, counts, gauges, counts, counts), max_size=4)
members = st.dictionaries(ids, words, max_size=4)
keys = st.tuples(ids, ids).map(":".join) | ids
pools = st.dictionaries(keys, st.builds(PoolReport, words, members), max_size=4)
beats = st.builds(Heartbeat, ids, counts | st.none(), st.integers(2, 9), listeners, pools)
secrets = st.binary(min_size=1, max_size=80) | st.text(st.characters(codec="utf-8"), min_size=1)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def fate(packet: bytes) -> Reason | None:
    try:
        decode(packet, [KEY])
    except BadPacket as error:
        return error.reason
    return None


def written(beat: Heartbeat) -> dict[str, Any]:
    stats = ("rx", "tx", "conns", "totconns", "ereq")
    return {
        "id": beat.amphora_id,
        **({} if beat.seq is None else {"seq": beat.seq}),
        "listeners": {
            id: {"status": report.status, "stats": {name: getattr(report, name) for name in stats}}
            for id, report in beat.listeners.items()
        },
        "pools": {
            key: {"status": report.status, "members": dict(report.members)} for key, report in beat.pools.items()
        },
        "ver": beat.version,
    }


@given(beats, secrets, secrets)
def test_what_is_encoded_is_decoded(beat: Heartbeat, key: str | bytes, other: str | bytes) -> None:
    assert decode(encode(written(beat), key), [other, key]) == beat


@given(st.binary(max_size=400), st.lists(secrets, max_size=3))
def test_no_bytes_raise_anything_but_bad_packet(packet: bytes, some: list[str | bytes]) -> None:
    try:
        decode(packet, some)
    except BadPacket:
        return
    raise AssertionError("nobody signed this")


@given(st.sampled_from([A_HEX, A_BINARY]), st.data())
def test_no_mutation_of_a_packet_is_believed(packet: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(packet)))
    end = data.draw(st.integers(start, min(len(packet), start + 8)))
    mutant = packet[:start] + data.draw(st.binary(max_size=8)) + packet[end:]
    try:
        decode(mutant, [KEY])
    except BadPacket:
        assert mutant != packet
    else:
        assert mutant == packet


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(["id", "seq", "ver", "listeners", "pools"], anything)) | anything
)
def test_no_signed_document_raises_anything_but_bad_packet(document: Any) -> None:
    assert fate(encode(document, KEY)) in (None, Reason.MALFORMED)


@given(beats, st.data())
def test_no_spoilt_field_raises_anything_but_bad_packet(beat: Heartbeat, data: st.DataObject) -> None:
    document: Any = written(beat)
    place = document
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            place[key] = data.draw(anything)
            break
        place = place[key]
    assert fate(encode(document, KEY)) in (None, Reason.MALFORMED)
