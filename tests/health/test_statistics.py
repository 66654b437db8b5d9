"""Traffic, counted where the settings say: it only grows, nothing counts twice, and one place's trouble is its own.

One file, since each place that counts is held against the same heartbeats.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from octavia_core.controller.health import HealthManager
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.metrics import FIGURES, TRAFFIC
from octavia_core.controller.health.scrape import AT_ONCE
from octavia_core.controller.health.write import Pace, Writer
from octavia_core.controller.statistics import InDatabase, Statistics, Totals, places
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables.listener import listener_statistics
from octavia_core.domain.heartbeat import decode, encode
from octavia_core.errors import ConfigurationError, DriverNotFound, TransientError
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.hearts import TrafficDelta
from octavia_core.settings import Settings
from tests.health.rig import KEY, Rig, until
from tests.health.test_managers import Managed
from tests.heartbeat.vectors import DOCUMENT_A
from tests.support import servers
from tests.support.databases import ready_on
from tests.support.sockets import unread

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"


def delta(listener: str = "l", amphora: str = "a", **counters: Any) -> TrafficDelta:
    zero = dict.fromkeys(("bytes_in", "bytes_out", "active_connections", "total_connections", "request_errors"), 0)
    return TrafficDelta(listener_id=listener, amphora_id=amphora, **{**zero, **counters})


class Place:
    """A driver of a plugin; it fails when told to."""

    def __init__(self) -> None:
        self.got: list[TrafficDelta] = []
        self.broken, self.closed = False, False

    def store(self, batch: Sequence[TrafficDelta]) -> None:
        if self.broken:
            raise ZeroDivisionError("it is broken")
        self.got += batch

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, 2)
    yield made
    made.close()


def rows(storage: SqlStorage) -> list[Mapping[str, Any]]:
    """Of listeners that had traffic."""
    query = select(listener_statistics).where(listener_statistics.c.bytes_in > 0)
    return [row._mapping for row in storage.look(lambda tx: tx.rows(query))]


# -- several places ----------------------------------------------------------------------------------------------------
def test_a_place_that_fails_is_counted_and_the_others_get_theirs(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Place(), Place()
    bad.broken = True
    all_of_them = Statistics(rig.storage, {"database": InDatabase(), "bad": bad, "good": good})
    all_of_them.store([delta(bytes_in=5)])
    assert [row["bytes_in"] for row in rows(rig.storage)] == [5]
    assert [each.bytes_in for each in good.got] == [5]
    assert dict(all_of_them.failures) == {"bad": 1}
    assert "statistics driver bad did not count the traffic of 1 listeners: it is broken" in caplog.text
    bad.broken = False
    all_of_them.store([delta(bytes_in=1)])
    assert [each.bytes_in for each in bad.got] == [1], "what it did not take is not handed over again"
    all_of_them.close()
    assert good.closed


def test_while_the_database_is_away_nobody_counts_so_that_nothing_counts_twice(rig: Rig) -> None:
    class Away(SqlStorage):
        away = True

        def transaction(self, work: Any) -> Any:
            if self.away:
                raise TransientError("the database does not answer")
            return super().transaction(work)

    storage, place = Away.open(rig.settings), Place()
    rig.writer.statistics = Statistics(storage, {"database": InDatabase(), "place": place})
    try:
        rig.memory.keep([rig.beat(rig.ids[0], rx=7)], rig.clock.monotonic())
        for _ in range(3):
            with pytest.raises(TransientError):
                rig.written()
        assert place.got == []
        storage.away = False
        rig.written()
        assert [each.bytes_in for each in place.got] == [7]
        assert [row["bytes_in"] for row in rows(rig.storage)] == [7]
    finally:
        storage.close()


def refusing(storage: SqlStorage, *listeners: str) -> None:
    """From now on the database refuses the traffic of these, as one does that holds 36 characters of an id."""
    names = ", ".join(f"'{each}'" for each in listeners)
    storage.write(
        lambda tx: tx.write(
            text(
                "CREATE TRIGGER refusing BEFORE INSERT ON listener_statistics"
                f" WHEN NEW.listener_id IN ({names}) BEGIN SELECT RAISE(ABORT, 'it is too long'); END"
            )
        )
    )


def test_what_the_database_refuses_for_good_is_left_out_and_holds_up_nobody(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [f"l{number}" for number in (7, 8, 20, 21, 22, 23)]
    refusing(rig.storage, *bad)
    place = Place()
    both = Statistics(rig.storage, {"database": InDatabase(), "place": place})
    for turn in (1, 2):
        both.store([delta(f"l{number}", bytes_in=number + 1) for number in range(24)])
        counted = {row["listener_id"]: row["bytes_in"] for row in rows(rig.storage)}
        assert counted == {f"l{number}": turn * (number + 1) for number in range(24) if f"l{number}" not in bad}
        assert (both.refused, dict(both.failures)) == (6 * turn, {"database": turn})
    assert len(place.got) == 2 * (24 - 6)
    assert "traffic of listener 'l7' on amphora 'a' is left out" in caplog.text
    assert "traffic of 1 more listeners is left out" in caplog.text
    both.store([delta(bad[0], bytes_in=1)])
    assert both.refused == 13, "alone, too"


def test_while_one_that_is_refused_is_looked_for_nothing_counts_twice(rig: Rig) -> None:
    class Goes(SqlStorage):
        left = 3

        def transaction(self, work: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise TransientError("the database does not answer")
            return super().transaction(work)

    refusing(rig.storage, "l3")
    storage = Goes.open(rig.settings)
    try:
        counting = Statistics(storage, {"database": InDatabase()})
        batch = [delta(f"l{number}", bytes_in=1) for number in range(8)]
        with pytest.raises(TransientError):
            counting.store(batch)
        assert rows(rig.storage) == []
        storage.left = 100
        counting.store(batch)
        assert [row["bytes_in"] for row in rows(rig.storage)] == [1] * 7
    finally:
        storage.close()


@pytest.mark.external
@pytest.mark.parametrize("server", ["mariadb", "postgresql"])
def test_an_id_that_a_server_cannot_hold_is_left_out(server: str, tmp_path: Path) -> None:
    with ready_on(servers.server(server)) as url:
        here = Rig(tmp_path, 0, database=url)
        try:
            counting = Statistics(here.storage, {"database": InDatabase()})
            counting.store([delta("l", bytes_in=1), delta("x" * 200, bytes_in=1), delta("m", bytes_in=1)])
            assert sorted(row["listener_id"] for row in rows(here.storage)) == ["l", "m"]
            assert counting.refused == 1
        finally:
            here.close()


def test_without_stats_db_the_table_stays_as_it_is(rig: Rig) -> None:
    place = Place()
    Statistics(rig.storage, {"place": place}).store([delta(bytes_in=5)])
    assert rows(rig.storage) == []
    assert len(place.got) == 1


def test_upstreams_names_are_understood_and_who_is_unknown_is_named_with_what_there_is() -> None:
    def chosen(*names: str) -> list[str]:
        settings = Settings.load(("test", {"controller_worker": {"statistics_drivers": names}}))
        return list(places(settings, Plugins(installed=False)))

    assert chosen("stats_db", "stats_logger", "database") == ["database", "log"]
    with pytest.raises(DriverNotFound, match=r"no statistics driver named 'grafana'; installed: database .*prometheus"):
        chosen("stats_db", "grafana")


def test_a_plugin_offers_a_place_of_its_own() -> None:
    from octavia_core.hooks.specs import hookimpl

    place = Place()

    class Plugin:
        @hookimpl
        def octavia_statistics_drivers(self) -> Mapping[str, Any]:
            return {"mine": lambda settings: place}

    settings = Settings.load(("test", {"controller_worker": {"statistics_drivers": "mine"}}))
    assert places(settings, Plugins({"plugin": Plugin()}, installed=False)) == {"mine": place}


def test_the_log_has_a_line_for_each_listener(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.load(("test", {"controller_worker": {"statistics_drivers": "stats_logger"}}))
    log = Statistics(rig.storage, places(settings, Plugins(installed=False)))
    log.store([delta(bytes_in=1)])
    assert caplog.text == "", "nobody asked for it"
    caplog.set_level(logging.INFO, "octavia_core.statistics")
    log.store([delta(bytes_in=1, request_errors=2), delta("m", absolute=True)])
    first, second = caplog.messages
    assert first == (
        "listener=l amphora=a bytes_in=1 bytes_out=0 active_connections=0 total_connections=0 request_errors=2 "
        "counted=since the last line"
    )
    assert second.endswith("counted=in all")


# -- agents of older releases, which send totals -----------------------------------------------------------------------
class Old:
    """The listener of vector A's document as agents of older releases report it, heard by health managers on one database."""

    def __init__(self, rig: Rig, version: int | None, amphora: int = 0) -> None:
        self.rig, self.version, self.seq = rig, version, 1000
        self.document = json.loads(DOCUMENT_A)
        self.id = rig.ids[amphora]
        self.listener = rig.listeners[self.id]
        self.pools = self.document.pop("pools")
        self.writer, self.memory = rig.writer, rig.memory

    def another_manager(self) -> None:
        """The one before has ended, and remembers nothing."""
        rig = self.rig
        self.memory = Memory(2.0)
        self.writer = Writer(rig.storage, self.memory, rig.wall, "there", Pace(traffic=0.0, timeout=60.0))

    def says(self, totconns: int, *, tx: int | None = None, after: float = 10.0) -> int:
        """One heartbeat, and the connections that the row has then."""
        stats = {"tx": 10 * totconns if tx is None else tx, "rx": totconns, "conns": 1, "totconns": totconns, "ereq": 0}
        report: dict[str, Any] = {"status": "OPEN", "stats": stats}
        said: dict[str, Any] = {"id": self.id, "listeners": {self.listener: report}}
        if self.version is None:
            report["pools"] = {key.partition(":")[0]: pool for key, pool in self.pools.items()}
        else:
            said |= {"seq": self.seq, "pools": self.pools, "ver": self.version}
        self.seq += 1
        self.rig.clock.advance(after)
        self.memory.keep([decode(encode(said, KEY), [KEY])], self.rig.clock.monotonic())
        return self.row("total_connections")

    def row(self, name: str) -> int:
        self.writer.flush(self.rig.clock, last=True)
        self.writer.count()
        (row,) = [each for each in rows(self.rig.storage) if each["listener_id"] == self.listener]
        return int(row[name])


