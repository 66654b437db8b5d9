"""What the silence of an amphora means."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.policy.judgement import Ear, Finding, Heart, judge

SECOND = 1_000_000
NOW = 1_000 * SECOND
EAR = Ear(now=NOW, timeout=60 * SECOND, deadline=600 * SECOND)
times = st.integers(0, 2 * NOW)
hearts = st.builds(Heart, last_heard=times | st.none(), since=times)
ears = st.builds(Ear, now=times, timeout=times, deadline=times, listening_since=times, deaf_since=times | st.none())


def heard(seconds_ago: float) -> Heart:
    return Heart(last_heard=NOW - int(seconds_ago * SECOND), since=0)


def asked_for(seconds_ago: float) -> Heart:
    return Heart(last_heard=None, since=NOW - int(seconds_ago * SECOND))


@pytest.mark.parametrize(
    ("heart", "finding"),
    [
        (heard(0), Finding.ALIVE),
        (heard(60), Finding.ALIVE),
        (heard(60.000001), Finding.SILENT),
        (heard(-5), Finding.ALIVE),
        (asked_for(599), Finding.ALIVE),
        (asked_for(601), Finding.NEVER_HEARD),
    ],
)
def test_silence_is_measured_against_its_limit(heart: Heart, finding: Finding) -> None:
    assert judge(heart, EAR).finding is finding


def test_an_end_that_was_seen_is_certain_whatever_was_heard() -> None:
    heart = attrs.evolve(heard(0), ended="process 4711 was killed by signal 9")
    judgement = judge(heart, attrs.evolve(EAR, deaf_since=0))

    assert judgement.finding is Finding.DEAD
    assert judgement.evidence == "process 4711 was killed by signal 9"


def test_a_receiver_that_hears_nobody_does_not_hold_it_against_anybody() -> None:
    deaf = attrs.evolve(EAR, deaf_since=NOW - 100 * SECOND)

    assert judge(heard(130), deaf).finding is Finding.ALIVE
    assert judge(heard(161), deaf).finding is Finding.SILENT, "it was silent before we went deaf"


def test_after_an_outage_everybody_has_the_whole_timeout_to_be_heard() -> None:
    fresh = attrs.evolve(EAR, listening_since=NOW - 59 * SECOND)

    assert judge(heard(900), fresh).finding is Finding.ALIVE
    assert judge(asked_for(900), fresh).finding is Finding.ALIVE
    assert judge(heard(900), attrs.evolve(fresh, listening_since=NOW - 61 * SECOND)).finding is Finding.SILENT


def test_the_evidence_says_what_was_known() -> None:
    assert judge(heard(75), EAR).evidence == "last heard 75.0 s ago; allowed are 60.0 s"
    assert (
        judge(asked_for(700), attrs.evolve(EAR, deaf_since=NOW - 200 * SECOND)).evidence
        == "never heard; its server was asked for 700.0 s ago; of that, we could hear for 500.0 s; allowed are 600.0 s"
    )


@given(hearts, ears, st.integers(0, NOW))
def test_time_alone_never_revives(heart: Heart, ear: Ear, later: int) -> None:
    if judge(heart, ear).finding is not Finding.ALIVE:
        assert judge(heart, attrs.evolve(ear, now=ear.now + later)).finding is not Finding.ALIVE


@given(hearts, ears, times)
def test_a_later_heartbeat_or_a_deafer_ear_never_makes_it_worse(heart: Heart, ear: Ear, time: int) -> None:
    if judge(heart, ear).finding is Finding.ALIVE:
        deaf_since = time if ear.deaf_since is None else min(time, ear.deaf_since)  # 0 is a time, too
        assert judge(heart, attrs.evolve(ear, deaf_since=deaf_since)).finding is Finding.ALIVE
        assert judge(heart, attrs.evolve(ear, listening_since=ear.listening_since + time)).finding is Finding.ALIVE
        if heart.last_heard is not None:
            newer = attrs.evolve(heart, last_heard=heart.last_heard + time)
            assert judge(newer, ear).finding is Finding.ALIVE


@given(hearts, ears)
def test_without_proof_nothing_is_dead_and_never_heard_means_never_heard(heart: Heart, ear: Ear) -> None:
    finding = judge(heart, ear).finding

    assert finding is not Finding.DEAD
    assert finding is not (Finding.SILENT if heart.last_heard is None else Finding.NEVER_HEARD)
