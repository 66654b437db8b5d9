"""Outages in virtual time: what the governor does with given settings, and that it is told without a machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.errors import BadRequest
from octavia_core.settings import Engine, HealthManager, Settings
from octavia_core.testing.outages import SCENARIOS, Outage, Shape, generated, recorded
from octavia_core.testing.rehearsal import Report, rehearse
from tests.cli.conftest import Admin

MINUTE = 60.0


def settings(threshold: int | None = None, rate: float = 600.0) -> Settings:
    return Settings(
        health_manager=HealthManager(failover_threshold=threshold), engine=Engine(failovers_per_minute=rate)
    )


def run(name: str, *, with_: Settings | None = None, **shape: Any) -> Report:
    made = Shape(**shape)
    return rehearse(with_ or settings(), generated(name, made), made, scenario=name)


def rules(report: Report) -> set[str]:
    return {entry.rule for entry in report.timeline}


def test_a_host_that_dies_is_rebuilt_by_the_rate_and_nothing_else_is_touched() -> None:
    report = run("host-dies", amphorae=10_000)
    assert (report.dead, report.failed_over, report.wrong, report.unreplaced) == (500, 500, 0, 0)
    assert report.last_started is not None
    assert report.last_started <= 90, "a timeout, and a moment"


def test_a_replacement_that_would_serve_after_the_end_served_never() -> None:
    report = run("host-dies", duration=300.0, boot=1000.0)
    assert report.last_started is not None
    assert report.last_rebuilt is None


def test_a_zone_that_dies_is_rebuilt_and_the_tokens_stretch_it() -> None:
    quick, slow = run("zone-dies"), run("zone-dies", with_=settings(rate=60))
    assert (quick.wrong, quick.unreplaced) == (slow.wrong, slow.unreplaced) == (0, 0)
    assert quick.last_started is not None
    assert slow.last_started is not None
    assert slow.last_started > quick.last_started
    assert "rate" in rules(slow)


@pytest.mark.parametrize("receivers", [1, 2, 3])
def test_a_deaf_receiver_costs_nobody(receivers: int) -> None:
    assert run("receiver-deaf", receivers=receivers, amphorae=600).failed_over == 0


@pytest.mark.parametrize("lasts", [70.0, 10 * MINUTE, 10_000.0])
def test_ten_thousand_that_are_cut_off_from_everybody_are_left_alone_however_long(lasts: float) -> None:
    report = run("everything-silent", amphorae=10_000, lasts=lasts)
    assert (report.failed_over, rules(report)) == (0, {"doubt"})


def test_a_database_that_is_away_for_ten_minutes_costs_nobody() -> None:
    assert run("database-away", amphorae=2000).failed_over == 0


def test_slow_heartbeats_cost_nobody_while_agents_answer() -> None:
    report = run("slow-heartbeats", amphorae=600)
    assert (report.failed_over, rules(report)) == (0, {"doubt"})


@pytest.mark.parametrize(("share", "threshold", "wrong"), [(0.4, None, True), (0.4, 50, False), (0.6, None, False)])
def test_a_partition_of_the_smaller_part_looks_like_deaths_unless_there_is_a_threshold(
    share: float, threshold: int | None, wrong: bool
) -> None:
    report = run("partition", with_=settings(threshold), share=share)
    assert (report.wrong > 0) is wrong
    assert report.failed_over == report.wrong


def test_proof_needs_no_timeout() -> None:
    report = run("host-dies", proof=True)
    assert rules(report) == {"proof"}
    assert report.last_started is not None
    assert report.last_started <= 6


def test_a_threshold_stops_what_would_have_been_right_too() -> None:
    report = run("host-dies", with_=settings(threshold=10))
    assert (report.failed_over, report.unreplaced, rules(report)) == (0, 50, {"threshold"})


@given(
    name=st.sampled_from(sorted(SCENARIOS)),
    amphorae=st.integers(1, 60),
    hosts=st.integers(1, 12),
    zones=st.integers(1, 4),
    receivers=st.integers(1, 4),
    lasts=st.sampled_from([1.0, 45.0, 61.0, 200.0, 2000.0]),
    proof=st.booleans(),
)
def test_every_rehearsal_adds_up(name: str, proof: bool, lasts: float, **shape: int) -> None:
    report = run(name, lasts=lasts, proof=proof, duration=600.0, **shape)
    assert report.failed_over - report.wrong + report.unreplaced == report.dead
    started = [entry for entry in report.timeline if entry.act == "failed over"]
    assert sum(entry.amphorae for entry in started) == report.failed_over
    assert sum(entry.wrong for entry in started) == report.wrong
    assert all(0 <= entry.begin <= entry.end <= 600 + 3 for entry in report.timeline)
    doubts = shape["amphorae"] >= 5 or shape["receivers"] > 1  # self-doubt needs somebody to compare with
    if name == "database-away" or (name == "receiver-deaf" and doubts):
        assert report.failed_over == 0


# -- recorded ----------------------------------------------------------------------------------------------------------
def line(name: str, at: float, amphora: str | None = None, **data: Any) -> str:
    return json.dumps({"name": name, "at": int(at * 1_000_000), "amphora_id": amphora, "data": data, "text": "x"})


def test_a_recorded_outage_is_what_the_events_tell() -> None:
    lines = [
        line("amphora.allocated", 900, "a"),
        line("amphora.lost", 1000, "a", rule="domain", host="rack-1", zone="west"),
        line("amphora.lost", 1001, "b", rule="proof", evidence="process 7 ended", host="rack-2"),
        "",
        line("amphora.lost", 1200, "c", rule="in-vain"),
        line("failover.held", 1300, rule="doubt", amphorae=900, evidence="deaf"),
        line("failover.resumed", 1400, rule="doubt"),
    ]
    shape = Shape(amphorae=1000)
    outage = recorded(lines, shape, 60.0)
    a, b, c = (outage.troubles[number] for number in range(3))
    assert (a.dead, a.begin, outage.places[0].host, outage.places[0].zone) == (True, 60.0, "rack-1", "west")
    assert (b.dead, b.begin, b.proof) == (True, 121.0, "process 7 ended")
    assert (c.dead, c.agent) == (False, True)
    assert sum(not one.dead and not one.agent for one in outage.troubles.values()) == 900 - 1, "c was silent then, too"
    report = rehearse(settings(), outage, shape)
    assert (report.dead, report.unreplaced) == (2, 0)
    assert "doubt" in rules(report)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "tell of no silence"),
        ([line("operation.accepted", 5)], "tell of no silence"),
        (["{}"], "line 1 is no event"),
        ([line("amphora.lost", 1, "a"), "no json"], "line 2 is no event"),
        (["[" * 100_000], "line 1 is no event"),
        (['{"name": "amphora.lost", "at": 1e999}'], "line 1 is no event"),
    ],
)
def test_what_is_no_recording_is_refused_in_a_sentence(lines: list[str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        recorded(lines, Shape(), 60.0)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"duration": 1e9}, "a week at most"),
        ({"amphorae": 1_000_000, "duration": 604_800.0}, "1,000,000 amphorae send .* fewer --amphorae"),
    ],
)
def test_what_would_take_hours_is_refused_at_once(shape: dict[str, float], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        run("everything-silent", **shape)


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command_says_by_its_exit_code_whether_healthy_amphorae_were_failed_over(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    shape = ("--amphorae", "200", "--duration", "400")
    assert "failovers of healthy amphorae: 0" in admin.inside("simulate", "host-dies", *shape).out
    report = admin.inside("simulate", "partition", "--share", "0.3", *shape, "--json", code=1).data
    assert report["wrong"] == report["failed_over"] == 60
    assert report["settings"]["heartbeat_timeout"] == 1.0, "the settings of the state directory"


def test_the_command_reads_settings_of_a_cloud(admin: Admin, tmp_path: Path) -> None:
    conf = tmp_path / "cloud.toml"
    conf.write_text("[health_manager]\nfailover_threshold = 20\n")
    report = admin.inside("simulate", "partition", "--share", "0.3", "--config-file", str(conf), "--json").data
    assert (report["failed_over"], report["settings"]["failover_threshold"]) == (0, 20)


def test_events_of_a_database_can_be_rehearsed(admin: Admin, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(line("amphora.lost", 5 + n, str(n), rule="silence", host="h") for n in range(4)))
    admin.inside("db", "upgrade")
    assert admin.inside("simulate", "--from-events", str(file), "--json").data["failed_over"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["earthquake"], "there is no scenario 'earthquake'; there are: host-dies"),
        ([], "name a scenario"),
        (["host-dies", "--from-events", "x"], "not both"),
        (["--from-events", "/nonexistent"], "cannot read /nonexistent"),
        (["host-dies", "--amphorae", "0"], "1 to 1,000,000 amphorae"),
        (["host-dies", "--amphorae", "1000001"], "1 to 1,000,000 amphorae"),
        (["partition", "--hosts", "1000000000", "--amphorae", "10"], "1 to 1,000,000 hosts"),
        (["zone-dies", "--zones", "99999999999"], "1 to 1,000,000 zones"),
        (["receiver-deaf", "--receivers", "1000000000"], "1 to 1,000 receivers"),
        (["everything-silent", "--lasts", "inf"], "less than a year"),
        (["host-dies", "--duration", "nan"], "must begin before"),
        (["host-dies", "--duration", "inf"], "a week at most"),
        (["partition", "--share", "2"], "between 0 and 1"),
        (["slow-heartbeats", "--slow", "6.1"], "should be a valid integer"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_in_a_sentence(admin: Admin, arguments: list[str], words: str) -> None:
    admin.inside("db", "upgrade")
    assert words in admin.inside("simulate", *arguments, code=2).err


def test_the_same_rehearsal_gives_the_same_report() -> None:
    make: Callable[[], Outage] = lambda: generated("zone-dies", Shape(amphorae=300))  # noqa: E731
    first, second = (rehearse(settings(), make(), Shape(amphorae=300)) for _ in range(2))
    assert first == second