@pytest.mark.parametrize("version", [None, 2])
def test_totals_that_fall_since_haproxy_began_anew_go_on_from_what_it_had(rig: Rig, version: int | None) -> None:
    old = Old(rig, version)
    assert [old.says(number) for number in (41, 41, 50)] == [41, 41, 50]
    certain = version == 2
    found = [old.says(number) for number in (3, 5, 5, 6, 7, 8, 9, 10)]
    if certain:
        assert found == [53, 55, 55, 56, 57, 58, 59, 60]
    else:  # nothing but time tells it from what was recorded
        assert found == [50] * 6 + [59, 60]
    assert old.says(20) == 70
    assert old.row("bytes_out") >= 700


def test_totals_of_one_listener_fall_together_though_one_of_them_is_higher(rig: Rig) -> None:
    old = Old(rig, 2)
    old.says(10, tx=500)
    assert old.says(12, tx=3) == 22
    assert old.row("bytes_out") == 503


def test_totals_that_are_played_back_count_nothing(rig: Rig) -> None:
    for amphora, version in enumerate((None, 2)):
        old = Old(rig, version, amphora)
        recorded = [old.says(number) for number in range(100, 120)]
        assert recorded == list(range(100, 120))
        seq = old.seq
        for _ in range(3):
            old.seq = 1000
            for number in range(100, 119):
                assert old.says(number, after=0.1) == 119
        old.seq = seq
        assert [old.says(number) for number in (119, 125)] == [119, 125]


