"""What is known of amphorae is not looked through by the garbage collector of a process that is for nothing else."""

from __future__ import annotations

import gc

import pytest

from octavia_core.controller.health.frozen import Frozen


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def frozen_by(calls: list[int]) -> list[bool]:
    frozen, found = Frozen(), []
    for known in calls:
        gc.unfreeze()
        frozen.tick(known)
        found.append(gc.get_freeze_count() > 0)
    return found


def test_it_is_done_when_many_came_and_not_again_before_many_more_did() -> None:
    assert frozen_by([10, 5000, 5000, 5900, 6000]) == [False, True, False, False, True]


def test_a_tenth_more_is_many_for_a_large_fleet() -> None:
    assert frozen_by([100_000, 105_000, 110_000]) == [True, False, True]


def test_those_that_went_may_come_again() -> None:
    assert frozen_by([5000, 1000, 1900, 2000]) == [True, False, False, True]
