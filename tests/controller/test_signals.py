"""Signals as calls: never on the main thread, which may hold what the handler needs."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from octavia_core.controller.signals import on_signals

PATIENCE = 30.0


def test_a_handler_may_want_what_the_main_thread_holds_when_the_signal_comes() -> None:
    """As with an Event: its `set` wants the lock that `wait` holds for a moment on the main thread."""
    lock, obeyed = threading.Lock(), threading.Event()

    def handler() -> None:
        with lock:
            obeyed.set()

    with on_signals({signal.SIGUSR1: handler}):
        with lock:
            signal.raise_signal(signal.SIGUSR1)
            assert not obeyed.is_set()
        assert obeyed.wait(PATIENCE)


def test_each_arrival_is_a_call_in_the_order_of_arrival() -> None:
    seen: list[str] = []
    with on_signals({signal.SIGUSR1: lambda: seen.append("one"), signal.SIGUSR2: lambda: seen.append("two")}):
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            signal.raise_signal(number)
    assert seen == ["one", "two", "one"], "at the end, all calls have been made"


def test_the_former_handlers_are_back_at_the_end_also_after_an_error() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(KeyError), on_signals({signal.SIGUSR1: lambda: None}):
        assert signal.getsignal(signal.SIGUSR1) != before
        raise KeyError
    assert signal.getsignal(signal.SIGUSR1) == before


def test_the_second_time_a_signal_has_its_default_effect_where_asked() -> None:
    with on_signals({signal.SIGUSR1: lambda: None}, once=(signal.SIGUSR1,)):
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_BLOCK, ())  # Python's own handler has run when a call has returned
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_elsewhere_than_on_the_main_thread_it_says_no() -> None:
    said: list[str] = []

    def elsewhere() -> None:
        try:
            with on_signals({signal.SIGUSR1: lambda: None}):
                pass
        except ValueError as error:
            said.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(PATIENCE)
    assert said
