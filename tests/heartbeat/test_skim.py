"""A heartbeat at a glance says what all of it says, or is read whole."""

from __future__ import annotations

import hmac
import json
import zlib
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain import skim
from octavia_core.domain.heartbeat import BadPacket, Heartbeat, ListenerReport, Reason, decode, encode
from octavia_core.domain.skim import Skimmer, skimmed
from tests.heartbeat.test_decode import MALFORMED, listener, pool
from tests.heartbeat.vectors import A_BINARY, A_HEX, B_HEX, C_HEX, KEY, KEY_C


def document(**changes: Any) -> dict[str, Any]:
    """In the order in which agents write."""
    base: dict[str, Any] = {"id": "a", "seq": 1, "listeners": {"l": listener()}, "pools": {"p:l": pool()}, "ver": 3}
    return base | changes


def packet(value: Any) -> bytes:
    return sealed(json.dumps(value))


def sealed(text: str) -> bytes:
    body = zlib.compress(text.encode("utf-8", "surrogatepass"), 9)
    return body + hmac.digest(KEY.encode(), body, "sha256").hex().encode()


def agree(skimmer: Skimmer, datagram: bytes) -> bool:
    """Whether it was taken at a glance; what it says is what decoding says, or both refuse it for one reason."""
    try:
        whole = decode(datagram, [KEY])
    except BadPacket as refused:
        with pytest.raises(BadPacket) as caught:
            skimmer.skim(datagram)
        assert caught.value.reason is refused.reason
        return False
    said = skimmer.skim(datagram)
    wanted = skimmed(whole)
    assert said.heartbeat() == whole
    assert (said.amphora_id, said.seq, said.counters, said.deltas) == (
        wanted.amphora_id,
        wanted.seq,
        wanted.counters,
        wanted.deltas,
    )
    assert said.complete().listeners == wanted.listeners
    return said.listeners is None


def test_the_second_of_two_that_say_the_same_is_taken_at_a_glance_whatever_it_counted() -> None:
    skimmer = Skimmer([KEY])
    assert not agree(skimmer, packet(document(seq=1)))
    again = {"l": listener(stats={"tx": 7, "rx": 8, "conns": 9, "totconns": 1, "ereq": 0})}
    assert agree(skimmer, packet(document(seq=2, listeners=again)))
    assert agree(skimmer, packet(document(seq=0)))


@pytest.mark.parametrize(
    "news",
    [
        {"listeners": {"l": listener(status="FULL")}},
        {"listeners": {"k": listener()}},
        {"listeners": {"l": listener(), "k": listener()}},
        {"listeners": {}},
        {"pools": {"p:l": pool(status="DOWN")}},
        {"pools": {"p:l": pool(members={"m": "DOWN"})}},
        {"pools": {}},
        {"ver": 2},
        {"ver": 1},
    ],
)
def test_every_word_that_is_new_is_noticed_and_so_is_the_way_back(news: dict[str, Any]) -> None:
    skimmer = Skimmer([KEY])
    first = skimmer.skim(packet(document(seq=1)))
    changed = skimmer.skim(packet(document(seq=2, **news)))
    assert changed.words != first.words
    assert changed.listeners is not None
    assert skimmer.skim(packet(document(seq=3))).words == first.words


@pytest.mark.parametrize("index", range(len(MALFORMED)))
def test_what_is_no_heartbeat_is_refused_though_its_pools_are_known(index: int) -> None:
    skimmer = Skimmer([KEY])
    agree(skimmer, packet(document(seq=1)))
    try:
        agree(skimmer, packet(MALFORMED[index]))
    except ValueError:  # json writes no numbers of more than 4300 digits
        agree(skimmer, sealed(json.dumps(document(ver=-7)).replace("-7", "7" * 5000)))
    assert agree(skimmer, packet(document(seq=2)))


GOOD = json.dumps(document(seq=1))
TRICKS = [
    GOOD.replace('"seq": 1', '"seq": null'),
    GOOD.replace('"seq": 1', '"seq": NaN'),
    GOOD.replace('"seq": 1', '"x": NaN'),
    GOOD.replace('"ver": 3', '"ver": 3, "id": "b"'),
    GOOD.replace('"ver": 3', '"ver": 3, "listeners": {}'),
    GOOD.replace('"ver": 3', '"ver": 3, "seq": 9'),
    GOOD.replace('"id": "a"', '"id": "a", "pools": {}'),
    GOOD.replace('"id": "a"', '"id": "b", "id": "a"'),
    GOOD.replace('"id": "a"', '"ver": 1, "id": "a"'),
    GOOD.replace('"id": "a"', '"x": ", \\"pools\\": {", "id": "a"'),
    GOOD.replace('"OPEN"', '"OPEN, \\"pools\\": {"'),
    GOOD.replace('"status": "OPEN"', '"pools": {"p": {"status": "UP"}}, "status": "OPEN"'),
    GOOD.replace('"rx": 2', '"rx": 2, "rx": 5'),
    GOOD.replace('"rx": 2', '"rx": 2.0'),
    GOOD.replace('"rx": 2, ', ""),
    GOOD.replace('"OPEN"', '"OPEN\\u0000l\\u0000OPEN"'),
    GOOD.replace('"OPEN"', '"\\ud800"'),
    " " + GOOD,
    GOOD + " ",
    GOOD[:-1],
    GOOD + "}",
    GOOD.replace(", ", ","),
]


@pytest.mark.parametrize("index", range(len(TRICKS)))
def test_no_layout_makes_a_glance_say_something_else(index: int) -> None:
    skimmer = Skimmer([KEY])
    for _ in range(2):
        agree(skimmer, sealed(GOOD))
        agree(skimmer, sealed(TRICKS[index]))
    agree(skimmer, sealed(GOOD))
    assert agree(skimmer, sealed(GOOD))


