"""Provisioning status moves by its tables and in no other way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.errors import Refused
from octavia_core.lifecycle.provisioning import INITIAL, MEANING, Event, after, allowed, ending, table
from octavia_core.lifecycle.refusal import TransitionRefused

KINDS = [kind for kind in Kind if kind is not Kind.AMPHORA]
CHILDREN = [kind for kind in KINDS if kind is not Kind.LOAD_BALANCER]
ACTIVE, ERROR, DELETED = Provisioning.ACTIVE, Provisioning.ERROR, Provisioning.DELETED
PENDING = [status for status in Provisioning if status.pending]
SETTLED = [status for status in Provisioning if not status.pending]
kinds, statuses, events = st.sampled_from(KINDS), st.sampled_from(list(Provisioning)), st.sampled_from(list(Event))


@pytest.mark.parametrize(
    ("event", "statuses"),
    [
        (Event.ACCEPT_UPDATE, {ACTIVE}),
        (Event.LOCK, {ACTIVE}),
        (Event.ACCEPT_DELETE, {ACTIVE, ERROR}),
        (Event.ACCEPT_FAILOVER, {ACTIVE, ERROR}),
        (Event.RESTORE, {Provisioning.PENDING_UPDATE}),
        (Event.SUCCEED, set(PENDING)),
        (Event.FAIL, set(PENDING)),
    ],
)
def test_a_load_balancer_takes_an_event_in_these_statuses_only(event: Event, statuses: set[Provisioning]) -> None:
    assert allowed(Kind.LOAD_BALANCER, event) == statuses


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_child_in_error_may_be_mended_or_deleted_but_not_locked_or_failed_over(kind: Kind) -> None:
    assert allowed(kind, Event.ACCEPT_UPDATE) == allowed(kind, Event.ACCEPT_DELETE) == {ACTIVE, ERROR}
    assert allowed(kind, Event.LOCK) == {ACTIVE}
    assert allowed(kind, Event.ACCEPT_FAILOVER) == frozenset()


@given(kinds, statuses, events)
def test_after_and_allowed_tell_the_same(kind: Kind, status: Provisioning, event: Event) -> None:
    if status in allowed(kind, event):
        assert after(kind, status, event) is table(kind)[status, event]
    else:
        with pytest.raises(TransitionRefused):
            after(kind, status, event)


@given(kinds, st.lists(events, max_size=20))
def test_no_history_leads_out_of_deleted_and_pending_ends_in_one_event(kind: Kind, history: list[Event]) -> None:
    status = INITIAL
    for event in history:
        if status not in allowed(kind, event):
            continue
        before, status = status, after(kind, status, event)
        assert before is not DELETED
        assert before.pending != status.pending  # accepting locks, ending unlocks, nothing else happens


@given(kinds, st.sampled_from(PENDING), st.booleans(), st.booleans())
def test_every_wish_can_end_whatever_it_left_pending(
    kind: Kind, status: Provisioning, succeeded: bool, asked_for: bool
) -> None:
    event = ending(status, succeeded=succeeded, asked_for=asked_for)
    end = after(kind, status, event)

    assert not end.pending
    if succeeded:
        assert end is (DELETED if status is Provisioning.PENDING_DELETE else ACTIVE)
    elif asked_for:
        assert end is ERROR


def test_a_sibling_of_a_failed_wish_is_as_it_was() -> None:
    event = ending(Provisioning.PENDING_UPDATE, succeeded=False, asked_for=False)

    assert after(Kind.LISTENER, Provisioning.PENDING_UPDATE, event) is ACTIVE
    assert after(Kind.LOAD_BALANCER, Provisioning.PENDING_UPDATE, event) is ACTIVE


@pytest.mark.parametrize("status", [Provisioning.PENDING_CREATE, Provisioning.PENDING_DELETE])
def test_what_is_half_made_or_half_gone_fails_with_its_wish(status: Provisioning) -> None:
    assert ending(status, succeeded=False, asked_for=False) is Event.FAIL


@pytest.mark.parametrize("status", SETTLED)
def test_nothing_ends_for_what_is_settled(status: Provisioning) -> None:
    with pytest.raises(ValueError, match=status):
        ending(status, succeeded=True, asked_for=True)


def test_a_refusal_names_the_thing_its_status_the_event_and_what_to_do() -> None:
    with pytest.raises(TransitionRefused) as caught:
        after(Kind.L7POLICY, Provisioning.PENDING_UPDATE, Event.ACCEPT_DELETE, id="p1")

    error = caught.value
    assert isinstance(error, Refused)
    assert (error.kind, error.id, error.status, error.event) == (Kind.L7POLICY, "p1", "PENDING_UPDATE", "accept_delete")
    assert str(error) == (
        "L7 policy p1 is PENDING_UPDATE; 'accept_delete' needs ACTIVE or ERROR; "
        "to see what it waits for, run: octavia-admin why p1"
    )


def test_an_amphora_is_not_looked_up_here() -> None:
    with pytest.raises(ValueError, match="amphora"):
        after(Kind.AMPHORA, ACTIVE, Event.FAIL)


def test_every_event_has_a_meaning_and_a_use() -> None:
    assert set(MEANING) == set(Event)
    for event in Event:
        assert allowed(Kind.LOAD_BALANCER, event)


def test_the_tables_cannot_be_changed() -> None:
    for kind in KINDS:
        with pytest.raises(TypeError):
            table(kind)[ACTIVE, Event.FAIL] = ERROR  # type: ignore[index]
