"""What is decided about hearing while somebody else is busy: orders that wait, deafness that ends, silence that begins to count."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import attrs

from octavia_core.controller.health.ears import Ears
from octavia_core.controller.health.frames import LENGTH, frame
from octavia_core.controller.health.fronts import Fronts, _Source
from octavia_core.controller.health.hear import Told
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.receive import bind_receiver
from octavia_core.domain.secret import Secret
from octavia_core.settings import HealthManager, Settings
from tests.health.rig import until
from tests.health.test_fronts import KEY, LONG, datagram, hearing

OPTIONS = HealthManager(bind_port=0, heartbeat_key=Secret(KEY), health_update_threads=1, heartbeat_timeout=LONG)


def test_all_that_was_ordered_before_a_datagram_was_sent_counts_for_it() -> None:
    both = attrs.evolve(OPTIONS, heartbeat_key=Secret("new"), heartbeat_keys_accepted=(Secret(KEY),))
    with hearing(OPTIONS) as heard:
        heard.send(datagram("a", 1))
        until(lambda: heard.memory.counters["accepted"] == 1)
        (pid,) = heard.all_ready()
        os.kill(pid, signal.SIGSTOP)
        heard.fronts.renew(Settings(health_manager=both))
        heard.fronts.renew(Settings(health_manager=attrs.evolve(both, heartbeat_keys_accepted=())))
        heard.send(datagram("a", 2))
        os.kill(pid, signal.SIGCONT)
        until(lambda: heard.memory.counters["bad_digest"] == 1)
        assert heard.memory.counters["accepted"] == 1


def test_of_two_processes_one_goes_deaf_while_the_others_return_is_told() -> None:
    told, telling, go = list[bool](), threading.Event(), threading.Event()

    def deaf(now: bool) -> None:
        if not now:
            telling.set()
            assert go.wait(30)
        told.append(now)

    settings = Settings(health_manager=OPTIONS)
    fronts = Fronts(settings, bind_receiver(settings), Memory(reapply=10.0), Told(bool, deaf), 1)
    threads = [threading.Thread(target=fronts._hears, args=each) for each in ((0, True), (1, False))]
    try:
        fronts._hears(0, False)
        threads[0].start()
        assert telling.wait(30)
        threads[1].start()
        threads[1].join(0.1)  # it waits, or has told by then
        go.set()
        for thread in threads:
            thread.join(30)
        assert told == [True, False, True], "what is told last is what is true"
    finally:
        go.set()
        fronts.stop()


def test_silence_does_not_count_from_the_moment_in_which_nothing_was_heard_any_more() -> None:
    settings = Settings(health_manager=OPTIONS)
    ears = Ears(settings, bind_receiver(settings), 0)
    try:
        ears.count_from(5)
        assert ears.since == 5
        hearing_: Any = ears.hearing
        hearing_._told.deaf(True)  # while somebody asked the database for its time
        ears.count_from(7)
        assert ears.since == 0
        hearing_._told.deaf(False)
        ears.count_from(9)
        assert ears.since == 9
    finally:
        ears.stop()


def test_one_that_may_say_nothing_for_longer_from_now_on_is_waited_for_as_long() -> None:
    """With a longer heartbeat timeout it says less often that it lives, and whoever waits for it then must not count as before."""
    out, into = os.pipe()
    allowed = [0.0, LONG]

    def patience() -> float:
        if len(allowed) == 1:
            os.write(into, frame(0.0, {}, ()))
        return allowed.pop(0) if len(allowed) > 1 else allowed[0]

    try:
        assert _Source(out, threading.Event()).frame(patience) == frame(0.0, {}, ())[LENGTH.size :]
    finally:
        os.close(out)
        os.close(into)
