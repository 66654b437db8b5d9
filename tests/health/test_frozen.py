"""What is known of amphorae is not looked through by the garbage collector of a process that is for nothing else."""

from __future__ import annotations

import gc
import weakref

import pytest

from octavia_core.controller.health.frozen import Frozen


@pytest.fixture
def frozen():
    before = gc.get_threshold()
    yield Frozen()
    gc.unfreeze()
    gc.set_threshold(*before)


class Thing:
    other: Thing


def test_what_stays_is_not_looked_at_again(frozen: Frozen) -> None:
    kept = [Thing() for _ in range(1000)]
    frozen.tick()
    assert gc.get_freeze_count() > len(kept)
    assert not any(one is kept for one in gc.get_objects())


def test_rings_that_nobody_holds_are_collected_before_they_are_frozen(frozen: Frozen) -> None:
    one, two = Thing(), Thing()
    one.other, two.other = two, one
    gone = weakref.ref(one)
    del one, two
    frozen.tick()
    assert gone() is None


def test_what_is_frozen_goes_when_nobody_holds_it_any_more(frozen: Frozen) -> None:
    kept = Thing()
    gone = weakref.ref(kept)
    frozen.tick()
    del kept
    assert gone() is None


def test_rings_that_were_frozen_are_collected_by_who_follows(frozen: Frozen) -> None:
    one, two = Thing(), Thing()
    one.other, two.other = two, one
    gone = weakref.ref(one)
    frozen.tick()
    del one, two
    frozen.tick()
    assert gone() is not None
    Frozen().tick()
    assert gone() is None
