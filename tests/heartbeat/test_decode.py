"""What a packet must be to be believed."""

from __future__ import annotations

import hashlib
import hmac
import json
import zlib
from typing import Any

import pytest

from octavia_core.domain.heartbeat import BadPacket, ListenerReport, PoolReport, Reason, decode, encode, pool_id
from tests.heartbeat.vectors import A_BINARY, A_HEX, B_HEX, C_HEX, DOCUMENT_A, DOCUMENT_B, DOCUMENT_C, KEY, KEY_C

AMPHORA = "5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11"
LISTENER = "0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01"
POOL = "7b1d4c7e-3a5c-4f57-8d9a-9b8c7a6d5e02"


def signed(body: bytes, key: str = KEY) -> bytes:
    return body + hmac.new(key.encode(), body, hashlib.sha256).hexdigest().encode()


def sealed(text: str | bytes) -> bytes:
    return signed(zlib.compress(text.encode() if isinstance(text, str) else text, 9))


def reason_of(packet: bytes, *keys: str | bytes) -> Reason:
    with pytest.raises(BadPacket) as caught:
        decode(packet, keys or (KEY,))
    return caught.value.reason


@pytest.mark.parametrize("packet", [A_HEX, A_BINARY], ids=["hexadecimal digest", "binary digest"])
def test_a_heartbeat_of_an_upstream_agent_is_understood(packet: bytes) -> None:
    beat = decode(packet, [KEY])

    assert (beat.amphora_id, beat.seq, beat.version, beat.deltas) == (AMPHORA, 67, 3, True)
    assert beat.listeners == {LISTENER: ListenerReport("OPEN", rx=10240, tx=20480, conns=3, totconns=41, ereq=2)}
    members = {"c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e703": "UP", "c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e704": "DOWN"}
    assert beat.pools == {f"{POOL}:{LISTENER}": PoolReport("UP", members)}
    assert beat.reports_by_pool() == {POOL: PoolReport("UP", members)}


def test_a_udp_pool_is_named_without_its_listener() -> None:
    beat = decode(B_HEX, [KEY])

    assert next(iter(beat.listeners.values())) == ListenerReport("FULL", rx=7, tx=0, conns=50, totconns=1, ereq=0)
    assert set(beat.reports_by_pool()) == {
        "ad9c8b7e-6f50-4b4c-9d3e-2f10ab9c8d04",
        "9c8b7a6d-5e4f-4a3b-8c2d-1e0f9a8b7c03",
    }


def test_an_idle_amphora_and_a_key_that_is_not_ascii() -> None:
    beat = decode(C_HEX, [KEY_C])

    assert (beat.seq, dict(beat.listeners), dict(beat.pools)) == (0, {}, {})
    assert decode(C_HEX, [KEY_C.encode()]) == beat


@pytest.mark.parametrize(
    ("text", "packet", "key"), [(DOCUMENT_A, A_HEX, KEY), (DOCUMENT_B, B_HEX, KEY), (DOCUMENT_C, C_HEX, KEY_C)]
)
def test_what_we_send_is_what_upstream_sends(text: str, packet: bytes, key: str) -> None:
    ours = encode(json.loads(text), key)

    assert decode(ours, [key]) == decode(packet, [key])
    assert zlib.decompress(ours[:-64]) == text.encode()  # the compressed bytes may differ between zlib builds


def test_several_keys_are_valid_at_once() -> None:
    for packet in (A_HEX, A_BINARY):
        assert decode(packet, ["the next key", KEY]).amphora_id == AMPHORA


def test_a_packet_of_another_key_is_refused() -> None:
    assert reason_of(A_HEX, "x") is Reason.BAD_DIGEST
    assert reason_of(A_BINARY, "x", "y") is Reason.BAD_DIGEST
    assert reason_of(A_HEX[:-64] + A_HEX[-64:].upper()) is Reason.BAD_DIGEST


def test_an_empty_key_verifies_nothing_and_signs_nothing() -> None:
    body = A_HEX[:-64]
    forged = body + hmac.new(b"", body, hashlib.sha256).hexdigest().encode()

    assert reason_of(forged, "", KEY) is Reason.BAD_DIGEST
    with pytest.raises(ValueError, match="heartbeat_key"):
        encode({}, "")


def test_no_flipped_byte_goes_unnoticed() -> None:
    for packet in (A_HEX, A_BINARY):
        for place in range(len(packet)):
            flipped = packet[:place] + bytes([packet[place] ^ 1]) + packet[place + 1 :]
            assert reason_of(flipped) is Reason.BAD_DIGEST


def test_no_cut_goes_unnoticed() -> None:
    for length in range(len(A_HEX)):
        expected = Reason.TOO_SHORT if length <= 32 else Reason.BAD_DIGEST
        assert reason_of(A_HEX[:length]) is expected


@pytest.mark.parametrize("body", [b"", b"not zlib at all", zlib.compress(b"{}")[:-1], zlib.compress(b"{}") + b"more"])
def test_a_good_signature_over_something_else_is_refused(body: bytes) -> None:
    assert reason_of(signed(body)) is Reason.NOT_ZLIB


@pytest.mark.parametrize("size", [4 * 1024 * 1024 + 1, 60_000_000])
def test_a_bomb_is_refused_before_it_fills_the_memory(size: int) -> None:
    assert reason_of(sealed(b"[" + b" " * size)) is Reason.BOMB


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", b"\xff\xfe", '{"id": "a"} {}', "[" * 300_000], ids=lambda t: repr(t[:9])
)
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    assert reason_of(sealed(text)) is Reason.NOT_JSON


