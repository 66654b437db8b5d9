"""Signals of the system as calls on a thread of their own."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Container, Iterator, Mapping

__all__ = ["on_signals"]


@contextlib.contextmanager
def on_signals(handlers: Mapping[int, Callable[[], object]], *, once: Container[int] = ()) -> Iterator[None]:
    """While inside, each arrival of a signal is a call of its handler, on one thread, in the order of arrival.

    Python runs what `signal.signal` is given on the main thread, between any two steps of whatever it does, also while
    it holds a lock: one that sets the very `threading.Event` the main thread is about to wait for may wait for itself
    for ever. Here the main thread only puts the number into a `queue.SimpleQueue`, whose `put` is made for that.

    Args:
        handlers: what to do at which signal.
        once: signals that have their default effect when they come again.

    Only for the main thread (ValueError elsewhere). At the end the former handlers are back, and no call is under way.
    """
    arrived: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def note(number: int, _: object) -> None:
        if number in once:
            signal.signal(number, signal.SIG_DFL)
        arrived.put(number)

    def obey() -> None:
        for number in iter(arrived.get, None):
            handlers[number]()

    thread = threading.Thread(target=obey, name="signals", daemon=True)
    thread.start()
    before = {}
    try:
        for number in handlers:
            before[number] = signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        arrived.put(None)
        thread.join()
