"""An offer: a worker that has a thread free takes an operation of its own process in the very transaction that stores it.

So nobody has to look for it, and to claim it by one more commit. It is stored as a claim of the first fence would leave it: when
this process dies before it begins, its lease ends, and any worker resumes it.
"""

from __future__ import annotations

import threading

__all__ = ["Offer", "Offers"]


class Offers:
    """Keeps threads of a worker for what is about to be stored. For any thread.

    Args:
        free: its threads that are free.
    """

    def __init__(self, free: threading.Semaphore) -> None:
        self._free = free
        self._kept, self._closed, self._changed = 0, False, threading.Condition()

    def keep(self) -> bool:
        """Whether a thread is kept, which `give` ends; none is once these are closed."""
        with self._changed:
            if self._closed or not self._free.acquire(blocking=False):
                return False
            self._kept += 1
            return True

    def give(self, *, used: bool) -> None:
        """What a thread was kept for is on its way to it, or it is not needed and free again."""
        if not used:
            self._free.release()
        with self._changed:
            self._kept -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Keep none any more, and wait until those that are kept were given: what is being stored is still carried out."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._kept)


class Offer:
    """For one operation that is about to be stored. For one thread.

    Args:
        holder: the worker.
        lease: seconds.
        offers: of the worker; a thread is kept when the offer is taken.

    Attributes:
        operation_id: of the operation that was to be stored last; None while no thread is kept.
    """

    def __init__(self, holder: str, lease: float, offers: Offers) -> None:
        self.holder, self.lease = holder, lease
        self.operation_id: str | None = None
        self._offers = offers

    def take(self, operation_id: str) -> bool:
        """Whether a thread is kept for it. Again, in another attempt at the transaction, it is the same thread."""
        if self.operation_id is None and not self._offers.keep():
            return False
        self.operation_id = operation_id
        return True
