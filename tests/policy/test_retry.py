"""Pauses between attempts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.errors import ConfigurationError
from octavia_core.policy.retry import RetryPolicy

numbers = st.floats(0, 1e6)
policies = st.builds(
    lambda attempts, first, more, multiplier, jitter: RetryPolicy(
        attempts=attempts, first=first, longest=first + more, multiplier=multiplier, jitter=jitter
    ),
    st.integers(1, 1000),
    numbers,
    numbers,
    st.floats(1, 100),
    st.floats(0, 1),
)
chances = st.floats(0, 1)


def test_pauses_double_up_to_the_longest() -> None:
    policy = RetryPolicy(attempts=5, first=0.2, longest=1.0)

    assert [policy.delay(attempt) for attempt in range(1, 6)] == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_chance_takes_its_share_away() -> None:
    policy = RetryPolicy(attempts=5, first=8.0, longest=60.0, jitter=0.25)

    assert [policy.delay(1, chance) for chance in (1.0, 0.5, 0.0)] == [8.0, 7.0, 6.0]


def test_the_last_attempt_is_the_last() -> None:
    policy = RetryPolicy(attempts=2, first=1, longest=1)

    assert [policy.exhausted(attempt) for attempt in (1, 2, 3)] == [False, True, True]


@given(policies, st.integers(1, 10**9), chances)
def test_no_pause_is_longer_than_the_longest_or_shorter_than_what_jitter_leaves(
    policy: RetryPolicy, attempt: int, chance: float
) -> None:
    pause = policy.delay(attempt, chance)

    assert 0 <= pause <= policy.longest
    assert pause >= policy.first * (1 - policy.jitter) * (1 - 1e-9)


@given(policies, st.integers(1, 10**6), chances)
def test_patience_never_shrinks(policy: RetryPolicy, attempt: int, chance: float) -> None:
    assert policy.delay(attempt + 1, chance) >= policy.delay(attempt, chance)
    assert policy.delay(attempt, 1.0) >= policy.delay(attempt, chance)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"attempts": 0}, "attempts"),
        ({"first": -1.0}, "first"),
        ({"first": 11.0}, "longest"),
        ({"longest": float("inf")}, "longest"),
        ({"first": float("nan")}, "first"),
        ({"multiplier": 0.5}, "multiplier"),
        ({"jitter": 1.5}, "jitter"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        RetryPolicy(**{"attempts": 3, "first": 1.0, "longest": 10.0} | changes)


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        RetryPolicy(attempts=1, first=1, longest=1).delay(0)
