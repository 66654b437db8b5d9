"""Hearing through processes: what arrives, whatever becomes of them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import random
import signal
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import attrs
import pytest

from octavia_core.controller.health.frames import LENGTH, Again, frame, frame_of
from octavia_core.controller.health.front import WORDINGS, Front
from octavia_core.controller.health.fronts import Fronts
from octavia_core.controller.health.hear import Told
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.receive import WAITED, bind_receiver
from octavia_core.controller.health.waiting import NO_ROOM
from octavia_core.domain.heartbeat import encode
from octavia_core.domain.secret import Secret
from octavia_core.domain.skim import Skimmed, Skimmer
from octavia_core.errors import ConfigurationError
from octavia_core.settings import HealthManager, Settings
from tests.health.rig import due, until, until_stamped

KEY = "fronts"
LARGEST = 2**63 - 1


def datagram(id: str, seq: int, status: str = "OPEN", ver: int = 3, **stats: int) -> bytes:
    numbers = {"tx": 0, "rx": 0, "conns": 0, "totconns": 0, "ereq": 0, **stats}
    listeners = {"l": {"status": status, "stats": numbers}}
    return encode({"id": id, "seq": seq, "listeners": listeners, "pools": {}, "ver": ver}, KEY)


@attrs.define
class Heard:
    """Front processes and what they told."""

    fronts: Fronts
    memory: Memory
    deaf: list[bool]
    news: threading.Event
    port: int
    count: int

    def all_ready(self) -> list[int]:
        """Its processes, when all of them are there and run their program."""
        until(lambda: len(self.fronts.pids) == self.count and all(map(ready, self.fronts.pids)))
        return self.fronts.pids

    def send(self, *datagrams: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for each in datagrams:
                sender.sendto(each, ("127.0.0.1", self.port))


LONG = 600.0
"""A heartbeat timeout of which no process of a slow machine uses up the part for which it may say nothing."""


@contextlib.contextmanager
def hearing(health: HealthManager) -> Iterator[Heard]:
    """Processes with these options, as many as `health_update_threads`, on any port."""
    settings = Settings(health_manager=attrs.evolve(health, bind_port=0))
    memory, deaf, news = Memory(reapply=10.0), list[bool](), threading.Event()
    bound, count = bind_receiver(settings), health.health_update_threads
    fronts = Fronts(settings, bound, memory, Told(news.set, deaf.append), count)
    fronts.start()
    try:
        yield Heard(fronts, memory, deaf, news, int(bound.getsockname()[1]), count)
    finally:
        fronts.stop()


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    with hearing(
        HealthManager(heartbeat_key=Secret(KEY), health_update_threads=request.param, heartbeat_timeout=LONG)
    ) as found:
        yield found


def test_what_they_verify_arrives_and_what_they_refuse_is_counted(heard: Heard) -> None:
    heard.send(*(datagram(f"a{n}", 1, rx=n) for n in range(20)), b"nonsense", datagram("a1", 1)[:-1] + b"x")
    until(lambda: heard.memory.counters["accepted"] == 20)
    until(lambda: heard.memory.counters["too_short"] == heard.memory.counters["bad_digest"] == 1)
    batch = heard.memory.take(1e9, traffic=0.0)
    assert {id: beat.heartbeat.listeners["l"].status for id, beat in batch.beats.items()} == dict.fromkeys(
        (f"a{n}" for n in range(20)), "OPEN"
    )
    heard.memory.give_back(batch)
    assert {delta.amphora_id: delta.bytes_in for delta in due(heard.memory, 1e9)} == {f"a{n}": n for n in range(20)}
    until(heard.news.is_set)  # after it was taken in


def test_one_that_is_killed_is_replaced_and_what_came_meanwhile_is_heard(heard: Heard) -> None:
    heard.send(datagram("a", 1))
    until(lambda: heard.memory.counters["accepted"] == 1)
    before = heard.fronts.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: heard.deaf[:1] == [True])
    heard.send(datagram("a", 2, rx=7))
    until(lambda: heard.memory.counters["accepted"] == 2)
    # Of two, one may be back before the other's end is seen.
    until(lambda: heard.fronts.replaced["ended"] == len(before))
    until(lambda: heard.deaf[-1:] == [False])
    assert not set(before) & set(heard.fronts.pids)


def ready(pid: int) -> bool:
    """Whether its program runs, and not only Python's start."""
    ignored = _line_of(pid, "status", "SigIgn:")
    return ignored is not None and bool(int(ignored, 16) & 1 << signal.SIGTERM - 1)


