"""From (method, arguments) to what is to be done; and what a message means, given the rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.operation import Subject
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.errors import BadRequest
from octavia_core.policy.requests import METHODS, Action, Verdict, request_of, verdict

A, B, C = "a" * 36, "b" * 36, "c" * 36


def test_there_are_26_methods() -> None:
    assert len(METHODS) == 26


def test_a_batch_is_about_all_its_members_whatever_list_they_stand_in() -> None:
    request = request_of(
        "batch_update_members",
        {
            "old_members": [{"id": A, "pool_id": C}],
            "new_members": [{"member_id": B, "pool_id": C, "address": "192.0.2.1"}],
            "updated_members": [],
        },
    )
    assert {subject.id for subject in request.subjects} == {A, B}
    assert request.parent == Subject(Kind.POOL, C)


def test_a_cascade_is_said_by_the_message() -> None:
    assert request_of("delete_load_balancer", {"loadbalancer": {"loadbalancer_id": A}, "cascade": True}).cascade


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=20), below, max_size=4),
    max_leaves=12,
)


WORDS = st.sampled_from(
    "old_members new_members updated_members id member_id pool_id member pool loadbalancer loadbalancer_id "
    "load_balancer_id amphora_id original_pool listener listener_id cascade".split()
)
CONTENT = st.recursive(
    JSON, lambda below: st.lists(below, max_size=2) | st.dictionaries(WORDS, below, max_size=4), max_leaves=12
)


@given(
    st.sampled_from(sorted(METHODS)) | st.text(max_size=30),
    st.dictionaries(st.text(max_size=20) | WORDS, CONTENT, max_size=4),
)
def test_whatever_comes_is_understood_or_refused_without_showing_it(method: str, arguments: dict[str, object]) -> None:
    try:
        request_of(method, arguments)
    except BadRequest as refused:
        assert len(str(refused)) < 900


@pytest.mark.parametrize("members", [7, "old", {"id": A}, [[A]], [{"id": A}, 7]])
def test_members_that_are_no_list_are_refused(members: object) -> None:
    with pytest.raises(BadRequest, match=r"old_members|pool_id"):
        request_of("batch_update_members", {"old_members": members})


@pytest.mark.parametrize("id", ["", "a" * 37, "a\0b", "\ud800", "ä", None, 7, ["a"]])
def test_ids_that_are_none_are_refused_without_showing_them(id: object) -> None:
    with pytest.raises(BadRequest, match=r"^message failover_amphora: amphora_id is missing or no id$"):
        request_of("failover_amphora", {"amphora_id": id})


def test_a_method_that_nobody_knows_is_said_in_a_sentence_however_long_it_is() -> None:
    with pytest.raises(BadRequest) as refused:
        request_of("x" * 1_000_000, {})
    assert len(str(refused.value)) < 900


MEMBER = Subject(Kind.MEMBER, A)
P = Provisioning


@pytest.mark.parametrize(
    ("action", "status", "lock", "expected"),
    [
        (Action.CREATE, P.PENDING_CREATE, P.PENDING_UPDATE, Verdict.GO),
        (Action.CREATE, None, P.ACTIVE, Verdict.WAIT),
        (Action.CREATE, P.ACTIVE, P.ACTIVE, Verdict.OVER),
        (Action.CREATE, None, P.PENDING_UPDATE, Verdict.OVER),
        (Action.UPDATE, P.ACTIVE, P.ACTIVE, Verdict.WAIT),
        (Action.UPDATE, P.PENDING_UPDATE, P.PENDING_UPDATE, Verdict.GO),
        (Action.UPDATE, P.ACTIVE, P.PENDING_UPDATE, Verdict.OVER),
        (Action.UPDATE, None, P.ACTIVE, Verdict.OVER),
        (Action.DELETE, P.PENDING_DELETE, P.PENDING_UPDATE, Verdict.GO),
        (Action.DELETE, None, P.ACTIVE, Verdict.OVER),
        (Action.DELETE, P.ACTIVE, P.DELETED, Verdict.OVER),
        (Action.BATCH, None, P.ACTIVE, Verdict.WAIT),
        (Action.BATCH, P.PENDING_DELETE, P.PENDING_UPDATE, Verdict.GO),
    ],
)
def test_what_a_message_means_is_said_by_the_rows(
    action: Action, status: Provisioning | None, lock: Provisioning, expected: Verdict
) -> None:
    statuses = {} if status is None else {MEMBER: status}
    assert verdict(action, statuses, [MEMBER], lock) is expected
