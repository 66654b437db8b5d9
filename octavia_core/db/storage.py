"""The storage port over SQLAlchemy Core: transactions that are run again when the database asks for it.

What a lost COMMIT did is found out, not guessed: each transaction leaves a token, in the row of the operation that it
acts for, or in a table of its own, unless it stores an operation whose row tells; when the connection breaks at COMMIT, the next attempt looks for the token and
returns what the first one returned. So no work is ever applied twice. (SQLite has no connection to lose.)
"""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy import BigInteger, Connection, Engine, bindparam, delete, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    wait_random_exponential,
)

from octavia_core.db import schema
from octavia_core.db.clock import db_now
from octavia_core.db.engine import READS, SETTLED, make_engine, sqlite_path
from octavia_core.db.faults import Fault, classify, translated, where
from octavia_core.db.prepared import Prepared, Wire
from octavia_core.db.queue import Queue, microseconds
from octavia_core.db.tables.own import oc_commit, oc_operation
from octavia_core.db.together import Regrouped, Together
from octavia_core.db.transaction import SqlTransaction
from octavia_core.db.turn import Turn
from octavia_core.errors import ConfigurationError, TransientError
from octavia_core.ports.storage import Claim, FenceLost, Transaction
from octavia_core.settings import Database, Settings

__all__ = ["SqlStorage", "prepare"]

T = TypeVar("T")

_OF = oc_operation.c
_MINE = (
    _OF.id == bindparam("b_id"),
    _OF.fence == bindparam("b_fence"),
    _OF.holder == bindparam("b_holder"),
)
_EXTEND = Prepared(
    update(oc_operation)
    .where(*_MINE)
    .values(
        lease_until=db_now() + bindparam("b_lease", type_=BigInteger()),
        commit_token=bindparam("b_token"),
        updated_at=db_now(),
    )
)
_LOCK = Prepared(update(oc_operation).where(_OF.id == bindparam("b_id")).values(updated_at=_OF.updated_at))
_TOKEN = Prepared(select(_OF.commit_token).where(_OF.id == bindparam("id")))
_NOW = Prepared(select(db_now().label("now")))

_PRUNE_EVERY = 500
_TOKENS_LIVE = microseconds(3600)


def prepare(settings: Settings) -> None:
    """Create or upgrade the schema, so that `SqlStorage.open` finds it. Twice is harmless; a ready one is not touched.

    Raises:
        ConfigurationError: a newer version made it, or the database cannot be used.
        TransientError: the database does not answer.
    """
    schema.prepare(settings.database)


