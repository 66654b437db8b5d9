"""Proven deaths: judged at once, together where they come together, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from octavia_core.controller.health.deaths import Deaths
from octavia_core.errors import TransientError
from octavia_core.ports.compute import Death
from tests.health.rig import until

Make = Callable[..., Deaths]


def death(server: str) -> Death:
    return Death(server_id=server, at=0.0, evidence=f"{server} ended")


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Deaths] = []

    def do(judge: Callable[[Mapping[str, str]], None], again: float = 0.01) -> Deaths:
        made.append(Deaths(judge, again))
        return made[0]

    yield do
    for each in made:
        each.stop()


def test_what_arrives_while_one_is_judged_is_judged_together_next(make: Make) -> None:
    batches: list[Mapping[str, str]] = []
    first, go = threading.Event(), threading.Event()

    def judge(some: Mapping[str, str]) -> None:
        batches.append(some)
        first.set()
        assert go.wait(30)

    deaths = make(judge)
    deaths.start()
    deaths.tell(death("a"))
    assert first.wait(30)
    for server in "bcdb":
        deaths.tell(death(server))
    assert deaths.open == 4, "one is being judged, three wait"
    go.set()
    until(lambda: not deaths.open)
    assert [sorted(batch) for batch in batches] == [["a"], ["b", "c", "d"]]


def test_while_the_database_is_away_deaths_are_kept_and_tried_again(make: Make) -> None:
    judged: list[Mapping[str, str]] = []
    away = threading.Event()
    away.set()
    tried = threading.Semaphore(0)

    def judge(some: Mapping[str, str]) -> None:
        tried.release()
        if away.is_set():
            raise TransientError("the database does not answer")
        judged.append(some)

    deaths = make(judge)
    deaths.start()
    deaths.tell(death("a"))
    for _ in range(3):
        assert tried.acquire(timeout=30)
    deaths.tell(death("b"))
    assert deaths.open
    away.clear()
    until(lambda: not deaths.open)
    assert {server for some in judged for server in some} == {"a", "b"}


def test_a_mistake_in_judging_ends_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    judged: list[str] = []

    def judge(some: Mapping[str, str]) -> None:
        if not judged:
            judged.append("mistake")
            raise ZeroDivisionError
        judged.extend(some)

    deaths = make(judge)
    deaths.tell(death("a"))
    deaths.start()
    until(lambda: not deaths.open)
    assert judged == ["mistake", "a"]
    assert "1 servers were not judged" in caplog.text


def test_who_stops_judges_what_is_known_first(make: Make) -> None:
    judged: list[str] = []
    deaths = make(judged.extend)
    for server in "abc":
        deaths.tell(death(server))
    deaths.start()
    deaths.stop()
    assert sorted(judged) == ["a", "b", "c"]