def test_upstreams_vectors_are_read_alike() -> None:
    skimmer = Skimmer(["another", KEY, KEY_C])
    for datagram in (A_HEX, A_BINARY, B_HEX, C_HEX) * 2:
        assert skimmer.skim(datagram).heartbeat() == decode(datagram, ["another", KEY, KEY_C])


@given(st.integers(0, len(A_HEX) * 8 - 1))
def test_no_flipped_bit_is_taken(place: int) -> None:
    flipped = bytearray(A_HEX)
    flipped[place // 8] ^= 1 << place % 8
    skimmer = Skimmer([KEY, ""])
    skimmer.skim(A_HEX)
    with pytest.raises(BadPacket) as caught:
        skimmer.skim(bytes(flipped))
    assert caught.value.reason is Reason.BAD_DIGEST


words = st.sampled_from(["OPEN", "FULL", "UP", "DOWN", "UP 1/3", "no check", "DRAIN", "MAINT"])
ids = st.sampled_from(["a", "b", "c", "p:a", ', "pools": {'])
numbers = st.integers(0, 2**63 + 1) | st.sampled_from([True, None, 1.5])
stats = st.fixed_dictionaries({name: st.integers(0, 2**31 + 1) for name in ("tx", "rx", "conns", "totconns", "ereq")})
reports = st.fixed_dictionaries({"status": words, "stats": stats | st.dictionaries(st.just("rx"), numbers)})
pools = st.fixed_dictionaries({"status": words, "members": st.dictionaries(ids, words, max_size=3)})
documents = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["x", "y"]),
        "seq": st.integers(0, 3),
        "listeners": st.dictionaries(ids, reports, max_size=2),
        "pools": st.dictionaries(ids, pools, max_size=2),
        "ver": st.sampled_from([1, 2, 3, 3, 3]),
    }
)


@given(st.lists(documents, min_size=1, max_size=8))
def test_a_glance_and_the_whole_agree_on_any_sequence(sequence: list[dict[str, Any]]) -> None:
    skimmer = Skimmer([KEY])
    for each in [*sequence, *sequence]:
        agree(skimmer, encode(each, KEY))


@pytest.mark.parametrize("datagram", [A_HEX, B_HEX], ids=["a", "b"])
def test_statuses_that_are_read_again_are_those_of_the_whole_without_counters(datagram: bytes) -> None:
    agree(Skimmer([KEY]), datagram)
    said, whole = Skimmer([KEY]).skim(datagram).statuses(), decode(datagram, [KEY])
    assert without_counters(said) == without_counters(whole)


@pytest.mark.parametrize("version", [None, 0, 1, 2, 3])
def test_statuses_that_are_read_again_are_the_same_in_all_versions(version: int | None) -> None:
    value = document(listeners={"l": listener(pools={"p": pool()}), "m": listener()})
    value = {**value, "ver": version} if version is not None else {k: v for k, v in value.items() if k != "ver"}
    for some in (value, {**value, "pools": {}}, {k: v for k, v in value.items() if k not in ("pools", "seq")}):
        said, whole = Skimmer([KEY]).skim(packet(some)).statuses(), decode(packet(some), [KEY])
        assert without_counters(said) == without_counters(whole)


def without_counters(beat: Heartbeat) -> Heartbeat:
    return attrs.evolve(beat, listeners={id: ListenerReport(each.status) for id, each in beat.listeners.items()})


def test_layouts_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skim, "MOST", 10)
    skimmer = Skimmer([KEY])
    for number in range(30):
        agree(skimmer, packet(document(id=f"amphora {number}", seq=1)))
        assert len(skimmer._amphorae) == len(skimmer._sheets) <= 10
    assert len(set(skimmer.forgotten)) == 20, "who is told of handles learns which mean nobody any more"
    assert agree(skimmer, packet(document(id="amphora 29", seq=2)))
    assert not agree(skimmer, packet(document(id="amphora 3", seq=2))), "read whole, and remembered again"


AS_AGENTS_WRITE = (
    '{"id": "a", "seq": %N, "listeners": {"l": {"status": "OPEN", "stats":'
    ' {"tx": %N, "rx": 2, "conns": 3, "totconns": 4, "ereq": 5}}}, "pools": {}, "ver": 3}'
)


@pytest.mark.parametrize(
    ("before", "after", "at_a_glance"),
    [
        ("", "", True),
        ('"ver": 3', '"ver": 3, "listeners": {}', False),
        ('"ver": 3', '"ver": 3, "\\u006cisteners": {}', False),
        ('"ver": 3', '"ver": 3, "seq": 7', False),
        ('"ver": 3', '"ver": 3, "s\\u0065q": 7', False),
        ('"ver": 3', '"ver": 3, "id": "b"', True),
        ('"l"', '"l: 6"', False),
        ('"OPEN"', '"OPEN: 6"', False),
        ('"OPEN"', '"O\\"PEN"', True),
        ('"ereq": 5', '"ereq": 1234567890123456789', False),
        ('"tx": %N, "rx": 2', '"rx": 2, "tx": %N', True),
        ('"seq": %N', '"seq": %N, "tx": 9', False),
    ],
)
def test_what_nearly_is_as_agents_write_is_read_as_decoding_reads_it(
    before: str, after: str, at_a_glance: bool
) -> None:
    skimmer, text = Skimmer([KEY]), AS_AGENTS_WRITE.replace(before, after) if before else AS_AGENTS_WRITE
    assert not agree(skimmer, sealed(text.replace("%N", "1")))
    assert agree(skimmer, sealed(text.replace("%N", "7"))) is at_a_glance
    agree(skimmer, sealed(text.replace("%N", "1000000000000000")))
