"""An offer: a worker that has a thread free takes an operation of its own process in the very transaction that stores it.

So nobody has to look for it, and to claim it by one more commit. It is stored as a claim of the first fence would leave it: when
this process dies before it begins, its lease ends, and any worker resumes it.
"""

from __future__ import annotations

import threading

__all__ = ["Offer"]


class Offer:
    """For one operation that is about to be stored. For one thread.

    Args:
        holder: the worker.
        lease: seconds.
        free: its threads that are free; one is kept when the offer is taken. None: there are none.

    Attributes:
        operation_id: of the operation that was to be stored last; None while no thread is kept.
    """

    def __init__(self, holder: str, lease: float, free: threading.Semaphore | None) -> None:
        self.holder, self.lease = holder, lease
        self.operation_id: str | None = None
        self._free = free

    def take(self, operation_id: str) -> bool:
        """Whether a thread is kept for it. Again, in another attempt at the transaction, it is the same thread."""
        if self.operation_id is None and (self._free is None or not self._free.acquire(blocking=False)):
            return False
        self.operation_id = operation_id
        return True