def test_totals_go_on_from_their_rows_when_another_health_manager_hears_them(rig: Rig) -> None:
    old = Old(rig, 2)
    assert [old.says(number) for number in (100, 5)] == [100, 105]
    old.another_manager()
    assert old.says(9) == 105, "what came while nobody listened cannot be known"
    assert [old.says(number) for number in (19, 2)] == [115, 117]
    old.another_manager()
    assert old.says(200) == 200, "nothing has fallen, so this is all that there was"


def test_two_health_managers_that_hear_totals_in_turn_count_them_once(rig: Rig) -> None:
    old = Old(rig, 2)
    first = (old.writer, old.memory)
    old.says(10)
    old.another_manager()
    second = (old.writer, old.memory)
    for number in (20, 30, 40, 3, 4, 15):
        old.writer, old.memory = first if number % 20 else second
        assert old.says(number) >= number
    assert 40 <= old.row("total_connections") <= 55


# -- totals ------------------------------------------------------------------------------------------------------------
COUNTERS = ("bytes_in", "bytes_out", "total_connections", "request_errors")
deltas = st.builds(
    delta,
    listener=st.sampled_from("lm"),
    amphora=st.sampled_from("abc"),
    absolute=st.booleans(),
    **{name: st.integers(0, 9) for name in (*COUNTERS, "active_connections")},
)


