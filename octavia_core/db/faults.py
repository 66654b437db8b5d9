"""What an error of a database means for us: run the transaction again, give up in one sentence, or blame the input."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from octavia_core.errors import BadRequest, ConfigurationError, OctaviaError, TransientError

__all__ = ["Fault", "classify", "translated", "where"]


class Fault(Enum):
    """The kinds of trouble."""

    AGAIN = auto()
    """Deadlock, lock timeout, serialisation failure, or a race for one of our keys: the transaction is run again."""
    HELD = auto()
    """It takes no writes now, as while a replica takes over: may pass."""
    AWAY = auto()
    """The connection is lost or cannot be made: run again, on a new one."""
    FULL = auto()
    """No room: may pass."""
    UNUSABLE = auto()
    """A read-only file, damaged, not a database, no such database, access denied: a person must act."""
    INPUT = auto()
    """The values do not fit: too long, out of range, a key that exists, a reference to nothing."""
    BUG = auto()
    """Anything else: our own mistake."""


_SQLITE = {5: Fault.AGAIN, 6: Fault.AGAIN, 8: Fault.UNUSABLE, 10: Fault.FULL, 11: Fault.UNUSABLE} | {
    13: Fault.FULL,
    14: Fault.UNUSABLE,
    19: Fault.INPUT,
    26: Fault.UNUSABLE,
}
"""Primary result codes, sqlite.org/rescode.html. An I/O error under WAL is nearly always a full disk, too."""

_MYSQL = (
    dict.fromkeys((1205, 1213, 1020), Fault.AGAIN)
    | dict.fromkeys((1290, 1836), Fault.HELD)
    | dict.fromkeys((1040, 1047, 1053, 1927, 2002, 2003, 2006, 2013, 2055), Fault.AWAY)  # 1047: Galera not ready
    | dict.fromkeys((1021, 1114), Fault.FULL)
    | dict.fromkeys((1044, 1045, 1049), Fault.UNUSABLE)
    | dict.fromkeys((1048, 1062, 1264, 1366, 1406, 1451, 1452), Fault.INPUT)
)
"""mariadb.com/kb/en/mariadb-error-code-reference/"""

_POSTGRESQL = {
    "40001": Fault.AGAIN,
    "40P01": Fault.AGAIN,
    "55P03": Fault.AGAIN,
    "08": Fault.AWAY,
    "57": Fault.AWAY,
    "53300": Fault.AWAY,
    "53100": Fault.FULL,
    "28": Fault.UNUSABLE,
    "3D": Fault.UNUSABLE,
    "25006": Fault.HELD,  # a standby that is about to become the primary
    "22": Fault.INPUT,
    "23": Fault.INPUT,
}
"""SQLSTATEs and their classes, postgresql.org/docs/current/errcodes-appendix.html"""


_REFUSED = re.compile(
    r"FATAL:  (password authentication failed|role .* (does not exist|is not permitted to log in)|database .* does not exist"
    r"|no pg_hba\.conf entry|permission denied for database)"
)
"""What PostgreSQL says, in English, of a client that it will not have; libpq gives no SQLSTATE with it."""


def classify(error: SQLAlchemyError) -> Fault:
    """The kind of trouble that an error of SQLAlchemy is."""
    if isinstance(error, PoolTimeout):
        return Fault.AWAY
    if not isinstance(error, DBAPIError):
        return Fault.BUG
    fault = _by_code(error.orig)
    if error.connection_invalidated:
        return Fault.AWAY
    if isinstance(error, IntegrityError) and _duplicate(error.orig) and _about_us(error.statement):
        return Fault.AGAIN
    if fault is None and isinstance(error, (OperationalError, InterfaceError)):
        # drivers give no code when they cannot connect
        return Fault.UNUSABLE if _REFUSED.search(str(error.orig)) else Fault.AWAY
    return fault or Fault.BUG


def _by_code(orig: Any) -> Fault | None:
    code = _code(orig)
    if isinstance(code, str):
        return _POSTGRESQL.get(code) or _POSTGRESQL.get(code[:2], Fault.BUG)
    if code is None:
        return None
    if hasattr(orig, "sqlite_errorcode"):
        return _SQLITE.get(code & 0xFF, Fault.BUG)
    return _MYSQL.get(code, Fault.BUG)


def _code(orig: Any) -> int | str | None:
    """SQLite's extended code, MariaDB's number (which has a state beside it, of less use), PostgreSQL's state."""
    number = getattr(orig, "sqlite_errorcode", None)
    if number is None and getattr(orig, "args", None) and isinstance(orig.args[0], int):
        number = orig.args[0]
    if isinstance(number, int):
        return number or None
    state = getattr(orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _duplicate(orig: Any) -> bool:
    """A key that is there already: SQLITE_CONSTRAINT_UNIQUE and _PRIMARYKEY, ER_DUP_ENTRY, unique_violation."""
    return _code(orig) in (2067, 1555, 1062, "23505")


def _about_us(statement: str | None) -> bool:
    """Our own keys are settled by the database: who loses a race looks again. (MariaDB names a key, not its table.)"""
    return statement is not None and any(verb in statement for verb in ("INSERT INTO oc_", "UPDATE oc_"))


def where(url: URL) -> str:
    """The database as a person knows it: a file, or server and name; never a password."""
    if url.get_backend_name() == "sqlite":
        return f"database {url.database}"
    return f"database {url.render_as_string(hide_password=True)}"


def translated(error: SQLAlchemyError, url: URL) -> OctaviaError | None:
    """The error to raise instead, with one sentence; None for a mistake of ours, which keeps its traceback."""
    words = (str(getattr(error, "orig", "")) or str(error) or type(error).__name__).splitlines()[0]
    match classify(error):
        case Fault.AGAIN:
            return TransientError(f"{where(url)} is busy: {words}")
        case Fault.HELD:
            return TransientError(f"{where(url)} takes no writes now: {words}")
        case Fault.AWAY:
            return TransientError(f"{where(url)} does not answer: {words}")
        case Fault.FULL:
            return TransientError(f"{where(url)} cannot be written: {words}; make room on its file system")
        case Fault.UNUSABLE:
            return ConfigurationError(f"{where(url)} cannot be used: {words}; check that it exists and may be written")
        case Fault.INPUT:
            return BadRequest(_input(words))
    return None


def _input(words: str) -> str:
    for keys, sentence in (
        (
            ("uq_listener_load_balancer_id_protocol_port", "UNIQUE constraint failed: listener.load_balancer_id"),
            "the load balancer already has a listener on that port",
        ),
        (
            ("uq_member_pool_id_address_protocol_port", "UNIQUE constraint failed: member.pool_id"),
            "the pool already has a member with that address and port",
        ),
        (
            ("uq_health_monitor_pool", "UNIQUE constraint failed: health_monitor.pool_id"),
            "the pool already has a health monitor",
        ),
        (
            ("FOREIGN KEY constraint failed", "foreign key constraint"),
            "something that it refers to does not exist, or still refers to it",
        ),
    ):
        if any(key in words for key in keys):
            return sentence
    return f"the database refused the values: {words}"
