"""What a heartbeat says about a load balancer: the results that upstream Octavia 19 computes, rule by rule."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from octavia_core.domain.heartbeat import Heartbeat, ListenerReport, PoolReport, decode
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, Operating, PoolProtocol, Provisioning
from octavia_core.lifecycle.operating import ABSENT, LISTENER_WORDS, MEMBER_WORDS, POOL_WORDS, roll_up
from tests.heartbeat.vectors import A_HEX, B_HEX, C_HEX, KEY, KEY_C

ONLINE, OFFLINE, DEGRADED = Operating.ONLINE, Operating.OFFLINE, Operating.DEGRADED
ERROR, NO_MONITOR, DRAINING = Operating.ERROR, Operating.NO_MONITOR, Operating.DRAINING
LB, LISTENER, POOL, MEMBER = Kind.LOAD_BALANCER, Kind.LISTENER, Kind.POOL, Kind.MEMBER


def listener(
    id: str = "l", status: Operating = ONLINE, protocol: ListenerProtocol = ListenerProtocol.HTTP, **more: Any
) -> Listener:
    return Listener(id=id, protocol=protocol, protocol_port=80, operating_status=status, **more)


def member(id: str = "m", status: Operating = ONLINE, **more: Any) -> Member:
    return Member(id=id, address="192.0.2.1", protocol_port=80, operating_status=status, **more)


def pool(id: str = "p", status: Operating = ONLINE, *members: Member) -> Pool:
    return Pool(id=id, protocol=PoolProtocol.HTTP, members=members, operating_status=status)


def load_balancer(*parts: Listener | Pool, status: Operating = ONLINE, **more: Any) -> LoadBalancer:
    return LoadBalancer(
        id="lb",
        listeners=tuple(part for part in parts if isinstance(part, Listener)),
        pools=tuple(part for part in parts if isinstance(part, Pool)),
        operating_status=status,
        **more,
    )


def beat(listeners: dict[str, str], pools: dict[str, PoolReport] | None = None, version: int = 3) -> Heartbeat:
    return Heartbeat("a", 1, version, {id: ListenerReport(status) for id, status in listeners.items()}, pools or {})


def changes(load_balancer: LoadBalancer, heartbeat: Heartbeat) -> dict[tuple[Kind, str], Operating]:
    return dict(roll_up(load_balancer, heartbeat).statuses)


# -- the vectors -------------------------------------------------------------------------------------------------------
A_LISTENER, A_POOL = "0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01", "7b1d4c7e-3a5c-4f57-8d9a-9b8c7a6d5e02"
NUMBER = "c1a2b3c4-d5e6-4f70-8192-a3b4c5d6e7"
BEFORE_A = load_balancer(
    listener(A_LISTENER, OFFLINE),
    pool(A_POOL, ONLINE, member(f"{NUMBER}03", NO_MONITOR), member(f"{NUMBER}04", ONLINE)),
)
BELOW_A = {
    (LISTENER, A_LISTENER): ONLINE,
    (MEMBER, f"{NUMBER}03"): ONLINE,
    (MEMBER, f"{NUMBER}04"): ERROR,
    (POOL, A_POOL): DEGRADED,
}


def test_a_member_that_is_down_degrades_its_pool_and_its_load_balancer() -> None:
    verdict = roll_up(BEFORE_A, decode(A_HEX, [KEY]))

    assert verdict.counts_match
    assert verdict.statuses == BELOW_A | {(LB, "lb"): DEGRADED}
    assert list(verdict.statuses) == [*BELOW_A, (LB, "lb")], "children first, the load balancer last"
    assert verdict.warnings == ()


def test_a_disabled_load_balancer_stays_offline_while_its_parts_are_judged() -> None:
    disabled = attrs.evolve(BEFORE_A, enabled=False, operating_status=OFFLINE)

    assert changes(disabled, decode(A_HEX, [KEY])) == BELOW_A


def test_a_listener_at_its_limit_a_udp_pool_and_every_word_of_a_member() -> None:
    http, udp = "4f6b8dac-2e30-4f7b-9c1d-3e5f7b9d1f03", "3e5a7c9b-1d2f-4e6a-8b0c-2d4f6a8c0e02"
    first, second = "ad9c8b7e-6f50-4b4c-9d3e-2f10ab9c8d04", "9c8b7a6d-5e4f-4a3b-8c2d-1e0f9a8b7c03"
    before = load_balancer(
        listener(http),
        listener(udp, protocol=ListenerProtocol.UDP),
        pool(
            first,
            ONLINE,
            member(f"{NUMBER}11", ONLINE),
            member(f"{NUMBER}12", ONLINE),
            member(f"{NUMBER}13", ONLINE),
            member(f"{NUMBER}14", NO_MONITOR),
        ),
        pool(
            second,
            OFFLINE,
            member(f"{NUMBER}21", ERROR),
            member(f"{NUMBER}22", ONLINE),
            member(f"{NUMBER}23", ERROR),
        ),
        pool("X", ONLINE, member("of X", ONLINE)),
    )
    verdict = roll_up(before, decode(B_HEX, [KEY]))

    assert verdict.counts_match
    assert verdict.statuses == {
        (LISTENER, http): DEGRADED,
        (MEMBER, f"{NUMBER}11"): NO_MONITOR,
        (MEMBER, f"{NUMBER}12"): OFFLINE,
        (MEMBER, f"{NUMBER}13"): OFFLINE,
        (MEMBER, f"{NUMBER}21"): ONLINE,
        (MEMBER, f"{NUMBER}22"): DRAINING,
        (POOL, second): ONLINE,
        (POOL, "X"): OFFLINE,
        (LB, "lb"): DEGRADED,
    }


IDLE = load_balancer(listener("on"), listener("off", enabled=False), pool())


def test_an_amphora_that_serves_nothing_of_an_active_load_balancer_does_not_count_as_heard() -> None:
    verdict = roll_up(IDLE, decode(C_HEX, [KEY_C]))

    assert not verdict.counts_match
    assert verdict.statuses == {(LISTENER, "on"): ERROR, (LISTENER, "off"): OFFLINE, (POOL, "p"): OFFLINE}
    assert len(verdict.warnings) == 1
    assert "0 listener(s) of load balancer lb" in verdict.warnings[0]


@pytest.mark.parametrize("status", [status for status in Provisioning if status.pending])
def test_while_an_operation_runs_any_count_is_right_and_the_missing_is_only_offline(status: Provisioning) -> None:
    verdict = roll_up(attrs.evolve(IDLE, provisioning_status=status), decode(C_HEX, [KEY_C]))

    assert verdict.counts_match
    assert verdict.statuses[LISTENER, "on"] is OFFLINE
    assert verdict.warnings == ()


# -- the count ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reported", "enabled", "matches"), [(1, True, True), (0, True, False), (2, True, False), (2, False, True)]
)
def test_the_count_is_that_of_enabled_listeners_unless_the_load_balancer_is_disabled(
    reported: int, enabled: bool, matches: bool
) -> None:
    before = load_balancer(listener("on"), listener("off", enabled=False), enabled=enabled)
    said = dict.fromkeys(["on", "stranger"][:reported], "OPEN")

    assert roll_up(before, beat(said)).counts_match is matches


def test_a_listener_whose_last_wish_failed_may_be_reported_or_not() -> None:
    before = load_balancer(listener("good"), listener("bad", provisioning_status=Provisioning.ERROR))

    assert roll_up(before, beat({"good": "OPEN"})).counts_match
    assert roll_up(before, beat({"good": "OPEN", "bad": "OPEN"})).counts_match
    assert not roll_up(before, beat({})).counts_match
    assert not roll_up(before, beat(dict.fromkeys("abc", "OPEN"))).counts_match


@pytest.mark.parametrize(
    ("default_pool", "members", "reported"),
    [(None, [], 0), ("p", [], 0), ("p", [member(enabled=False)], 0), ("p", [member()], 1), ("gone", [member()], 0)],
)
def test_agents_of_the_versionless_form_leave_idle_udp_listeners_out(
    default_pool: str | None, members: list[Member], reported: int
) -> None:
    before = load_balancer(
        listener("u", protocol=ListenerProtocol.UDP, default_pool_id=default_pool), pool("p", ONLINE, *members)
    )

    for count in (0, 1):
        heartbeat = beat(dict.fromkeys(["u"][:count], "OPEN"), version=0)
        assert roll_up(before, heartbeat).counts_match is (count == reported)
        assert roll_up(before, attrs.evolve(heartbeat, version=2)).counts_match is (count == 1)


# -- words -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("word", "status"), [("OPEN", ONLINE), ("FULL", DEGRADED), ("STOP", None), ("open", None)])
def test_words_of_a_listener(word: str, status: Operating | None) -> None:
    verdict = roll_up(load_balancer(listener("l", DRAINING)), beat({"l": word}))

    assert verdict.statuses.get((LISTENER, "l")) is status
    assert verdict.statuses.get((LB, "lb")) is (DEGRADED if word == "FULL" else None)
    assert bool(verdict.warnings) is (status is None)


@pytest.mark.parametrize(
    ("word", "status", "above"), [("UP", ONLINE, ONLINE), ("DOWN", ERROR, ERROR), ("UP 1/2", None, ONLINE)]
)
@pytest.mark.parametrize("enabled", [True, False])
def test_words_of_a_pool(word: str, status: Operating | None, above: Operating, enabled: bool) -> None:
    verdict = roll_up(load_balancer(pool("p", DRAINING), enabled=enabled), beat({}, {"p:l": PoolReport(word)}))

    assert verdict.statuses.get((POOL, "p")) is status
    expected = above if enabled or above is ERROR else OFFLINE
    assert verdict.statuses.get((LB, "lb"), ONLINE) is expected


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("UP", ONLINE),
        ("UP 1/3", ONLINE),
        ("DOWN", ERROR),
        ("DOWN 2/3", ERROR),
        ("DOWN (agent)", ERROR),
        ("DRAIN", DRAINING),
        ("MAINT", OFFLINE),
        ("no check", NO_MONITOR),
        ("RESTARTING", None),
        ("MAINT (via x)", None),
        ("whatever", None),
        ("", None),
    ],
)
def test_words_of_a_member(word: str, status: Operating | None) -> None:
    for before in set(Operating) - {status}:
        verdict = roll_up(
            load_balancer(pool("p", ONLINE, member("m", before))), beat({}, {"p": PoolReport("UP", {"m": word})})
        )

        assert verdict.statuses.get((MEMBER, "m")) is status
        assert verdict.statuses.get((POOL, "p")) is (DEGRADED if status is ERROR else None)
        known = word == "RESTARTING" or status is not None
        assert bool(verdict.warnings) is not known


def test_a_pool_that_is_down_is_not_made_better_by_members_that_are_down_too() -> None:
    before = load_balancer(pool("p", ONLINE, member("m")))

    assert changes(before, beat({}, {"p": PoolReport("DOWN", {"m": "DOWN"})})) == {
        (MEMBER, "m"): ERROR,
        (POOL, "p"): ERROR,
        (LB, "lb"): ERROR,
    }


def test_a_pool_of_unknown_word_keeps_its_status_and_that_of_the_load_balancer() -> None:
    before = load_balancer(pool("p", ONLINE, member("m")))

    assert changes(before, beat({}, {"p": PoolReport("?", {"m": "DOWN"})})) == {(MEMBER, "m"): ERROR}


# -- the absent --------------------------------------------------------------------------------------------------------
def test_a_listener_in_error_does_not_degrade_its_load_balancer() -> None:
    assert changes(load_balancer(listener("l")), beat({})) == {(LISTENER, "l"): ERROR}


def test_a_member_that_is_not_reported_is_offline_unless_it_never_had_a_monitor() -> None:
    before = load_balancer(pool("p", ONLINE, member("m"), member("n", NO_MONITOR)))

    assert changes(before, beat({}, {"p": PoolReport("UP")})) == {(MEMBER, "m"): OFFLINE}


def test_of_two_reports_on_one_pool_the_last_counts() -> None:
    before = load_balancer(pool("p", ONLINE, member("m")))
    said = {"p:l1": PoolReport("DOWN", {"m": "DOWN"}), "p:l2": PoolReport("UP", {"m": "DRAIN"})}

    assert changes(before, beat({}, said)) == {(MEMBER, "m"): DRAINING}


def test_what_only_the_heartbeat_knows_is_ignored() -> None:
    said = beat({"stranger": "STOP"}, {"strange": PoolReport("DOWN", {"m": "DOWN"})})

    assert changes(load_balancer(), said) == {}


def test_a_warning_quotes_what_was_said_harmlessly() -> None:
    verdict = roll_up(load_balancer(listener("l")), beat({"l": "ST\nOP" + "x" * 1000}))

    assert verdict.warnings == (
        f"{'ST' + chr(10) + 'OP' + 'x' * 35!r} of listener l, which says nothing about its status",
    )


def test_the_tables_name_each_word_once() -> None:
    for words in (LISTENER_WORDS, POOL_WORDS, MEMBER_WORDS):
        assert len({rule.word for rule in words}) == len(words)
    assert {absence.kind for absence in ABSENT} == {LISTENER, POOL, MEMBER}


# -- heartbeats that name only a part ------------------------------------------------------------------------------------
def test_what_a_partial_heartbeat_leaves_out_stays_as_it_is() -> None:
    before = load_balancer(
        listener(),
        pool("p", ONLINE, member("m1"), member("m2"), member("m3", NO_MONITOR)),
        pool("q", ONLINE, member("n")),
    )
    part = attrs.evolve(beat({"l": "OPEN"}, {"p:l": PoolReport("UP", {"m1": "UP"})}), partial=True)

    assert changes(before, part) == {}
    assert changes(before, attrs.evolve(part, partial=False)) == {(MEMBER, "m2"): OFFLINE, (POOL, "q"): OFFLINE}


def test_what_a_partial_heartbeat_leaves_out_counts_above_it_as_it_is() -> None:
    part = attrs.evolve(beat({"l": "OPEN"}, {"p:l": PoolReport("UP", {"m1": "UP"})}), partial=True)

    down = load_balancer(listener(), pool("p", DEGRADED, member("m1"), member("m2", ERROR)), status=DEGRADED)
    assert changes(down, part) == {}
    elsewhere = load_balancer(listener(), pool("p", ONLINE, member("m1")), pool("q", ERROR, member("n", ERROR)))
    assert changes(elsewhere, part) == {(LB, "lb"): ERROR}
    idle = load_balancer(listener(), pool("p", ONLINE, member("m1")), pool("q", OFFLINE))
    assert changes(idle, part) == {}


def test_a_partial_heartbeat_names_all_listeners() -> None:
    verdict = roll_up(load_balancer(listener("l"), listener("k")), attrs.evolve(beat({"l": "OPEN"}), partial=True))

    assert not verdict.counts_match
    assert verdict.statuses[LISTENER, "k"] is ERROR