def has_spoken(pid: int) -> bool:
    """Whether it has told its manager anything, if only that it lives (proc(5), wchar)."""
    return int(_line_of(pid, "io", "wchar:") or 0) > 0


def _line_of(pid: int, file: str, name: str) -> str | None:
    """The value that stands there; None when there is no such process any more."""
    try:
        with open(f"/proc/{pid}/{file}", encoding="ascii") as found:
            return next((line.split()[1] for line in found if line.startswith(name)), None)
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_signals_for_everybody_of_a_service_do_not_end_them_before_their_manager(heard: Heard) -> None:
    heard.send(datagram("a", 1))
    until(lambda: heard.memory.counters["accepted"] == 1)
    before = heard.all_ready()
    for pid in before:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    heard.send(datagram("a", 2))
    until(lambda: heard.memory.counters["accepted"] == 2)
    assert heard.fronts.pids == before
    assert heard.deaf == []


def test_a_port_that_is_shared_among_processes_is_not_shared_with_others(heard: Heard) -> None:
    taken = HealthManager(bind_port=heard.port, health_update_threads=2)
    with pytest.raises(ConfigurationError, match="Address already in use"):
        bind_receiver(Settings(health_manager=taken))


def test_stopping_leaves_no_process(heard: Heard) -> None:
    until(lambda: bool(heard.fronts.pids))
    heard.fronts.stop()
    until(lambda: heard.fronts.pids == [])
    assert heard.deaf == []


def test_a_frame_takes_more_listeners_than_a_datagram_can() -> None:
    """Whoever breaks into an amphora has its key; what it says must not end the process that receives for all."""
    many = Again(1, 1.5, 2, 0, b"12345678", tuple(range(5 * 14_000)))
    found = frame_of(frame(5.5, {}, [many])[LENGTH.size :])
    assert list(found.again) == [(1, 1.5, 2, 0, b"12345678", *many.counters)]


def test_a_frame_is_read_as_it_was_written() -> None:
    skimmer = Skimmer([KEY])
    said = [skimmer.skim(datagram("a", 1, rx=5)), skimmer.skim(datagram("b", 0, ver=2))]
    assert said[1].handle < 0 <= said[0].handle, "totals are always told whole"
    liar = said[0]._replace(counters=(2**64, 0, 0, 0, 0))
    again = [Again(said[0].handle, 1.5, 2, 1, b"12345678", (1, 2, 3, 4, 5)), Again(7, 2.5, 3, 0, b"abcdefgh", (2**64,))]
    data = frame(5.5, {"bomb": 3}, again, [(1.25, said[0]), (1.5, said[1]), (2.0, liar)], [3, 4])
    assert LENGTH.unpack(data[: LENGTH.size])[0] == len(data) - LENGTH.size
    found = frame_of(data[LENGTH.size :])
    reports = list(found.reports)
    assert (found.oldest, found.refused, list(found.forgotten)) == (5.5, {"bomb": 3}, [3, 4])
    assert list(found.again) == [
        (said[0].handle, 1.5, 2, 1, b"12345678", 1, 2, 3, 4, 5),
        (7, 2.5, 3, 0, b"abcdefgh", LARGEST),
    ]
    assert reports[:2] == [(1.25, said[0]), (1.5, said[1])]
    assert reports[2][1].counters[0] == LARGEST