@given(st.lists(st.lists(deltas, max_size=4), max_size=8), st.sets(st.sampled_from("abc")))
def test_totals_only_grow_whoever_counts_and_whoever_is_replaced(
    batches: list[list[TrafficDelta]], gone: set[str]
) -> None:
    totals = Totals(lambda: 0.0)
    before: Mapping[str, Any] = {}
    for batch in batches:
        totals.store(batch)
        now, _ = totals.taken({"a", "b", "c"} - gone)
        for listener, total in before.items():
            for name in COUNTERS:
                assert getattr(now[listener], name) >= getattr(total, name)
        before = now
    added = [each for batch in batches for each in batch if each.listener_id == "l"]
    if added and not any(each.absolute for each in added):
        assert before["l"].bytes_in == sum(each.bytes_in for each in added)


def test_totals_of_old_agents_count_from_the_first_and_a_smaller_one_is_a_restart() -> None:
    totals = Totals(lambda: 0.0)
    for number in (100, 130, 20, 25):
        totals.store([delta(bytes_in=number, absolute=True)])
    assert totals.taken(None)[0]["l"].bytes_in == 30 + 20 + 5


def test_open_connections_are_those_of_amphorae_that_live_and_idle_listeners_are_forgotten() -> None:
    now = 0.0
    totals = Totals(lambda: now)
    totals.store([delta(amphora="a", active_connections=3), delta(amphora="b", active_connections=4)])
    assert totals.taken(None)[1] == {"l": 7}
    assert totals.taken({"b"})[1] == {"l": 4}
    now = 90_000.0
    assert totals.taken({"b"}) == ({}, {})


# -- what Prometheus reads ---------------------------------------------------------------------------------------------
def read(health: HealthManager) -> dict[tuple[str, str], float]:
    """(name, label) -> value, as Prometheus's own parser reads it."""
    from prometheus_client.parser import text_string_to_metric_families

    assert health.metrics is not None
    with urlopen(f"http://127.0.0.1:{health.metrics.port}/metrics", timeout=10) as page:
        text = page.read().decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(one.name, next(iter(one.labels.values()), "")): one.value for one in samples}


def test_connections_that_say_nothing_take_up_neither_threads_nor_the_place_of_who_asks(tmp_path: Path) -> None:
    here = Managed(tmp_path, {}, metrics_address="127.0.0.1:0")
    try:
        assert here.health.metrics is not None
        before = threading.active_count()
        with contextlib.ExitStack() as strangers:
            for _ in range(100):
                address = ("127.0.0.1", int(here.health.metrics.port or 0))
                strangers.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(20):
                assert read(here.health)
            until(lambda: threading.active_count() <= before + AT_ONCE)
    finally:
        here.close()


