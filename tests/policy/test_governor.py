"""The governor: a test per row of its table, and the laws that hold for all of them."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.policy.governor import (
    ENOUGH,
    PATIENCE,
    ROWS,
    Act,
    Agent,
    Bucket,
    Decision,
    Facts,
    Receiver,
    Rule,
    Suspect,
    decide,
    hearing_doubt,
    table,
)

MINUTE = 60_000_000
NOW = 1_000 * MINUTE
PLENTY = Bucket.full(600, NOW)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "governor.md"


def silent(number: int = 0, **more: object) -> Suspect:
    return attrs.evolve(Suspect(amphora_id=f"a{number}", evidence="last heard 61.0 s ago", agent=Agent.SILENT), **more)


def facts(*suspects: Suspect, **more: object) -> Facts:
    hearing = Receiver(name="here", before=100, now=100 - len(suspects), mine=True)
    return attrs.evolve(Facts(now=NOW, timeout=MINUTE, suspects=suspects, receivers=(hearing,)), **more)


def ruled(known: Facts, bucket: Bucket = PLENTY) -> tuple[Decision, ...]:
    return decide(known, bucket).decisions


def only(known: Facts) -> tuple[Act, Rule]:
    (decision,) = ruled(known)
    assert decision.evidence
    return decision.act, decision.rule


def deaf(before: int, now: int) -> dict[str, object]:
    return {"receivers": (Receiver(name="here", before=before, now=now, mine=True),)}


def test_paused_means_nothing_is_failed_over_not_even_with_proof() -> None:
    assert only(facts(silent(proof="process 7 ended"), paused="by jo: upgrade")) == (Act.WAIT, Rule.PAUSED)


def test_proof_overrides_drops_doubt_and_threshold() -> None:
    known = facts(silent(proof="process 7 ended"), dropped=9, threshold=1, **deaf(100, 0))
    (decision,) = ruled(known)
    assert (decision.act, decision.rule, decision.evidence) == (Act.FAIL_OVER, Rule.PROOF, "process 7 ended")


def test_proof_needs_a_token_like_all_others() -> None:
    empty = attrs.evolve(PLENTY, tokens=0.5)
    (decision,) = ruled(facts(silent(proof="process 7 ended")), empty)
    assert (decision.act, decision.rule) == (Act.WAIT, Rule.RATE)
    assert "process 7 ended" in decision.evidence


def test_while_datagrams_are_dropped_nobody_is_judged_by_absence() -> None:
    assert only(facts(silent(), dropped=1)) == (Act.WAIT, Rule.DROPS)


def test_who_lost_most_of_what_it_heard_doubts_itself() -> None:
    assert only(facts(silent(), **deaf(ENOUGH, 2))) == (Act.WAIT, Rule.DOUBT)
    assert only(facts(silent(), **deaf(ENOUGH, 3))) == (Act.FAIL_OVER, Rule.SILENCE)


def test_self_doubt_needs_five_amphorae() -> None:
    assert only(facts(silent(), **deaf(ENOUGH - 1, 0))) == (Act.FAIL_OVER, Rule.SILENCE)


def test_that_receivers_heard_the_same_amphorae_makes_no_more_of_them() -> None:
    me = Receiver(name="here", before=ENOUGH - 1, now=ENOUGH - 2, mine=True)
    gone = Receiver(name="there", before=ENOUGH - 1, now=0)
    assert only(facts(silent(), receivers=(me, gone))) == (Act.FAIL_OVER, Rule.SILENCE)


def test_when_no_other_receiver_agrees_it_is_me() -> None:
    me = Receiver(name="here", before=100, now=90, mine=True)
    gone, well = Receiver(name="there", before=100, now=0), Receiver(name="yonder", before=100, now=80)
    assert only(facts(silent(), receivers=(me, gone))) == (Act.WAIT, Rule.ALONE)
    assert only(facts(silent(), receivers=(me, gone, well))) == (Act.FAIL_OVER, Rule.SILENCE)


def test_upstreams_threshold_stops_all_that_are_silent() -> None:
    many = [silent(n) for n in range(3)]
    assert {(d.act, d.rule) for d in ruled(facts(*many, threshold=3))} == {(Act.STOP, Rule.THRESHOLD)}
    assert {d.act for d in ruled(facts(*many, threshold=4))} == {Act.FAIL_OVER}, "and it ends by itself"


def test_those_with_proof_do_not_count_towards_the_threshold() -> None:
    known = facts(silent(1), silent(2, proof="gone"), threshold=2)
    assert {d.act for d in ruled(known)} == {Act.FAIL_OVER}


def test_an_agent_is_asked_before_absence_counts() -> None:
    assert only(facts(silent(agent=Agent.UNASKED))) == (Act.WAIT, Rule.ASKING)


def test_who_answers_gets_its_settings_again_once_then_time_then_is_given_up() -> None:
    answers = silent(agent=Agent.ANSWERS, overdue=1)
    assert only(facts(answers)) == (Act.PUSH, Rule.REFRESH)
    assert only(facts(attrs.evolve(answers, pushed=True))) == (Act.WAIT, Rule.REFRESHED)
    late = attrs.evolve(answers, pushed=True, overdue=(PATIENCE - 1) * MINUTE)
    assert only(facts(late)) == (Act.FAIL_OVER, Rule.IN_VAIN)


def in_hosts(*numbers: int) -> tuple[Suspect, ...]:
    return tuple(silent(n, domains={"host": f"h{n % 10}", "zone": "z"}) for n in numbers)


HOSTS = {("host", f"h{n}"): 10 for n in range(10)} | {("zone", "z"): 100}


def test_one_dead_host_is_failed_over_while_others_are_heard() -> None:
    known = facts(*in_hosts(*range(3, 100, 10)), watched=HOSTS)
    decisions = ruled(known)
    assert {(d.act, d.rule) for d in decisions} == {(Act.FAIL_OVER, Rule.DOMAIN)}
    assert "all of host h3, while 90 others are heard" in decisions[0].evidence


def test_most_hosts_silent_at_once_is_an_outage() -> None:
    places = {("host", f"h{n}"): 1 for n in range(10)} | {("host", f"big{n}"): 45 for n in range(2)}
    few = tuple(silent(n, domains={"host": f"h{n}"}) for n in range(7))
    assert {(d.act, d.rule) for d in ruled(facts(*few, watched=places))} == {(Act.WAIT, Rule.OUTAGE)}
    assert {d.act for d in ruled(facts(*few[:6], watched=places))} == {Act.FAIL_OVER}


def test_scattered_deaths_are_failed_over() -> None:
    assert {(d.act, d.rule) for d in ruled(facts(*in_hosts(1, 12, 23), watched=HOSTS))} == {
        (Act.FAIL_OVER, Rule.SILENCE)
    }


def test_tokens_limit_how_many_start_and_come_back_with_time() -> None:
    many = facts(*(silent(n) for n in range(5)))
    first = decide(many, attrs.evolve(Bucket.full(2, NOW)))
    assert [d.act for d in first.decisions] == [Act.FAIL_OVER] * 2 + [Act.WAIT] * 3
    later = decide(attrs.evolve(many, now=NOW + MINUTE // 2), first.bucket)
    assert [d.rule for d in later.decisions].count(Rule.SILENCE) == 1


def test_those_with_proof_get_the_tokens_first() -> None:
    known = facts(silent(1), silent(2, proof="gone"))
    decisions = ruled(known, attrs.evolve(PLENTY, tokens=1))
    assert [(d.amphora_id, d.act) for d in decisions] == [("a2", Act.FAIL_OVER), ("a1", Act.WAIT)]


def test_nobody_asks_agents_while_the_silence_may_be_ours() -> None:
    assert hearing_doubt(facts(silent(), **deaf(10, 0)))
    assert hearing_doubt(facts(silent(), dropped=1))
    assert hearing_doubt(facts(silent())) is None


def test_the_page_has_the_table() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")
    assert len({row.rule for row in ROWS}) == len(ROWS) == len(Rule) - 1, "all but the bucket's"


names = st.sampled_from(["a", "b", "c", "d"])
suspects = st.builds(
    Suspect,
    amphora_id=st.uuids().map(str),
    evidence=st.just("silent"),
    overdue=st.integers(0, 5 * MINUTE),
    proof=st.none() | st.just("ended"),
    agent=st.sampled_from(Agent),
    pushed=st.booleans(),
    domains=st.dictionaries(st.sampled_from(["host", "zone", "network"]), names),
)
receivers = st.builds(Receiver, name=names, before=st.integers(0, 50), now=st.integers(0, 50), mine=st.booleans())
situations = st.builds(
    Facts,
    now=st.integers(0, NOW),
    timeout=st.just(MINUTE),
    suspects=st.lists(suspects, max_size=12).map(tuple),
    watched=st.dictionaries(st.tuples(st.sampled_from(["host", "zone", "network"]), names), st.integers(1, 9)),
    receivers=st.lists(receivers, max_size=3).map(tuple),
    dropped=st.integers(0, 1),
    threshold=st.none() | st.integers(1, 12),
    paused=st.none() | st.just("by jo"),
)


@given(situations, st.integers(0, 12))
def test_each_suspect_gets_one_decision_and_each_failover_costs_a_token(known: Facts, tokens: int) -> None:
    bucket = Bucket(rate=0, size=12, tokens=tokens, at=0)
    ruling = decide(known, bucket)
    assert sorted(d.amphora_id for d in ruling.decisions) == sorted(s.amphora_id for s in known.suspects)
    assert tokens - ruling.bucket.tokens == sum(d.act is Act.FAIL_OVER for d in ruling.decisions)
    assert all(d.evidence for d in ruling.decisions)


@given(situations)
def test_absence_alone_is_never_enough(known: Facts) -> None:
    by_id = {s.amphora_id: s for s in known.suspects}
    for decision in ruled(known):
        one = by_id[decision.amphora_id]
        if decision.act is Act.FAIL_OVER and one.proof is None:
            assert one.agent is not Agent.UNASKED
            assert not known.dropped
            assert hearing_doubt(known) is None


@given(st.floats(0, 1000), st.lists(st.integers(0, 10 * MINUTE), max_size=8))
def test_a_bucket_never_holds_more_than_its_size(rate: float, times: list[int]) -> None:
    bucket = Bucket.full(rate, 0)
    for time in times:
        bucket = bucket.filled(time)
        assert 0 <= bucket.tokens <= bucket.size


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule)
def test_every_row_says_when_and_what(row: object) -> None:
    assert row.when  # type: ignore[attr-defined]
    assert row.then  # type: ignore[attr-defined]
