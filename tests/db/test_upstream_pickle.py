"""The one column that upstream pickles: read without unpickling."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - the judge of what we write is the real one
import pickletools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.db.upstream_pickle import MAX_BYTES, PickleRefused, dump, load

headers = st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=8)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(headers)
def test_what_we_write_upstream_reads(value):
    assert pickle.loads(dump(value)) == value


@given(headers, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_what_upstream_writes_we_read(value, protocol):
    assert load(pickle.dumps(value, protocol)) == value


@given(headers)
def test_an_optimised_pickle_reads_too(value):
    assert load(pickletools.optimize(pickle.dumps(value))) == value


def test_values_that_old_rows_hold_become_words():
    assert load(pickle.dumps({"a": True, "b": False, "c": None, "d": 7})) == {
        "a": "true",
        "b": "false",
        "c": "",
        "d": "7",
    }
    assert load(b"}q\x00(U\x01aq\x01U\x01bq\x02u.") == {"a": "b"}, "as Python 2 wrote it"


class Calls:
    def __reduce__(self):
        return (os.mkdir, ("/nowhere/at/all",))


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Calls()),
        pickle.dumps({"a": Calls()}),
        pickle.dumps({"a": {"b": "c"}}),
        pickle.dumps(["a"]),
        pickle.dumps({"a": ["b"]}),
        pickle.dumps({"a": b"bytes"}),
        pickle.dumps({"a": 1.5}),
        pickle.dumps("text"),
        pickle.dumps(Exception),
        pickle.dumps({"a": "b"})[:-1],
        pickle.dumps({"a": "b" * MAX_BYTES}),
        b"",
        b".",
        b"\x80",
        b"}.\x00"[:1],
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04}\x94(h\x63h\x00u.",  # a memo that nobody wrote
        b"}r\xff\xff\xff\x7f.."[:6],
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a bytearray of 8 EiB
        b"]" + b"(" * 10_000,
        b"}" * 6_000 + b".",
        b"(" * 6_000 + b"d.",
    ],
    ids=lambda data: repr(data[:16]),
)
def test_anything_else_is_refused(data):
    with pytest.raises(PickleRefused):
        load(data)


@given(anything)
def test_any_pickle_gives_words_or_a_refusal(value):
    try:
        found = load(pickle.dumps(value))
    except PickleRefused:
        return
    assert isinstance(value, dict)
    assert list(found) == list(value)


@st.composite
def damaged(draw):
    good = draw(headers.map(dump))
    place = draw(st.integers(0, len(good) - 1))
    return good[:place] + draw(st.binary(max_size=3)) + good[place + 1 :]


@given(st.binary(max_size=200) | damaged())
def test_any_bytes_give_words_or_a_refusal(data):
    try:
        found = load(data)
    except PickleRefused:
        return
    assert all(isinstance(word, str) for pair in found.items() for word in pair)