def test_prometheus_reads_figures_and_traffic_and_a_replay_counts_once(tmp_path: Path) -> None:
    here = Managed(
        tmp_path,
        {"statistics_drivers": "stats_db, prometheus"},
        metrics_address="127.0.0.1:0",
        heartbeat_timeout=1.0,
        health_check_interval=0.1,
        heartbeat_interval=0.2,
    )
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in here.datagrams():
                for _ in range(3):
                    sender.sendto(datagram, ("127.0.0.1", here.port))
            sender.sendto(b"nonsense" * 20, ("127.0.0.1", here.port))
        counted = ("octavia_listener_bytes_in_total", here.listeners()[0])

        def counts() -> bool:
            here.beat()
            until(lambda: here.health.counters["accepted"] == 6 * here.sequence)  # none is lost in a full socket
            return read(here.health).get(counted, 0) >= 2

        until(counts)
        until(lambda: read(here.health).get(("octavia_health_amphorae", "watched")) == 6)
        found = read(here.health)
        assert found["octavia_health_listening", ""] == 1
        assert found["octavia_health_datagrams_total", "repeated"] == 12
        assert found["octavia_health_datagrams_total", "bad_digest"] == 1
        assert found["octavia_listener_active_connections", here.listeners()[0]] == 0
        here.health.stop()
        table = {row["listener_id"]: row["bytes_in"] for row in rows(here.storage)}
        assert set(table.values()) == {here.sequence}, "each heartbeat once"
    finally:
        here.close()


@pytest.mark.parametrize("processes", [0, 1], ids=["here", "a process"])
def test_a_recorded_row_that_is_sent_again_in_order_adds_nothing_to_the_table(tmp_path: Path, processes: int) -> None:
    here = Managed(tmp_path, processes=processes)
    try:
        recorded = [here.datagrams() for _ in range(30)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", here.port))

            def played(turns: Sequence[Sequence[bytes]]) -> None:
                for datagrams in turns:
                    for datagram in datagrams:
                        sender.send(datagram)
                    # what does not fit into the socket's buffer is dropped by the kernel
                    until(lambda: sum(unread("127.0.0.1", here.port)) < 10_000)

            def told() -> int:
                counters = here.health.counters
                return sum(counters[name] for name in ("accepted", "repeated", "replayed", "recorded"))

            for turn in recorded:  # as agents send them; what comes in one moment is put together
                before = told()
                played([turn])
                until(lambda before=before: told() == before + 6)  # type: ignore[misc]
            for _ in range(3):
                before = told()
                played(recorded)
                until(lambda before=before: told() >= before + 6)  # type: ignore[misc]
            played([here.datagrams()])
            until(lambda: here.health.counters["accepted"] >= 6 * 31)
        here.health.stop()
        assert {row["bytes_in"] for row in rows(here.storage)} == {31}
    finally:
        here.close()


def test_without_an_address_nothing_is_served(tmp_path: Path) -> None:
    here = Managed(tmp_path)
    try:
        assert here.health.metrics is None
    finally:
        here.close()


def test_every_name_is_on_the_page(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for figure in (*FIGURES, *TRAFFIC):
        name = figure.name + ("_total" if figure.kind == "counter" else "")
        label = f"`{figure.label}`" if figure.label else ""
        assert f"| `{name}` | {figure.kind} | {label} | {figure.words} |".replace("|  |", "| |") in page


@pytest.mark.parametrize(
    ("worker", "health", "words"),
    [
        ({"statistics_drivers": "prometheus"}, {}, "which can read it nowhere: set"),
        ({}, {"metrics_address": "9109"}, "must be host:port"),
        ({}, {"metrics_address": "::1:9109"}, "must be host:port"),
        ({}, {"metrics_address": "127.0.0.1:99999"}, "there is no port 99999"),
        ({}, {"metrics_address": "192.0.2.1:0"}, "cannot be served"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    tmp_path: Path, worker: dict[str, Any], health: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Managed(tmp_path, worker, **health)


def test_an_address_that_is_taken_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"metrics_address 127.0.0.1:{port} cannot be served: Address"):
            Managed(tmp_path, {}, metrics_address=f"127.0.0.1:{port}")


def test_figures_are_shown_while_the_database_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(once: object) -> None:
        raise TransientError("the database does not answer")

    here = Managed(tmp_path, {}, metrics_address="127.0.0.1:0", health_check_interval=0.1, heartbeat_interval=0.2)
    try:
        until(lambda: ("octavia_health_amphorae", "watched") in read(here.health))
        monkeypatch.setattr(here.storage, "_run", away)
        until(lambda: read(here.health)["octavia_health_listening", ""] == 0)
        assert read(here.health)["octavia_health_amphorae", "watched"] == 6
    finally:
        monkeypatch.undo()
        here.close()
