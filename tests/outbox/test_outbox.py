"""Events reach plugins: in order, across restarts, and whatever another plugin does."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from octavia_core.controller import outbox as outbox_module
from octavia_core.controller.outbox import Outbox
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.operation import Event
from octavia_core.settings import Settings
from tests.support.databases import copy_to

PATIENCE = 60.0


def eventually(condition):
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def storage(tmp_path):
    settings = Settings.load(("test", {"database": {"connection": copy_to(tmp_path / "octavia.db")}}))
    opened = SqlStorage.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def deliver(storage):
    """Starts an outbox for listeners; ends it with the test."""
    started = []

    def start(*listeners, timeout=PATIENCE):
        outbox = Outbox(storage, listeners, timeout=timeout, pause=0.05)
        outbox.start()
        started.append(outbox)
        return outbox

    yield start
    for outbox in started:
        outbox.stop()


class Reader:
    def __init__(self):
        self.names, self._seen = [], threading.Condition()

    def __call__(self, *, events):
        with self._seen:
            self.names += [event.name for event in events]
            self._seen.notify_all()

    def until(self, name):
        with self._seen:
            assert self._seen.wait_for(lambda: name in self.names, PATIENCE), self.names


def emit(storage, *names):
    storage.transaction(lambda tx: [tx.emit(Event(name=name, text=name)) for name in names])


def test_a_new_plugin_gets_what_happens_from_now_on_in_order(storage, deliver):
    emit(storage, "old")
    reader = Reader()
    deliver(("reader", reader))
    emit(storage, "a", "b")
    emit(storage, "c")
    reader.until("c")
    assert reader.names == ["a", "b", "c"]


def test_what_happened_between_two_starts_is_not_missed(storage, deliver):
    first, second = Reader(), Reader()
    outbox = deliver(("reader", first))
    emit(storage, "a")
    first.until("a")
    outbox.stop()
    emit(storage, "b")
    deliver(("reader", second))
    second.until("b")
    assert (first.names, second.names) == (["a"], ["b"])


def test_the_last_events_are_delivered_when_it_stops(storage, deliver):
    reader = Reader()
    outbox = deliver(("reader", reader))
    emit(storage, "a")
    outbox.stop()
    assert reader.names == ["a"]


def test_a_plugin_that_raises_is_counted_and_the_others_and_the_next_batch_are_served(storage, deliver):
    reader, raised = Reader(), threading.Event()

    def broken(*, events):
        raised.set()
        raise RuntimeError("a plugin's mistake")

    outbox = deliver(("broken", broken), ("reader", reader))
    emit(storage, "a")
    reader.until("a")
    assert raised.wait(PATIENCE)
    emit(storage, "b")
    reader.until("b")
    eventually(lambda: outbox.failures["broken"] >= 1)
    assert outbox.failures["reader"] == 0


def test_a_plugin_that_hangs_holds_up_nobody_and_gets_what_came_meanwhile_when_it_returns(storage, deliver):
    reader, free, calls = Reader(), threading.Event(), Reader()

    def slow(*, events):
        calls(events=events)
        free.wait(PATIENCE)

    outbox = deliver(("slow", slow), ("reader", reader), timeout=0.05)
    emit(storage, "a")
    calls.until("a")
    reader.until("a")
    emit(storage, "b")
    reader.until("b")
    assert calls.names == ["a"]
    eventually(lambda: outbox.failures["slow"] == 1)
    free.set()
    calls.until("b")
    assert calls.names == ["a", "b"]


def test_what_a_plugin_that_hangs_has_not_returned_from_is_delivered_by_the_next_start(storage, deliver):
    free, first, second = threading.Event(), Reader(), Reader()

    def slow(*, events):
        first(events=events)
        free.wait(PATIENCE)

    outbox = deliver(("slow", slow), timeout=0.05)
    emit(storage, "a")
    first.until("a")
    emit(storage, "b")
    outbox.stop()
    deliver(("slow", second))
    second.until("b")
    assert second.names == ["a", "b"]
    free.set()


def test_a_plugin_that_is_slow_but_in_time_holds_up_nobody(storage, deliver):
    reader, slow, free = Reader(), Reader(), threading.Event()

    def takes_its_time(*, events):
        slow(events=events)
        free.wait(PATIENCE)

    outbox = deliver(("a-slow", takes_its_time), ("b-reader", reader), timeout=2 * PATIENCE)
    emit(storage, "a")
    slow.until("a")
    for name in ("b", "c"):
        emit(storage, name)
        reader.until(name)  # while the slow one has not returned from its first batch
    assert slow.names == ["a"]
    free.set()
    slow.until("c")
    assert slow.names == ["a", "b", "c"]
    assert outbox.failures == {"a-slow": 0, "b-reader": 0}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit("odd")])
def test_whatever_a_plugin_raises_is_logged_as_what_it_is_and_its_next_batch_comes(storage, deliver, caplog, error):
    calls = Reader()

    def leaves(*, events):
        calls(events=events)
        raise error

    outbox = deliver(("leaves", leaves))
    for many, name in enumerate(("a", "b", "c"), 1):
        emit(storage, name)
        calls.until(name)
        eventually(lambda many=many: outbox.failures["leaves"] == many)
    assert calls.names == ["a", "b", "c"]
    said = [record.getMessage() for record in caplog.records if record.name == "octavia_core.events"]
    assert len(said) == 3
    assert all(type(error).__name__ in each for each in said)


def test_a_plugin_that_hangs_is_told_once_however_much_happens_meanwhile(storage, deliver, caplog, monkeypatch):
    reader, free, ahead = Reader(), threading.Event(), [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr(outbox_module, "time", clock)  # who is in time and who is not is not decided by the machine
    outbox = deliver(("hangs", lambda *, events: free.wait(PATIENCE)), ("reader", reader), timeout=1000.0)
    for name in ("a", "b", "c", "d"):
        emit(storage, name)
        reader.until(name)
    newest = storage.read(lambda tx: tx.events())[-1].sequence
    eventually(lambda: storage.read(lambda tx: tx.delivered("reader")) == newest)
    assert outbox.failures == {"hangs": 0, "reader": 0}
    ahead[0] = 1001.0
    eventually(lambda: outbox.failures["hangs"] == 1)
    emit(storage, "e")
    reader.until("e")
    outbox.stop()
    assert outbox.failures == {"hangs": 1, "reader": 0}
    assert [r.getMessage() for r in caplog.records if "takes longer" in r.getMessage()] == [
        "plugin hangs takes longer than 1000 s for a batch of events; what comes waits for it"
    ]
    free.set()


def test_a_backlog_of_many_batches_is_delivered_wholly_before_it_stops(storage, deliver):
    first = deliver(("reader", Reader()))
    first.stop()
    names = [f"e{number}" for number in range(1203)]
    emit(storage, *names)
    reader = Reader()
    deliver(("reader", reader)).stop()
    assert reader.names == names
