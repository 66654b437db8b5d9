"""Connections: what each database is told before the first statement.

SQLite: WAL, foreign keys, synchronous=FULL, BEGIN IMMEDIATE for whoever writes (a reader that turns writer could only
fail), five seconds of patience with another process. MariaDB and PostgreSQL: READ COMMITTED to write, one snapshot to
read. An engine belongs to the process that made it: after a fork, open another.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, NoSuchModuleError

from octavia_core.db.prepared import send
from octavia_core.db.silence import connect_arguments, limit_silence
from octavia_core.errors import ConfigurationError, DriverUnavailable
from octavia_core.settings import Database

__all__ = ["READS", "SETTLED", "make_engine", "parse_url", "sqlite_path"]

READS = "oc_reads"
"""Execution option of connections that only read."""
SETTLED = "oc_settled"
"""In the `info` of a connection to a server: its transaction was committed, and nothing was begun since; so it goes back to
the pool without the ROLLBACK that it gets otherwise, which is a round trip for nothing."""

_DRIVERS = {"mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql", "postgresql": "postgresql+psycopg"} | {
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite+pysqlite",
}
_EXTRA = {"mysql": "mysql", "mariadb": "mysql", "postgresql": "postgresql"}

_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "9p"}
    | {f"fuse.{kind}" for kind in ("sshfs", "glusterfs", "ceph", "s3fs", "rclone")}
)
"""Where locks and shared memory are not to be trusted: sqlite.org/wal.html, 'All processes must be on the same host'."""

_MOUNTS = Path("/proc/mounts")

_CHECKPOINT = 4000
"""Pages (of 4 KiB) in the write-ahead log until they are carried over, by a commit that takes so much longer: SQLite's own
choice of 1000 is a quarter of that, and an operation writes a hundred (sqlite.org/wal.html, section 4.1)."""

_BUSY = 5.0
"""Seconds of patience with another process that writes."""

_IDLE = 30.0
"""Seconds that a pooled connection may lie unused before it is pinged: cheaper than a ping each time."""


def parse_url(text: str) -> URL:
    """The URL with the driver that this product brings; a bare `mysql://` or `postgresql://` will do.

    Raises:
        ConfigurationError: not a URL of SQLite, MariaDB/MySQL or PostgreSQL, or SQLite without a file.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "[database] connection is not a database URL; it looks like sqlite:////path/octavia.db, "
            "mysql+pymysql://user:password@host/octavia or postgresql+psycopg://user:password@host/octavia"
        ) from None
    backend = url.get_backend_name()
    if backend not in _DRIVERS:
        raise ConfigurationError(
            f"[database] connection: {backend!r} is not supported; use sqlite, mysql+pymysql or postgresql+psycopg"
        )
    if url.drivername == backend:
        url = url.set(drivername=_DRIVERS[backend])
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigurationError("[database] connection: SQLite needs a file, such as sqlite:////path/octavia.db")
    return url


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite URL, None for servers."""
    return Path(url.database).absolute() if url.get_backend_name() == "sqlite" and url.database else None


def make_engine(settings: Database, url: URL | None = None, *, patient: bool = False) -> Engine:
    """An engine with a pool, ready for many threads. Connects to nothing yet.

    Args:
        settings: the group [database].
        url: where it is, when that is known already.
        patient: a server may be silent for as long as it takes: for migrations.

    Raises:
        ConfigurationError: the URL is wrong, or its SQLite file lies on a network file system.
        DriverUnavailable: the database's driver is not installed.
    """
    url = url or parse_url(settings.connection.reveal().decode())
    path = sqlite_path(url)
    options: dict[str, Any] = {
        "pool_size": settings.max_pool_size,
        "max_overflow": 2 * settings.max_pool_size,
        "pool_timeout": 10,
        "hide_parameters": True,
    }
    answer = 0.0 if patient else settings.answer_timeout
    if path is not None:
        _refuse_network(path.parent)
        options["connect_args"] = {"timeout": _BUSY, "check_same_thread": False, "isolation_level": None}
    else:
        # the connection that was used last is the one whose statements the server has at hand
        options |= {"pool_recycle": 3600, "pool_reset_on_return": None, "pool_use_lifo": True}
        options["connect_args"] = connect_arguments(url, connect=settings.connect_timeout, answer=answer)
        if url.get_driver_name() == "pymysql" and "unix_socket" in url.query:
            # PyMySQL would read all authorities of the machine for each connection (50 ms), for a socket in the file system
            options["connect_args"]["ssl_disabled"] = True
        if url.get_backend_name() == "postgresql":
            options["isolation_level"] = "READ COMMITTED"
    try:
        engine = create_engine(url, **options)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        extra = _EXTRA.get(url.get_backend_name(), "all")
        raise DriverUnavailable(
            f"no driver for {url.drivername} is installed; run: pip install 'octavia-core[{extra}]'"
        ) from error
    _listen(engine)
    limit_silence(engine, answer)
    return engine


def _listen(engine: Engine) -> None:
    backend = engine.dialect.name
    home = os.getpid()
    if backend == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "reset", lambda dbapi, record, state: _reset(engine, dbapi, record, state))
        event.listen(engine, "checkin", _note_time)
        event.listen(engine, "checkout", lambda dbapi, record, _: _ping(engine, dbapi, record))
        if backend == "postgresql":
            event.listen(engine, "begin", _begin_postgresql)
        else:
            event.listen(engine, "connect", _prepare_mysql)
            event.listen(engine, "begin", _begin_mysql)

    def at_home(*_: Any) -> None:
        if os.getpid() != home:
            raise RuntimeError("this storage was opened before a fork: open another one in each process")

    event.listen(engine, "checkout", at_home)


def _prepare_sqlite(dbapi: Any, _: Any) -> None:
    cursor = dbapi.cursor()
    try:
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        _keep_a_log(dbapi, cursor)
    finally:
        cursor.close()


def _keep_a_log(dbapi: Any, cursor: Any) -> None:
    """Two that turn a new file to WAL at the same time: one of them is refused at once, since SQLite waits for nobody there."""
    until = time.monotonic() + _BUSY
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except dbapi.OperationalError as refused:
            if not refused.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(0.001)


def _begin_sqlite(connection: Any) -> None:
    reads = connection.get_execution_options().get(READS)
    send(connection, "BEGIN" if reads else "BEGIN IMMEDIATE")


def _prepare_mysql(dbapi: Any, _: Any) -> None:
    cursor = dbapi.cursor()
    try:
        # MySQL would cut what is gathered from several rows after 1024 bytes
        cursor.execute("SET time_zone = '+00:00', SESSION group_concat_max_len = 16777216")
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    finally:
        cursor.close()


def _begin_mysql(connection: Any) -> None:
    if connection.get_execution_options().get(READS):
        send(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        send(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


def _begin_postgresql(connection: Any) -> None:
    if connection.get_execution_options().get(READS):
        send(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def _reset(engine: Engine, dbapi: Any, record: Any, state: Any) -> None:
    settled = record is not None and record.info.pop(SETTLED, False)
    if not settled and not state.transaction_was_reset:
        engine.dialect.do_rollback(dbapi)


def _note_time(_: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _ping(engine: Engine, dbapi: Any, record: Any) -> None:
    if time.monotonic() - record.info.get("used", time.monotonic()) < _IDLE:
        return
    try:
        alive = engine.dialect.do_ping(dbapi)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError("the connection was lost while it lay unused") from error
    if not alive:  # then the others are likely to be, and to ask each of them may cost a time limit each
        raise InvalidatePoolError("the connection was lost while it lay unused")


def _refuse_network(directory: Path) -> None:
    kind = _file_system(directory)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{directory} is on a network file system ({kind}), where SQLite is not safe; "
            "choose a directory on a local disk, or a MariaDB or PostgreSQL server"
        )


def _file_system(directory: Path) -> str:
    """The type of the file system that holds a directory, from the mount table; '' where there is none."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    wanted = directory.resolve()
    found, kind = -1, ""
    for line in lines:
        fields = line.split(" ")
        point = Path(fields[1].encode("utf-8", "surrogateescape").decode("unicode_escape", "surrogateescape"))
        if wanted.is_relative_to(point) and len(point.parts) >= found:
            found, kind = len(point.parts), fields[2]
    return kind