class SqlStorage(Queue):
    """`octavia_core.ports.storage.Storage` on SQLite, MariaDB and PostgreSQL. Any number of threads; one process."""

    def __init__(self, engine: Engine, settings: Database) -> None:
        self._engine = engine
        self.wire = Wire(engine.dialect)
        self._reader = engine.execution_options(**{READS: True})
        path = sqlite_path(engine.url)
        self._turn = None if path is None else Turn(path.with_name(f"{path.name}-turn"))
        self.one_writer = self._turn is not None
        self._together = None if self._turn is None else Together(engine, self._turn)
        self._tokens = 0
        # below 0 is "no limit" in octavia.conf; here it would hold a thread for as long as the database is away
        attempts = settings.max_retries if settings.max_retries >= 0 else Database().max_retries
        self._again, self._attempts = attempts > 1, stop_after_attempt(max(attempts - 1, 1))
        self._patience = settings.answer_timeout or math.inf  # attempts that each end by a time limit: few, not many
        self._patient = Retrying(  # after the first attempt, which nearly always is the only one
            retry=retry_if_exception(_passes),
            stop=self._attempts,
            wait=wait_random_exponential(multiplier=0.01, max=settings.retry_interval),
            reraise=True,
        )

    @classmethod
    def open(cls, settings: Settings) -> SqlStorage:
        """Connect, and check that the schema is ready.

        Raises:
            ConfigurationError: no tables, older or newer ones, a wrong URL, a file that cannot be used.
            TransientError: the database does not answer.
        """
        engine = make_engine(settings.database)
        try:
            schema.check(engine)
        except BaseException:  # no connection is left open, Ctrl-C included
            engine.dispose()
            raise
        return cls(engine, settings.database)

    def room(self) -> int | None:
        """Bytes left where an embedded database lies; None for a server."""
        path = sqlite_path(self._engine.url)
        return None if path is None else shutil.disk_usage(path.parent).free

    def place(self) -> str:
        """The directory of an SQLite file, or server and name."""
        path = sqlite_path(self._engine.url)
        return where(self._engine.url) if path is None else str(path.parent)

    def unwritable(self) -> str | None:
        """Why nothing can be stored; see the port."""
        try:
            self.turn("written", 0.0)
        except (TransientError, ConfigurationError) as error:
            return str(error)
        return None

    def transaction(self, work: Callable[[Transaction], T], *, claim: Claim | None = None) -> T:
        """Run `work` in one transaction and commit; run it again when the database asks for that."""
        return self.write(work, claim=claim)

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one consistent snapshot."""
        return self.look(work)

    def write(self, work: Callable[[SqlTransaction], T], *, claim: Claim | None = None, marks: bool = False) -> T:
        """`transaction`, for this room: with statements of its own.

        Args:
            work: what to do.
            claim: shown first.
            marks: the work leaves its transaction's `token` in the rows that it changes, and finds them by it when it is
                run again: so nothing else has to tell whether a lost COMMIT arrived.
        """
        attempt = _Attempt(work, claim, marks)
        if self._together is None:
            return self._run(lambda: self._alone(attempt))
        together = self._together
        return self._run(lambda: together.write(lambda connection: self._carry_out(connection, attempt)))

    def look(self, work: Callable[[SqlTransaction], T]) -> T:
        """`read`, for this room."""

        def once() -> T:
            with self._reader.connect() as connection:
                connection.begin()
                found = work(SqlTransaction(connection, writes=False, wire=self.wire))
                _commit(connection)
                return found

        return self._run(once)

    def now(self) -> int:
        """The database's clock, microseconds since the epoch."""
        return int(self.look(lambda tx: tx.value(_NOW)))

    def close(self) -> None:
        """Give connections back. Twice is harmless."""
        self._engine.dispose()
        if self._turn is not None:
            self._turn.close()

    def _run(self, once: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            try:
                return once()
            except (SQLAlchemyError, Regrouped) as error:
                left = began + self._patience - time.monotonic()
                if not self._again or left <= 0 or not _passes(error):
                    raise
            return self._patient.copy(stop=stop_any(self._attempts, stop_after_delay(left)))(once)
        except SQLAlchemyError as error:
            told = translated(error, self._engine.url)
            if told is None:
                raise
            raise told from error

    def _alone(self, attempt: _Attempt[T]) -> T:
        with self._engine.connect() as connection:
            connection.begin()
            if attempt.uncertain and not attempt.marks and self._arrived(connection, attempt):
                return attempt.result
            self._carry_out(connection, attempt)
            try:
                _commit(connection)
            except DBAPIError as error:
                attempt.uncertain = classify(error) is Fault.AWAY
                raise
            return attempt.result

    def _carry_out(self, connection: Connection, attempt: _Attempt[T]) -> T:
        tx = SqlTransaction(connection, writes=True, wire=self.wire)
        tx.token = attempt.token
        if attempt.claim is not None:
            _show(tx, attempt.claim, attempt.token)
        attempt.result = attempt.work(tx)
        tx.flush()
        attempt.proof = tx.proof
        told = attempt.claim is not None or attempt.marks or attempt.told or self._together is not None
        if tx.changed and not told and tx.proof is None:
            self._leave_token(tx, attempt.token)
        return attempt.result

    def _arrived(self, connection: Connection, attempt: _Attempt[T]) -> bool:
        """Did the COMMIT whose answer was lost arrive? Waits for it where it is still under way."""
        tx = SqlTransaction(connection, writes=True, wire=self.wire)
        if attempt.claim is not None:
            tx.write(_LOCK, {"b_id": attempt.claim.operation_id})
            found = tx.value(_TOKEN, id=attempt.claim.operation_id)
            return bool(found == attempt.token)
        if attempt.proof is not None:
            # one that still is under way is waited for here, or by the key when its row is inserted again
            return tx.write(_LOCK, {"b_id": attempt.proof}) == 1
        try:
            self._leave_token(tx, attempt.token)
            attempt.told = True
        except IntegrityError:
            connection.rollback()
            return True
        return False

    def _leave_token(self, tx: SqlTransaction, token: str) -> None:
        tx.add_rows(oc_commit, [{"token": token}], at=db_now())
        self._tokens += 1
        if self._tokens % _PRUNE_EVERY == 0:
            tx.write(delete(oc_commit).where(oc_commit.c.at < db_now() - _TOKENS_LIVE))


def _commit(connection: Connection) -> None:
    connection.commit()
    connection.info[SETTLED] = True


class _Attempt(Generic[T]):
    """What is known of one call over all its attempts."""

    result: T

    def __init__(self, work: Callable[[SqlTransaction], T], claim: Claim | None, marks: bool) -> None:
        self.work, self.claim, self.marks = work, claim, marks
        self.token = str(uuid.uuid4())
        self.uncertain = False
        self.told = False  # its token has been left already, by this attempt
        self.proof: str | None = None  # the operation that the uncertain attempt would have stored


def _show(tx: SqlTransaction, claim: Claim, token: str) -> None:
    """The fenced update that every transaction of a run begins with: it locks the row and extends the lease."""
    values = {
        "b_id": claim.operation_id,
        "b_fence": claim.fence,
        "b_holder": claim.holder,
        "b_lease": microseconds(claim.lease),
        "b_token": token,
    }
    if tx.write(_EXTEND, values) != 1:
        raise FenceLost(claim.operation_id, claim.fence)


def _passes(error: BaseException) -> bool:
    if isinstance(error, SQLAlchemyError):
        return classify(error) in (Fault.AGAIN, Fault.HELD, Fault.AWAY)
    return isinstance(error, Regrouped)