def pool(**changes: Any) -> dict[str, Any]:
    return {"status": "UP", "members": {"m": "UP"}} | changes


def listener(**changes: Any) -> dict[str, Any]:
    return {"status": "OPEN", "stats": {"tx": 1, "rx": 2, "conns": 3, "totconns": 4, "ereq": 5}} | changes


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"id": "a", "seq": 1, "ver": 3, "listeners": {"l": listener()}, "pools": {"p:l": pool()}}
    return base | changes


HUGE = 2**63
NO_IDS: list[Any] = [None, 1, "", "x" * 37, ["a"], "\udc80", "a\n", "\x00", "\u00e9", True]
NO_NUMBERS: list[Any] = [None, "1", -1, True, 1.0, HUGE, [], 1e400, float("nan"), float("inf")]
NO_WORDS: list[Any] = [None, 1, True, [], {}, "\u00e9" * 129]
NO_OBJECTS: list[Any] = [None, [], "l", 1]
MALFORMED: list[Any] = [
    [],
    [document()],
    "text",
    7,
    None,
    {},
    {"id": "a"},
    {"listeners": {}},
    *[document(id=bad) for bad in NO_IDS],
    *[document(seq=bad) for bad in NO_NUMBERS],
    *[document(ver=bad) for bad in [*NO_NUMBERS, 10**5000]],
    *[document(listeners=bad) for bad in [*NO_OBJECTS, {"": listener()}, {"l" * 37: listener()}]],
    *[document(listeners={"l": bad}) for bad in NO_OBJECTS],
    *[document(listeners={"l": listener(status=bad)}) for bad in NO_WORDS],
    *[document(listeners={"l": listener(stats=bad)}) for bad in NO_OBJECTS],
    *[
        document(listeners={"l": listener(stats={name: bad})})
        for name in ("tx", "rx", "conns", "totconns", "ereq")
        for bad in NO_NUMBERS
    ],
    *[document(pools=bad) for bad in [*NO_OBJECTS, {"": pool()}, {"p" * 74: pool()}]],
    *[document(pools={"p:l": bad}) for bad in NO_OBJECTS],
    *[document(pools={"p": pool(status=bad)}) for bad in NO_WORDS],
    *[document(pools={"p": pool(members=bad)}) for bad in [*NO_OBJECTS, {"": "UP"}, {"m" * 37: "UP"}]],
    *[document(pools={"p": pool(members={"m": bad})}) for bad in NO_WORDS],
    {"id": "a", "listeners": {"l": listener(pools=[])}},
    {"id": "a", "listeners": {"l": listener(pools={"p": 1})}},
]


def test_ids_may_be_as_long_as_the_columns_they_end_in() -> None:
    longest = "x" * 36
    said = decode(
        sealed(
            json.dumps(document(id=longest, listeners={longest: listener()}, pools={f"{longest}:{longest}": pool()}))
        ),
        [KEY],
    )
    assert (said.amphora_id, list(said.listeners)) == (longest, [longest])


@pytest.mark.parametrize("index", range(len(MALFORMED)))
def test_a_document_that_is_no_heartbeat_is_refused(index: int) -> None:
    try:
        text = json.dumps(MALFORMED[index])
    except ValueError:  # json writes no numbers of more than 4300 digits; another sender may
        text = json.dumps(document(ver=-7)).replace("-7", "7" * 5000)
    assert reason_of(sealed(text)) is Reason.MALFORMED, text[:200]


def test_the_document_these_are_made_from_is_a_heartbeat() -> None:
    assert decode(sealed(json.dumps(document())), [KEY]).seq == 1


def test_what_an_agent_does_not_say_counts_as_nothing() -> None:
    beat = decode(encode({"id": "a", "ver": 2, "listeners": {"l": {"status": "OPEN"}}}, KEY), [KEY])

    assert beat.seq is None
    assert beat.listeners == {"l": ListenerReport("OPEN")}
    assert beat.pools == {}
    assert not beat.deltas


def test_fields_of_later_versions_are_ignored() -> None:
    beat = decode(encode(document(ver=9, weather="fine", load=[0.5]), KEY), [KEY])

    assert beat.version == 9
    assert beat.deltas


@pytest.mark.parametrize("version", [{}, {"ver": 1}])
def test_the_oldest_form_hangs_pools_below_listeners(version: dict[str, int]) -> None:
    text = {
        "id": "a",
        "listeners": {
            "l1": listener(pools={"p": pool(status="UP")}),
            "l2": listener(pools={"p": pool(status="DOWN"), "q": pool()}),
        },
        "pools": "not looked at",
    }
    beat = decode(encode(text | version, KEY), [KEY])

    assert list(beat.pools) == ["p:l1", "p:l2", "q:l2"]
    assert beat.reports_by_pool()["p"].status == "DOWN"
    assert (beat.seq, beat.deltas) == (None, False)


def test_the_pool_is_what_stands_before_the_last_colon() -> None:
    assert [pool_id(key) for key in ("p:l", "p", "a:b:l", ":l")] == ["p", "p", "a:b", ""]


def test_a_dropped_packet_says_why_but_not_what_it_held() -> None:
    with pytest.raises(BadPacket, match="bad_digest") as caught:
        decode(A_HEX, ["top secret"])
    assert "top secret" not in str(caught.value)
