"""Datagrams, from the socket to what a look and a batch find in memory."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.receive import BATCH, Receiver, bind_receiver
from octavia_core.domain.heartbeat import Heartbeat, decode, encode
from octavia_core.settings import HealthManager, Settings


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, socket.socket]]:
    bound = bind_receiver(Settings(health_manager=HealthManager(bind_port=0, sock_rlimit=8192)))
    with bound, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(bound.getsockname())
        yield Receiver(bound), sender


def test_what_is_there_is_taken_at_once_without_waiting_for_more(receiver: tuple[Receiver, socket.socket]) -> None:
    here, sender = receiver
    for n in range(5):
        sender.send(b"%d" % n)
    assert here.batch() == [b"0", b"1", b"2", b"3", b"4"]
    sender.send(b"next")
    assert here.batch() == [b"next"], "one alone is not kept back"
    assert BATCH > 5


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
    memory = Memory(reapply=10.0)
    memory.keep([beat(7, rx=5), beat(7, rx=5), beat(0, rx=1)], 1.0)
    assert memory.counters == {"accepted": 2, "repeated": 1}
    assert [delta.bytes_in for delta in memory.take(1.0, traffic=0.0).traffic] == [6]


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


def test_those_that_the_network_turned_round_count_both() -> None:
    memory = Memory(reapply=1000.0)
    memory.keep([beat(20, rx=1), beat(22, rx=2), beat(21, rx=4), beat(23, rx=8)], 1.0)
    assert [delta.bytes_in for delta in memory.take(1.0, traffic=0.0).traffic] == [15]
    assert memory.counters == {"accepted": 4}


def test_the_oldest_form_has_no_number_and_always_counts() -> None:
    memory = Memory(reapply=1000.0)
    document = {"id": "a", "listeners": {}}
    for now in range(3):
        memory.keep([decode(encode(document, "k"), ["k"])], float(now))
        assert memory.heard_at("a") == float(now)


def test_deltas_are_added_gauges_and_totals_replace() -> None:
    memory = Memory(reapply=10.0)
    memory.keep([beat(1, rx=5, tx=1, conns=4, totconns=2), beat(2, rx=6, conns=3, ereq=1)], 1.0)
    (delta,) = memory.take(1.0, traffic=0.0).traffic
    assert (delta.bytes_in, delta.bytes_out, delta.active_connections) == (11, 1, 3)
    assert (delta.total_connections, delta.request_errors, delta.absolute) == (2, 1, False)
    memory.keep([beat(3, ver=2, rx=50), beat(4, ver=2, rx=70)], 2.0)
    (total,) = memory.take(2.0, traffic=0.0).traffic
    assert (total.bytes_in, total.absolute) == (70, True)


def test_an_idle_listener_costs_no_statement() -> None:
    memory = Memory(reapply=10.0)
    memory.keep([beat(1)], 1.0)
    assert len(memory.take(1.0, traffic=0.0).traffic) == 1, "its row is made"
    memory.keep([beat(2)], 2.0)
    assert memory.take(2.0, traffic=0.0).traffic == ()


def test_what_could_not_be_written_is_added_to_what_came_since() -> None:
    memory = Memory(reapply=10.0)
    memory.keep([beat(1, rx=5, conns=9)], 1.0)
    lost = memory.take(1.0, traffic=0.0)
    memory.keep([beat(2, rx=6, conns=2)], 2.0)
    memory.give_back(lost)
    again = memory.take(2.0, traffic=0.0)
    assert [(d.bytes_in, d.active_connections) for d in again.traffic] == [(11, 2)]
    assert set(again.beats) == {"a"}