def test_again_is_said_only_of_what_was_before(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavia_core.health")

    def said(*turns: tuple[bool, bool]) -> list[tuple[str, str]]:
        caplog.clear()
        for hears, trouble in turns:
            heard.fronts._hears(7, hears, trouble=trouble)
        return [(each.levelname, each.getMessage()) for each in caplog.records if "received" in each.getMessage()]

    heard.fronts._heard = False
    assert said((False, False), (True, False)) == [("INFO", "heartbeats are received")]
    assert said((False, True), (True, False)) == [("WARNING", "heartbeats are received again")]
    assert said((True, False)) == []


def test_other_keys_are_taken_by_the_processes_that_hear_and_keep_their_numbers(heard: Heard) -> None:
    heard.send(datagram("a", 1))
    until(lambda: heard.memory.counters["accepted"] == 1)
    until(lambda: len(heard.fronts.pids) == heard.count)
    before = heard.fronts.pids
    health = HealthManager(heartbeat_key=Secret("new"), heartbeat_keys_accepted=(Secret(KEY),), heartbeat_timeout=LONG)
    heard.fronts.renew(Settings(health_manager=health))
    assert heard.fronts.keys == {1: b"new", 0: KEY.encode()}
    signed = encode({"id": "b", "seq": 1, "listeners": {}, "pools": {}, "ver": 3}, "new")
    heard.send(signed, datagram("a", 2))
    until(lambda: heard.memory.counters["accepted"] == 3)
    assert {key: ids for key, (_, ids) in heard.memory.signed(0.0, 5).items()} == {0: ["a"], 1: ["b"]}
    heard.fronts.renew(Settings(health_manager=attrs.evolve(health, heartbeat_keys_accepted=())))
    heard.send(datagram("a", 3))
    until(lambda: heard.memory.counters["bad_digest"] == 1)
    assert heard.fronts.pids == before
    assert heard.deaf == []


@pytest.fixture
def stuck() -> Iterator[Front]:
    """One whose health manager does not read."""
    behind, ahead = os.pipe()
    os.set_blocking(ahead, False)
    os.write(ahead, bytes(65536))
    with bind_receiver(Settings(health_manager=HealthManager(bind_port=0))) as bound:
        yield Front(bound, [KEY], ahead)
    os.close(behind)
    os.close(ahead)


def told(front: Front, memory: Memory, known: dict[int, Skimmed] | None = None) -> None:
    """Give memory all that waits, as if the pipe were read again."""
    known = {} if known is None else known
    for some in [bytes(front._rest), *iter(front._frame, frame(front._oldest, front._refused, ()))]:
        data = some
        while data:
            end = LENGTH.size + LENGTH.unpack_from(data)[0]
            found, data = frame_of(data[LENGTH.size : end]), data[end:]
            memory.keep_again(known, found.again)
            for at, said in found.reports:
                memory.keep([said], at)
                if said.handle >= 0:
                    known[said.handle] = said


def test_reports_that_wait_for_a_busy_manager_are_one_per_amphora_with_the_counters_of_all(stuck: Front) -> None:
    for n in range(50):
        stuck._take([datagram("a", n, rx=2, conns=n), datagram("b", n, rx=1)])
        stuck._hand_on()
    stuck._take([datagram("b", 49, rx=1), datagram("b", 50, status="FULL", rx=4)])
    assert len(stuck._again) + len(stuck._news) <= 3, "one per amphora, and one that says nothing new"
    memory = Memory(reapply=1000.0)
    told(stuck, memory)
    batch = memory.take(0.0, traffic=0.0)
    assert {id: (beat.seq, beat.heartbeat.listeners["l"].status) for id, beat in batch.beats.items()} == {
        "a": (49, "OPEN"),
        "b": (50, "FULL"),
    }
    memory.give_back(batch)
    traffic = {d.amphora_id: (d.bytes_in, d.active_connections) for d in due(memory, 0.0)}
    assert traffic == {"a": (100, 49), "b": (54, 0)}


@pytest.mark.parametrize("first", ["OPEN", "FULL"])
def test_what_was_played_back_takes_the_place_of_nothing_that_waits(stuck: Front, first: str) -> None:
    stuck._take([datagram("a", 17, status=first, rx=1), datagram("a", 18, rx=2)])
    stuck._take([datagram("a", 18, rx=2), datagram("a", 3, rx=9), datagram("a", 19, rx=4), datagram("a", 18, rx=2)])
    memory = Memory(reapply=1000.0)
    told(stuck, memory)
    batch = memory.take(0.0, traffic=0.0)
    assert batch.beats["a"].seq == 19
    memory.give_back(batch)
    assert [delta.bytes_in for delta in due(memory, 0.0)] == [7]


def test_what_the_network_turned_round_counts_though_newer_ones_wait_with_it(stuck: Front) -> None:
    memory, known = Memory(reapply=1000.0), dict[int, Skimmed]()
    for first in range(8, 48, 4):
        stuck._take([datagram("a", first + more, rx=1) for more in (0, 2, 1, 3)])
        stuck._take([datagram("a", first + 1, rx=1)])  # which is not new
        told(stuck, memory, known)
    assert memory.counters["accepted"] == 20, "what is late, and all others as one"
    assert sum(delta.bytes_in for delta in due(memory, 0.0)) == 40


@pytest.mark.parametrize("words", [["OPEN"], ["OPEN", "FULL"], ["OPEN", "OPEN", "FULL", "FULL", "FULL"]])
def test_a_row_that_is_played_back_is_never_summed_with_what_is_new(stuck: Front, words: list[str]) -> None:
    def row(*numbers: int) -> list[bytes]:
        return [datagram("a", seq, status=words[seq % len(words)], rx=1) for seq in numbers]

    memory, known = Memory(reapply=1000.0), dict[int, Skimmed]()
    for seq in range(20):
        stuck._take(row(seq))
        told(stuck, memory, known)
    for seq in range(20, 40):
        stuck._take(row(*range(seq - 5, seq + 1), *range(15), seq, *range(seq - 3)))
        told(stuck, memory, known)
    assert sum(delta.bytes_in for delta in due(memory, 0.0)) == 40
    memory.keep([], 0.0)
    assert sum(delta.bytes_in for delta in due(memory, 1e6)) == 0


def test_an_agent_that_is_restarted_and_says_all_again_lives_though_it_counts_nothing(stuck: Front) -> None:
    memory, known = Memory(reapply=1000.0), dict[int, Skimmed]()
    for start in range(3):
        for seq in range(5):
            stuck._take([datagram("a", seq, rx=1)])
            told(stuck, memory, known)
        assert memory.counters["accepted"] + memory.counters["recorded"] >= 5 + 4 * start
    assert sum(delta.bytes_in for delta in due(memory, 1e6)) == 5


def test_whoever_says_something_else_and_takes_it_back_while_nobody_reads_has_said_the_last(stuck: Front) -> None:
    memory = Memory(reapply=1000.0)
    for seq, status in enumerate(["OPEN", "FULL", "OPEN", "FULL", "FULL", "OPEN", "OPEN"]):
        stuck._take([datagram("a", seq, status=status, rx=1)])
    told(stuck, memory)
    batch = memory.take(0.0, traffic=0.0)
    assert batch.beats["a"].heartbeat.listeners["l"].status == "OPEN"
    memory.give_back(batch)
    assert [delta.bytes_in for delta in due(memory, 0.0)] == [7]


def test_what_waited_while_the_process_stood_still_was_heard_when_it_came(stuck: Front) -> None:
    memory = Memory(reapply=1000.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as amphora:
        amphora.connect(stuck._receiver._socket.getsockname())
        until_stamped(stuck._receiver, amphora)
        amphora.send(datagram("a", 20))
        sent = time.monotonic()
        time.sleep(1.5 * WAITED)
        amphora.send(datagram("b", 20))
        stuck._take(stuck._receiver.batch())
    told(stuck, memory)
    first, second = memory.heard_at("a"), memory.heard_at("b")
    assert first is not None
    assert second is not None
    assert first < sent + WAITED < second


@pytest.mark.parametrize("busy", [1, 12, 60])
@pytest.mark.parametrize(
    "words", [["OPEN"], ["OPEN", "FULL"], ["OPEN", "OPEN", "FULL"], ["OPEN", "FULL", "a", "b", "c"]], ids="/".join
)
def test_what_is_late_counts_once_whatever_else_is_said_while_it_waits(
    stuck: Front, words: list[str], busy: int
) -> None:
    memory, known, turned = Memory(reapply=1000.0), dict[int, Skimmed](), random.Random(busy)
    order = sorted(range(20, 500), key=lambda seq: seq + turned.choice((0.0, 0.0, 0.0, 1.5, 6.5)))
    status = {seq: turned.choice(words) for seq in order}
    for place, seq in enumerate([*order, 500]):
        packet = datagram("a", seq, status=status.get(seq, "FULL"), rx=1, conns=seq)
        stuck._take([packet, packet] if turned.random() < 0.2 else [packet])
        if place % busy == 0:
            told(stuck, memory, known)
    told(stuck, memory, known)
    latest = memory.latest("a")
    assert latest is not None
    assert (latest.seq, latest.heartbeat.listeners["l"].status) == (500, "FULL")
    found = due(memory, 0.0)
    assert (sum(delta.bytes_in for delta in found), found[-1].active_connections) == (481, 500)
    assert stuck._late.size == 0


def test_what_is_late_with_other_words_is_not_what_the_next_ones_mean(stuck: Front) -> None:
    memory, known = Memory(reapply=1000.0), dict[int, Skimmed]()
    stuck._take([datagram("a", 20, rx=1)])
    told(stuck, memory, known)
    stuck._take([datagram("a", 22, status="FULL", rx=1), datagram("a", 21, rx=1)])
    stuck._take([datagram("a", 23, status="FULL", rx=1)])
    told(stuck, memory, known)
    stuck._take([datagram("a", 24, status="FULL", rx=1)])
    told(stuck, memory, known)
    latest = memory.latest("a")
    assert latest is not None
    assert (latest.seq, latest.heartbeat.listeners["l"].status) == (24, "FULL")
    assert sum(delta.bytes_in for delta in due(memory, 0.0)) == 5


def padded(id: str, seq: int, status: str, padding: bytes) -> bytes:
    """One that is as large as it says, whatever it is packed with."""
    document = b'{"id": "%s", "seq": %d, "listeners": {"l": {"status": "%s", "stats": {"rx": 1}}}, "pools": {}, "ver": 3, "x": "%s"}'
    body = zlib.compress(document % (id.encode(), seq, status.encode(), padding), level=0)
    return body + hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest().encode()


def test_new_words_in_each_heartbeat_take_no_more_room_than_one(stuck: Front) -> None:
    padding = b"x" * 25_000
    for seq in range(2500):
        stuck._take([padded("a", seq, f"S{seq}", padding)])
        stuck._hand_on()
    assert len(stuck._news) == 1
    assert stuck._news.size + stuck._old_news.size + len(stuck._rest) < 100_000
    memory = Memory(reapply=1000.0)
    told(stuck, memory)
    latest = memory.latest("a")
    assert latest is not None
    assert (latest.seq, latest.heartbeat.listeners["l"].status) == (2499, "S2499")
    assert sum(delta.bytes_in for delta in due(memory, 0.0)) == 2500


def test_who_invents_amphorae_fills_what_there_is_room_for_and_all_are_heard_when_there_is_some_again(
    stuck: Front,
) -> None:
    stuck.room = 1_000_000
    memory, known = Memory(reapply=1000.0), dict[int, Skimmed]()
    stuck._take([datagram("well", 20, rx=1)])
    told(stuck, memory, known)
    for seq in range(200):
        stuck._take([padded(f"a{seq}", 0, "OPEN", b"x" * 25_000)])
    stuck.room, refused = stuck._news.size, stuck._refused[NO_ROOM]
    stuck._take([datagram("well", 21, status="FULL", rx=1), datagram("well", 22, status="FULL", rx=1)])
    stuck._take([datagram("well", 23, rx=1)])
    assert stuck._refused[NO_ROOM] == refused + 3
    assert stuck._news.size <= stuck.room
    assert 150 < refused < 200
    told(stuck, memory, known)
    stuck._take([datagram("well", 24, status="FULL", rx=1)])
    told(stuck, memory, known)
    latest = memory.latest("well")
    assert latest is not None
    assert (latest.seq, latest.heartbeat.listeners["l"].status) == (24, "FULL")


def test_one_with_other_listeners_each_time_has_a_few_of_them_waiting(stuck: Front) -> None:
    for seq in range(20):
        listeners = {f"l{seq // 2}": {"status": "OPEN", "stats": {"rx": 1}}}
        stuck._take([encode({"id": "a", "seq": seq, "listeners": listeners, "pools": {}, "ver": 3}, KEY)])
    assert len(stuck._news) == WORDINGS
    assert stuck._refused[NO_ROOM] == 10 - WORDINGS
    memory = Memory(reapply=1000.0)
    told(stuck, memory)
    traffic = {delta.listener_id: delta.bytes_in for delta in due(memory, 0.0)}
    assert traffic == dict.fromkeys(["l6", "l7", "l8", "l9"], 2)


@pytest.fixture
def impatient() -> Iterator[Heard]:
    """Two processes that may say nothing for a second."""
    with hearing(HealthManager(heartbeat_key=Secret(KEY), health_update_threads=2, heartbeat_timeout=3.0)) as found:
        yield found


def test_one_that_stands_still_is_deaf_and_replaced_and_what_came_meanwhile_is_heard(impatient: Heard) -> None:
    impatient.send(datagram("first", 1))
    until(lambda: impatient.memory.counters["accepted"] == 1)
    impatient.all_ready()
    until(lambda: all(map(has_spoken, impatient.fronts.pids)))  # one that never has may take longer to begin
    before = impatient.fronts.pids
    os.kill(before[0], signal.SIGSTOP)
    impatient.send(*(datagram(f"a{n}", 1) for n in range(30)))
    for n in range(30):
        impatient.send(datagram(f"b{n}", 1))
    until(lambda: impatient.deaf[:1] == [True])
    until(lambda: impatient.memory.counters["accepted"] == 61)
    until(lambda: impatient.fronts.replaced["stood still"] >= 1)
    until(lambda: impatient.deaf[-1:] == [False])
    assert before[0] not in impatient.fronts.pids


def test_one_that_hears_nobody_says_that_it_lives(stuck: Front) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        stuck._out = write
        stuck._hand_on()
        data = os.read(read, 1000)
        said = frame_of(data[LENGTH.size :])
        assert (said.oldest, said.refused, list(said.again), list(said.reports)) == (0.0, {}, [], [])
    finally:
        os.close(read)
        os.close(write)


def lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_one_that_stands_still_does_not_survive_the_end_of_its_manager(impatient: Heard) -> None:
    before = impatient.all_ready()
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    impatient.fronts.stop()
    assert not any(map(lives, before))
