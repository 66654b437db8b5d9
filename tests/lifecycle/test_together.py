"""What the two amphorae of a pair say together."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.heartbeat import Heartbeat, ListenerReport, PoolReport
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, Operating, PoolProtocol, Topology
from octavia_core.lifecycle.operating import roll_up
from octavia_core.lifecycle.together import Difference, differences, together

ONLINE, OFFLINE, DEGRADED, ERROR = Operating.ONLINE, Operating.OFFLINE, Operating.DEGRADED, Operating.ERROR


def said(
    amphora: str,
    members: Mapping[str, str] | None = None,
    *,
    pool: str = "UP",
    listeners: Mapping[str, str] | None = None,
) -> Heartbeat:
    """A report of one listener `l` and one pool `p` with these members' words."""
    return Heartbeat(
        amphora_id=amphora,
        seq=1,
        version=3,
        listeners={id: ListenerReport(word) for id, word in (listeners or {"l": "OPEN"}).items()},
        pools={"p:l": PoolReport(pool, members or {})},
    )


def statuses(
    *reports: Heartbeat, disputed: tuple[str, ...] = (), settled: bool = True
) -> dict[tuple[Kind, str], Operating]:
    """What becomes of everything, none of which was like that before."""
    names = sorted({id for report in reports for pool in report.pools.values() for id in pool.members})
    members = tuple(
        Member(id=id, address="192.0.2.1", protocol_port=80, operating_status=Operating.DRAINING) for id in names
    )
    lb = LoadBalancer(
        id="lb",
        topology=Topology.ACTIVE_STANDBY,
        operating_status=OFFLINE,
        listeners=(
            Listener(id="l", protocol=ListenerProtocol.HTTP, protocol_port=80, operating_status=Operating.DRAINING),
        ),
        pools=(Pool(id="p", protocol=PoolProtocol.HTTP, members=members, operating_status=Operating.DRAINING),),
    )
    return dict(roll_up(lb, together(reports, disputed=disputed, settled=settled)).statuses)


def test_a_member_works_when_one_of_the_two_reaches_it() -> None:
    found = statuses(said("a", {"m": "UP"}), said("b", {"m": "DOWN"}, pool="DOWN"))
    assert found[Kind.MEMBER, "m"] is ONLINE
    assert found[Kind.POOL, "p"] is ONLINE
    assert found[Kind.LOAD_BALANCER, "lb"] is ONLINE


def test_a_member_is_in_error_when_neither_reaches_it() -> None:
    found = statuses(said("a", {"m": "DOWN"}, pool="DOWN"), said("b", {"m": "DOWN 1/2"}, pool="DOWN"))
    assert found[Kind.MEMBER, "m"] is ERROR
    assert found[Kind.POOL, "p"] is ERROR
    assert found[Kind.LOAD_BALANCER, "lb"] is ERROR


def test_a_pool_about_which_they_differ_for_long_is_degraded() -> None:
    both = said("a", {"m": "UP"}), said("b", {"m": "DOWN"}, pool="DOWN")
    found = statuses(*both, disputed=("p",))
    assert found[Kind.MEMBER, "m"] is ONLINE
    assert found[Kind.POOL, "p"] is DEGRADED
    assert found[Kind.LOAD_BALANCER, "lb"] is DEGRADED
    assert differences(both) == (Difference("p", "m", up="a", down="b"),)


def test_a_listener_that_one_lacks_is_degraded_once_the_load_balancer_is_settled() -> None:
    both = said("a"), said("b", listeners={"other": "OPEN"})
    assert statuses(*both)[Kind.LISTENER, "l"] is DEGRADED
    assert statuses(*both)[Kind.LOAD_BALANCER, "lb"] is DEGRADED
    assert statuses(*both, settled=False)[Kind.LISTENER, "l"] is ONLINE


def test_a_listener_is_open_when_one_of_the_two_has_room() -> None:
    assert statuses(said("a", listeners={"l": "FULL"}), said("b"))[Kind.LISTENER, "l"] is ONLINE
    full = said("a", listeners={"l": "FULL"}), said("b", listeners={"l": "FULL"})
    assert statuses(*full)[Kind.LISTENER, "l"] is DEGRADED


@pytest.mark.parametrize(
    ("one", "two", "status"),
    [
        ("UP 1/3", "DOWN", ONLINE),
        ("no check", "no check", Operating.NO_MONITOR),
        ("DRAIN", "DOWN", None),  # as it was: draining
        ("MAINT", "DOWN", OFFLINE),
        ("RESTARTING", "DOWN", None),
        ("UP", "MAINT", ONLINE),
    ],
)
def test_the_better_word_counts(one: str, two: str, status: Operating | None) -> None:
    for reports in ((said("a", {"m": one}), said("b", {"m": two})), (said("b", {"m": two}), said("a", {"m": one}))):
        assert statuses(*reports).get((Kind.MEMBER, "m")) is status


words = st.sampled_from(["UP", "UP 2/3", "DOWN", "DRAIN", "MAINT", "no check", "RESTARTING", "nonsense", ""])
reports = st.builds(
    said,
    st.sampled_from(["a", "b"]),
    st.dictionaries(st.sampled_from(["m", "n", "o"]), words),
    pool=st.sampled_from(["UP", "DOWN", "odd"]),
    listeners=st.dictionaries(st.sampled_from(["l", "k"]), st.sampled_from(["OPEN", "FULL", "odd"]), min_size=1),
)


@given(reports)
def test_one_alone_says_what_it_says(report: Heartbeat) -> None:
    assert together([report]) is report


@given(reports)
def test_two_that_say_the_same_say_what_each_says(report: Heartbeat) -> None:
    assert statuses(report, report) == statuses(report)
    assert differences([report, report]) == () or "never"


@given(reports, reports)
def test_who_was_heard_first_does_not_matter(one: Heartbeat, two: Heartbeat) -> None:
    known = [report for report in (one, two) if "odd" not in str(report)]
    if len(known) == 2:
        assert statuses(one, two) == statuses(two, one)


@given(reports, reports)
def test_no_member_is_worse_off_for_being_looked_at_by_two(one: Heartbeat, two: Heartbeat) -> None:
    up = {
        id
        for report in (one, two)
        for pool in report.pools.values()
        for id, word in pool.members.items()
        if word.startswith("UP")
    }
    found = statuses(one, two)
    assert all(found[Kind.MEMBER, id] is ONLINE for id in up)


def test_one_that_is_partial_makes_the_whole_partial() -> None:
    whole = Heartbeat("a", 1, 3, {"l": ListenerReport("OPEN")}, {"p:l": PoolReport("UP", {"m": "UP", "n": "UP"})})
    part = Heartbeat("b", 1, 3, {"l": ListenerReport("OPEN")}, {"p:l": PoolReport("UP", {"m": "DOWN"})}, partial=True)

    assert together([part, whole]).partial
    assert dict(together([part, whole]).pools["p"].members) == {"m": "UP", "n": "UP"}
    assert not together([whole, whole]).partial
