"""Commits that several threads share, for SQLite, which writes for one at a time and waits for the disk each time.

Who wants to write while nobody does begins a transaction, carries out its own work and that of everybody who came
meanwhile, each in a savepoint of its own, and commits once; each is told the outcome after that commit, so nothing is
promised that the disk does not hold. While one group waits for the disk the next one gathers: alone, nobody waits for
company; the more there is to do, the fewer commits it takes. Work runs on the thread that leads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine

from octavia_core.db.turn import Turn
from octavia_core.errors import TransientError

__all__ = ["Regrouped", "Together"]

T = TypeVar("T")

_MOST = 64
"""Works in one commit: other processes want to write, too."""


class Regrouped(TransientError):
    """The transaction that a work was part of came to nothing, by no fault of that work: it is to be run again."""


class _Ticket(Generic[T]):
    """One work, from when it is asked for until its outcome is known."""

    result: T

    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work = work
        self.error: BaseException | None = None
        self.over = False
        self._told = threading.Event()

    def wait(self) -> None:
        """Until it is over, or this thread is to lead."""
        self._told.wait()

    def tell(self, *, over: bool) -> None:
        self.over = over
        self._told.set()

    @property
    def told(self) -> bool:
        """It is over, or this thread is to lead."""
        return self._told.is_set()

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result


class Together:
    """Carries out works on one SQLite file, several of them in one transaction. Any number of threads."""

    def __init__(self, engine: Engine, turn: Turn) -> None:
        self._engine, self._turn = engine, turn
        self._lock = threading.Lock()
        self._queue: deque[_Ticket[Any]] = deque()
        self._led = False
        self._leader: int | None = None

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, which is committed when this returns.

        Raises:
            Regrouped: run it again: the company's transaction came to nothing.
            RuntimeError: it is called from within a work.
            anything: what the work raised, which then has changed nothing; or what the database said to the commit.
        """
        if self._leader == threading.get_ident():
            raise RuntimeError("transactions do not nest: hand the transaction on")
        mine, leads = _Ticket(work), False
        try:
            with self._lock:
                self._queue.append(mine)
                leads, self._led = not self._led, True
            if not leads:
                mine.wait()
        except BaseException:  # an interrupted thread must neither be waited for nor be made to lead
            self._leave(mine, leads)
            raise
        if not mine.over:
            self._lead(mine)
        return mine.outcome()

    def _lead(self, mine: _Ticket[Any]) -> None:
        group: list[_Ticket[Any]] = []
        self._leader = threading.get_ident()
        try:
            with self._turn, self._engine.connect() as connection, connection.begin():
                while (ticket := self._next(len(group))) is not None:
                    group.append(ticket)
                    _carry_out(ticket, connection)
        except BaseException as error:  # whatever it is: everybody in the group is told, and this thread with them
            if not group:  # it could not even begin
                with self._lock:
                    self._queue.remove(mine)
                group.append(mine)
            _came_to_nothing(group, mine, error)
        finally:
            self._leader = None
            for ticket in group:
                ticket.tell(over=True)
            with self._lock:
                self._hand_on()

    def _hand_on(self) -> None:
        """The next one leads, if there is one. Under the lock, so that whoever leaves knows whether it was told to."""
        self._led = bool(self._queue)
        if self._queue:
            self._queue[0].tell(over=False)

    def _leave(self, mine: _Ticket[Any], leads: bool) -> None:
        """Take back a work that has not begun; one that has is carried out, and nobody hears of it."""
        with self._lock:
            if mine in self._queue:
                self._queue.remove(mine)
                if leads or mine.told:
                    self._hand_on()

    def _next(self, already: int) -> _Ticket[Any] | None:
        with self._lock:
            return self._queue.popleft() if self._queue and already < _MOST else None


def _came_to_nothing(group: Sequence[_Ticket[Any]], mine: _Ticket[Any], error: BaseException) -> None:
    """Tell everybody in the group; what its last work did wrong, or what interrupted this thread, is not theirs."""
    for ticket in group:
        if isinstance(error, Regrouped):
            ticket.error = ticket.error if ticket is group[-1] else error
        elif isinstance(error, Exception) or ticket is mine:
            ticket.error = error
        else:
            ticket.error = Regrouped("the thread that led a shared transaction was interrupted")


def _carry_out(ticket: _Ticket[Any], connection: Connection) -> None:
    """One work in a savepoint; what it raises is its own affair.

    Raises:
        Regrouped: SQLite has taken back the whole transaction (a full disk).
    """
    raw: Any = connection.connection.dbapi_connection
    raw.execute("SAVEPOINT work")
    try:
        ticket.result = ticket.work(connection)
    except BaseException as error:  # whatever it is, it is raised again in the thread that asked for the work
        ticket.error = error
        if not raw.in_transaction:
            raise Regrouped("the database has taken back a transaction that was shared") from error
        raw.execute("ROLLBACK TO work")
        if isinstance(error, KeyboardInterrupt):  # it comes to the main thread, whatever that is doing
            raise
    raw.execute("RELEASE work")
