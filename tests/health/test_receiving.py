"""Datagrams, from the socket to what a look and a batch find in memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.controller.health import memory as memory_of
from octavia_core.controller.health.memory import TRIAL, Memory
from octavia_core.controller.health.order import KEPT
from octavia_core.controller.health.receive import BATCH, WAITED, Receiver, bind_receiver
from octavia_core.domain.heartbeat import Heartbeat, decode, encode
from octavia_core.errors import ConfigurationError
from octavia_core.settings import HealthManager, Settings
from tests.health.rig import due, until_stamped


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, socket.socket]]:
    bound = bind_receiver(Settings(health_manager=HealthManager(bind_port=0, sock_rlimit=8192)))
    with bound, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(bound.getsockname())
        yield Receiver(bound), sender


@pytest.mark.parametrize(
    ("ip", "port"),
    [("127.0.0.1", 70000), ("127.0.0.1", -1), ("192.0.2.1", 0), ("a..b", 0), ("\0", 0)],
)
def test_an_address_that_cannot_be_had_is_named_in_a_sentence(ip: str, port: int) -> None:
    with pytest.raises(ConfigurationError, match=r"heartbeats cannot be received on .* bind_ip and bind_port"):
        bind_receiver(Settings(health_manager=HealthManager(bind_ip=ip, bind_port=port)))


def test_what_is_there_is_taken_at_once_without_waiting_for_more(receiver: tuple[Receiver, socket.socket]) -> None:
    here, sender = receiver
    for n in range(5):
        sender.send(b"%d" % n)
    assert here.batch() == [b"0", b"1", b"2", b"3", b"4"]
    sender.send(b"next")
    assert here.batch() == [b"next"], "one alone is not kept back"
    assert BATCH > 5


def test_what_waited_in_the_socket_came_when_the_kernel_had_it(receiver: tuple[Receiver, socket.socket]) -> None:
    here, sender = receiver
    until_stamped(here, sender)
    began = time.monotonic()
    sender.send(b"1")
    sent = time.monotonic()
    time.sleep(1.5 * WAITED)
    sender.send(b"2")
    assert here.batch() == [b"1", b"2"]
    first, *more = here.late
    assert began - WAITED / 2 < first < sent + WAITED / 2
    assert all(at > sent + WAITED for at in more), "not late, unless this process stood still once more"
    sender.send(b"3")
    assert (here.batch(), here.late) == ([b"3"], [])


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_nothing_came_earlier_than_the_socket_was_empty_whatever_the_clock_is_set_to(
    receiver: tuple[Receiver, socket.socket], monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    here, sender = receiver
    sender.send(b"1")
    looked, clock = time.monotonic(), time.time
    here.batch()
    monkeypatch.setattr(time, "time", lambda: clock() + step)
    sender.send(b"2")
    here.batch()
    assert [at >= looked for at in here.late] == ([True] if step > 0 else [])


def test_what_the_kernel_dropped_is_counted_once(receiver: tuple[Receiver, socket.socket]) -> None:
    here, sender = receiver
    assert here.dropped() == 0
    for _ in range(200):
        sender.send(bytes(1000))
    taken = 0
    while batch := here.batch():
        taken += len(batch)
    assert here.dropped() == 200 - taken > 0
    assert here.dropped() == 0


def test_a_socket_that_was_closed_is_an_error(receiver: tuple[Receiver, socket.socket]) -> None:
    here, _ = receiver
    here.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        here.batch()


def beat(seq: int, status: str = "OPEN", ver: int = 3, **stats: int) -> Heartbeat:
    listeners = {"l": {"status": status, "stats": stats}}
    return decode(encode({"id": "a", "seq": seq, "ver": ver, "listeners": listeners, "pools": {}}, "k"), ["k"])


class Book(Memory):
    """What it hands out to be written is added up."""

    bytes_in = 0

    def counted(self, now: float) -> int:
        """Bytes in all that were to be written by then."""
        self.bytes_in += sum(delta.bytes_in for delta in due(self, now))
        return self.bytes_in


def applied(memory: Memory, now: float) -> None:
    batch = memory.take(now, traffic=0.0)
    memory.written(batch, dict.fromkeys(batch.beats, True), now)


def test_only_a_changed_report_is_held_against_the_rows_until_it_is_time_again() -> None:
    memory = Memory(reapply=10.0)
    assert memory.keep([beat(1)], 100.0)
    applied(memory, 100.0)
    assert not memory.keep([beat(2)], 101.0)
    assert set(memory.take(101.0, traffic=0.0).steady) == {"a"}
    assert memory.keep([beat(3, "FULL")], 102.0)
    assert memory.take(102.0, traffic=0.0).beats["a"].heartbeat.listeners["l"].status == "FULL"
    memory.keep([beat(4)], 111.0)
    assert set(memory.take(111.0, traffic=0.0).beats) == {"a"}


def test_an_exact_repeat_counts_once_and_a_restarted_sequence_counts() -> None:
    memory = Book(reapply=10.0)
    memory.keep([beat(7, rx=5), beat(7, rx=5), beat(0, rx=1)], 1.0)
    assert memory.counters == {"accepted": 2, "repeated": 1}
    assert memory.counted(1.0) == 5
    assert memory.counted(1.0 + TRIAL) == 6


def heard(memory: Memory, seq: int, now: float) -> bool:
    """Whether that heartbeat counts as one of now."""
    memory.keep([beat(seq)], now)
    return memory.heard_at("a") == now


def test_what_was_recorded_and_is_played_back_keeps_nobody_alive() -> None:
    memory = Memory(reapply=1000.0)
    assert all(heard(memory, seq, float(seq)) for seq in range(100))
    times = iter(range(1000, 2000))
    for seq in (99, 98, 92, 91, 90, 50):
        assert not any(heard(memory, seq, float(next(times))) for _ in range(20)), seq
    assert memory.counters["repeated"] + memory.counters["replayed"] == 120
    assert heard(memory, 100, 2000.0), "and what is real counts at once"


def test_an_agent_that_was_restarted_counts_at_once_and_its_recorded_beginning_but_once() -> None:
    memory = Memory(reapply=1000.0)
    for seq in range(100):
        heard(memory, seq, float(seq))
    assert all(heard(memory, seq, 200.0 + seq) for seq in range(3)), "its first ones say what nobody has said lately"
    assert not any(heard(memory, 2, 300.0 + n) for n in range(20))
    assert heard(memory, 3, 400.0)


def test_an_agent_that_is_restarted_again_and_again_with_the_same_words_counts_from_its_second_heartbeat_on() -> None:
    memory = Memory(reapply=1000.0)
    counted = [[heard(memory, seq, 100.0 * start + seq) for seq in range(4)] for start in range(5)]
    assert all(all(each[1:]) for each in counted)
    assert counted[1] == [False, True, True, True]


def test_an_agent_whose_first_heartbeats_after_its_restart_were_lost_counts_from_the_second_that_comes() -> None:
    memory = Memory(reapply=1000.0)
    for seq in range(1000, 1020):
        heard(memory, seq, float(seq))
    counted = [heard(memory, seq, 2000.0 + n) for n, seq in enumerate((30, 31, 33, 32, 40))]
    assert counted == [False, True, True, True, True]


# -- a recorded row, played back in order ------------------------------------------------------------------------------
def row(numbers: Iterable[int], **stats: int) -> list[Heartbeat]:
    """Of one process: each says other numbers."""
    return [beat(seq, rx=1000 + seq, **stats) for seq in numbers]


def traffic_of(numbers: Iterable[int]) -> int:
    return sum(1000 + seq for seq in numbers)


@pytest.mark.parametrize("length", [2, 7, 20, KEPT, 3 * KEPT])
@pytest.mark.parametrize("begin", [0, 1, 500])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_row_that_is_played_back_in_order_counts_once(length: int, begin: int, goes_on: bool) -> None:
    memory, numbers = Book(reapply=1000.0), range(begin, begin + length)
    for now, each in enumerate(row(numbers)):
        memory.keep([each], 10.0 * now)
    end = 10.0 * length
    assert memory.counted(end) == traffic_of(numbers)
    for turn in range(3):  # somebody plays it, in a second
        for each in row(numbers):
            memory.keep([each], end + 10 * turn)
        memory.counted(end + 10 * turn)
        if goes_on:
            memory.keep(row([begin + length + turn]), end + 10 * turn + 9)
    more = range(begin, begin + length + (3 if goes_on else 0))
    assert memory.counted(end + 10 * TRIAL) == traffic_of(more)
    assert memory.counters["replayed"] + memory.counters["recorded"] >= 3


@pytest.mark.parametrize("begin", [0, 3, 30])
def test_a_row_of_a_process_that_has_long_ended_counts_nothing_while_the_agent_goes_on(begin: int) -> None:
    memory, old = Book(reapply=1000.0), range(begin, begin + 100)
    for each in row(range(200)):
        memory.keep([each], 0.0)
    for seq in range(1000):  # its agent is restarted, and nothing of the row is recognised any more
        memory.keep([beat(seq, rx=1)], 1000.0 + seq)
    before = memory.counted(3000.0)
    assert before == traffic_of(range(200)) + 1000
    for number, each in enumerate(row(old)):  # as slowly as it was recorded
        memory.keep([each], 4000.0 + 10 * number)
        memory.keep([beat(1000 + number, rx=1)], 4001.0 + 10 * number)
    assert memory.counted(9000.0) == before + 100


def test_an_agent_that_is_restarted_counts_with_all_that_it_says() -> None:
    memory = Book(reapply=1000.0)
    memory.keep(row(range(100)), 0.0)
    assert memory.counted(1.0) == traffic_of(range(100))
    for seq in range(20):  # HAProxy goes on, or begins anew: differences are differences
        memory.keep([beat(seq, rx=7)], 100.0 + 10 * seq)
    assert memory.counted(300.0) == traffic_of(range(100)) + 20 * 7


def test_what_is_laid_apart_is_kept_though_listeners_come_and_go() -> None:
    def of(seq: int, *listeners: str) -> Heartbeat:
        reports = {each: {"status": "OPEN", "stats": {"rx": 1}} for each in listeners}
        return decode(encode({"id": "a", "seq": seq, "ver": 3, "listeners": reports}, "k"), ["k"])

    memory = Book(reapply=1000.0)
    memory.keep([of(50, "l", "m")], 0.0)
    memory.keep([of(0, "l"), of(1, "l", "m"), of(2, "m"), of(3, "n")], 1.0)
    assert memory.counted(2.0) == 2
    assert memory.counted(1.0 + TRIAL) == 2 + 5


def test_a_gap_of_numbers_is_no_other_process_and_a_short_life_loses_nothing() -> None:
    memory = Book(reapply=1000.0)
    for start in range(5):  # each lives for four heartbeats, and says other numbers than the one before
        memory.keep([beat(seq, rx=10 * start + 1) for seq in range(4)], 100.0 * start)
    assert memory.counted(1000.0) == sum(4 * (10 * start + 1) for start in range(5))
    memory.keep([beat(2000, rx=5), beat(3000, rx=5)], 1001.0)
    assert memory.counted(1002.0) == sum(4 * (10 * start + 1) for start in range(5)) + 10


def test_what_was_recorded_changes_no_status_but_may_keep_alive() -> None:
    memory = Memory(reapply=1000.0)
    memory.keep([beat(seq, "FULL", rx=1) for seq in range(10)], 0.0)
    memory.keep([beat(10, rx=1)], 1.0)
    applied(memory, 1.0)
    memory.keep([beat(seq, "FULL", rx=1) for seq in range(10)], 5.0)
    latest = memory.latest("a")
    assert latest is not None
    assert latest.heartbeat.listeners["l"].status == "OPEN"
    assert memory.heard_at("a") == 5.0
    assert memory.take(5.0, traffic=0.0).beats == {}


@given(st.lists(st.integers(0, 30) | st.integers(0, 2**40), max_size=60), st.lists(st.booleans(), min_size=60))
def test_no_order_of_what_was_sent_once_counts_more_than_was_sent(numbers: list[int], told: list[bool]) -> None:
    memory, sent = Book(reapply=1000.0), list(dict.fromkeys(numbers))
    for now, seq in enumerate(sent):
        memory.keep([beat(seq, rx=1)], float(now))
        if told[now]:
            assert memory.counted(float(now)) <= now + 1
    assert memory.counted(1e6) <= len(sent)
    again = memory.counted(1e6)
    memory.keep([beat(seq, rx=1) for seq in sorted(sent)[-KEPT:]], 1e6)
    memory.counted(2e6)
    assert again <= len(sent)


documents = st.builds(
    lambda seq, version, status, rx, listeners: {
        "id": "a",
        "listeners": {each: {"status": status, "stats": {"rx": rx}} for each in listeners},
        **({} if version is None else {"seq": seq, "ver": version}),
    },
    seq=st.integers(0, 20) | st.integers(0, 2**40),
    version=st.sampled_from([None, 2, 3, 3, 3]),
    status=st.sampled_from(["OPEN", "FULL"]),
    rx=st.integers(0, 3) | st.just(2**62),
    listeners=st.lists(st.sampled_from("lmn"), unique=True, max_size=3),
)


@given(st.lists(st.tuples(documents, st.integers(0, 50), st.booleans()), max_size=40))
def test_whatever_comes_in_whatever_order_nothing_is_taken_away_and_one_entry_is_kept(
    sent: list[tuple[dict[str, object], int, bool]],
) -> None:
    memory, now = Memory(reapply=10.0), 0.0
    for document, passed, written in sent:
        now += passed
        memory.keep([decode(encode(document, "k"), ["k"])], now)
        traffic = due(memory, now, 0.0 if written else 30.0)
        assert all(min(each.bytes_in, each.active_connections) >= 0 for each in traffic)
    memory.take(now + 1000, traffic=0.0)
    assert len(memory._known) <= 1
    assert all(known.doubt is None for known in memory._known.values())


# -- amphorae that somebody invents ------------------------------------------------------------------------------------
def of_amphora(id: str, seq: int = 1) -> Heartbeat:
    return decode(encode({"id": id, "seq": seq, "ver": 3, "listeners": {}, "pools": {}}, "k"), ["k"])


def test_amphorae_that_no_row_is_known_of_are_kept_up_to_a_number_and_the_oldest_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_of, "STRANGERS", 10)
    memory = Memory(reapply=10.0)
    memory.forget_others({"mine"}, 0.0)
    for number in range(100):
        memory.keep([of_amphora("mine", number), of_amphora(f"invented {number}")], 1.0)
        assert len(memory._known) <= 11
    assert set(memory._known) == {"mine", *(f"invented {number}" for number in range(90, 100))}
    assert memory.counters["too many unknown amphorae"] == 90
    assert set(memory.take(1.0, traffic=0.0).beats) == set(memory._known)
    memory.forget_others({"mine", "invented 99"}, 0.5)
    for number in range(20):
        memory.keep([of_amphora(f"another {number}")], 2.0)
    assert {"mine", "invented 99"} < set(memory._known), "their rows came meanwhile"


def test_before_anybody_has_looked_into_the_rows_all_are_kept_that_a_fleet_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_of, "STRANGERS", 10)
    monkeypatch.setattr(memory_of, "EVERYBODY", 50)
    memory = Memory(reapply=10.0)
    memory.keep([of_amphora(str(number)) for number in range(60)], 1.0)
    assert len(memory._known) == 50
    memory.forget_others({str(number) for number in range(30, 60)}, 0.5)
    assert len(memory._known) == 40


def test_those_that_the_network_turned_round_count_both() -> None:
    memory = Memory(reapply=1000.0)
    memory.keep([beat(20, rx=1), beat(22, rx=2), beat(21, rx=4), beat(23, rx=8)], 1.0)
    assert [delta.bytes_in for delta in due(memory, 1.0)] == [15]
    assert memory.counters == {"accepted": 3, "late": 1}


def test_the_oldest_form_has_no_number_and_always_counts() -> None:
    memory = Memory(reapply=1000.0)
    document = {"id": "a", "listeners": {}}
    for now in range(3):
        memory.keep([decode(encode(document, "k"), ["k"])], float(now))
        assert memory.heard_at("a") == float(now)


def test_deltas_are_added_gauges_and_totals_replace() -> None:
    memory = Memory(reapply=10.0)
    memory.keep([beat(1, rx=5, tx=1, conns=4, totconns=2), beat(2, rx=6, conns=3, ereq=1)], 1.0)
    (delta,) = due(memory, 1.0)
    assert (delta.bytes_in, delta.bytes_out, delta.active_connections) == (11, 1, 3)
    assert (delta.total_connections, delta.request_errors, delta.absolute) == (2, 1, False)
    memory.keep([beat(3, ver=2, rx=50), beat(4, ver=2, rx=70)], 2.0)
    (total,) = due(memory, 2.0)
    assert (total.bytes_in, total.absolute) == (70, True)
    memory.keep([beat(5, ver=2, rx=3, conns=1), beat(6, ver=2, rx=8, conns=2)], 3.0)
    (total,) = due(memory, 3.0)
    assert (total.bytes_in, total.active_connections) == (78, 2), "HAProxy began anew, so what it had is added"


def test_an_idle_listener_costs_no_statement() -> None:
    memory = Memory(reapply=10.0)
    memory.keep([beat(1)], 1.0)
    assert len(due(memory, 1.0)) == 1, "its row is made"
    memory.keep([beat(2)], 2.0)
    assert not due(memory, 2.0)


def test_what_could_not_be_written_is_added_to_what_came_since() -> None:
    memory = Memory(reapply=10.0)
    memory.keep([beat(1, rx=5, conns=9)], 1.0)
    lost = memory.take(1.0, traffic=0.0)
    memory.keep([beat(2, rx=6, conns=2)], 2.0)
    memory.give_back(lost)
    again = memory.take(2.0, traffic=0.0)
    assert set(again.beats) == {"a"}
    memory.give_back(again)
    assert [(d.bytes_in, d.active_connections) for d in due(memory, 2.0)] == [(11, 2)]


def test_traffic_that_could_not_be_stored_is_the_oldest_again() -> None:
    memory = Memory(reapply=10.0)
    memory.keep([beat(1, rx=5, conns=9)], 1.0)
    lost = due(memory, 1.0)
    memory.keep([beat(2, rx=6, conns=2)], 2.0)
    later = due(memory, 2.0)
    memory.give_back_traffic(later)
    memory.give_back_traffic(lost)
    assert memory.take_traffic(10) == [*lost, *later]
    assert memory.take_traffic(10) == []


def test_traffic_that_waits_for_long_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_of, "APART", 10)
    memory = Memory(reapply=1000.0)
    for seq in range(100):
        memory.keep([beat(seq, rx=1, conns=seq)], float(seq))
        memory.give_back_traffic(due(memory, float(seq)))
    waiting = memory.take_traffic(100)
    assert len(waiting) <= 11
    assert (sum(each.bytes_in for each in waiting), waiting[-1].active_connections) == (100, 99)


def test_one_that_was_overtaken_changes_traffic_and_nothing_else() -> None:
    def said(seq: int, status: str, conns: int, ver: int = 3, rx: int = 10) -> Heartbeat:
        reports = {"l": {"status": status, "stats": {"rx": rx, "conns": conns}}}
        document = {"id": f"v{ver}", "seq": seq, "ver": ver, "listeners": reports, "pools": {}}
        return decode(encode(document, "k"), ["k"])

    memory = Memory(reapply=10.0)
    for place, each in enumerate((said(100, "OPEN", 1), said(102, "FULL", 7), said(101, "OPEN", 3))):
        memory.keep([each], float(place))
    batch = memory.take(3.0, traffic=0.0)
    assert batch.beats["v3"].heartbeat.listeners["l"].status == "FULL"
    assert batch.beats["v3"].seq == 102
    assert memory.heard_at("v3") == 2.0, "it lives all the same"
    memory.give_back(batch)
    assert [(each.bytes_in, each.active_connections) for each in due(memory, 3.0)] == [(30, 7)]
    memory = Memory(reapply=10.0)
    for seq, rx in ((100, 900), (102, 1000), (101, 950)):
        memory.keep([said(seq, "OPEN", 0, 2, rx)], float(seq))
    assert [each.bytes_in for each in due(memory, 200.0)] == [1000]
    assert memory.counters["late"] == 1


def test_a_row_that_is_played_back_over_and_over_does_not_keep_the_dead_alive() -> None:
    """Three idle heartbeats, recorded before their agent ended; what is not recognised begins the account anew."""
    memory = Book(reapply=1000.0)
    alive = []
    for at in range(10 * KEPT):
        memory.keep([beat(100 + at % 3)], float(at))
        memory.counted(float(at))
        alive.append(memory.heard_at("a") == at)
    assert any(alive[3 : KEPT + 3]), "it may be an agent that was restarted"
    assert not any(alive[2 * KEPT :])
    assert heard(memory, 103, 9999.0)
    assert heard(memory, 104, 10000.0)
