"""An amphora lives by its table and in no other way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.vocabulary import AmphoraStatus as S
from octavia_core.domain.vocabulary import Kind
from octavia_core.lifecycle.amphora import INITIAL, MEANING, TRANSITIONS, AmphoraEvent, after, allowed
from octavia_core.lifecycle.refusal import TransitionRefused

E = AmphoraEvent


@pytest.mark.parametrize(
    ("life", "end"),
    [
        ([E.BOOT, E.ALLOCATE], S.ALLOCATED),
        ([E.BOOT, E.SPARE, E.ALLOCATE], S.ALLOCATED),
        ([E.BOOT, E.ALLOCATE, E.DELETE, E.DELETED], S.DELETED),
        ([E.BOOT, E.FAIL, E.DELETE, E.DELETED], S.DELETED),
        ([E.BOOT, E.ALLOCATE, E.STOP, E.RESUME], S.ALLOCATED),
        ([E.BOOT, E.ALLOCATE, E.STOP, E.DELETE, E.DELETED], S.DELETED),
        ([E.DELETE, E.DELETE, E.DELETED], S.DELETED),
        ([E.BOOT, E.SPARE, E.DELETE, E.FAIL, E.FAIL, E.DELETE, E.DELETED], S.DELETED),
    ],
)
def test_lives(life: list[AmphoraEvent], end: S) -> None:
    status = INITIAL
    for event in life:
        status = after(status, event)
    assert status is end


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (S.PENDING_CREATE, E.ALLOCATE),
        (S.ALLOCATED, E.BOOT),
        (S.ERROR, E.ALLOCATE),
        (S.ERROR, E.RESUME),
        (S.READY, E.STOP),
        (S.PENDING_DELETE, E.RESUME),
        (S.ALLOCATED, E.DELETED),
    ],
)
def test_these_are_refused(status: S, event: AmphoraEvent) -> None:
    with pytest.raises(TransitionRefused) as caught:
        after(status, event, id="a1")
    assert (caught.value.kind, caught.value.id, caught.value.status) == (Kind.AMPHORA, "a1", status)
    assert "octavia-admin why a1" in str(caught.value)


def test_everything_but_deleted_may_fail_and_everything_but_deleted_may_be_deleted() -> None:
    assert allowed(E.FAIL) == allowed(E.DELETE) == set(S) - {S.DELETED}


@given(st.sampled_from(list(S)), st.sampled_from(list(E)))
def test_after_and_allowed_tell_the_same(status: S, event: AmphoraEvent) -> None:
    if status in allowed(event):
        assert after(status, event) is TRANSITIONS[status, event]
    else:
        with pytest.raises(TransitionRefused):
            after(status, event)


@given(st.lists(st.sampled_from(list(E)), max_size=20))
def test_no_history_leads_back_from_going_to_serving(history: list[AmphoraEvent]) -> None:
    status, going = INITIAL, False
    for event in history:
        if status not in allowed(event):
            continue
        assert status is not S.DELETED
        status = after(status, event)
        going = going or event in (E.DELETE, E.FAIL)
        assert not (going and status in (S.BOOTING, S.READY, S.ALLOCATED, S.FAILOVER_STOPPED))


def test_every_status_is_reached_and_every_event_has_a_meaning() -> None:
    assert set(TRANSITIONS.values()) | {INITIAL} == set(S)
    assert set(MEANING) == set(E)
