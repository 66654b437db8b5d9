"""Is the schema there, and is it ours? Creating and upgrading it.

Our revisions are counted in a table of their own (`oc_alembic_version`), beside upstream's `alembic_version`, so both
products may migrate the same database. A new SQLite file is created from the metadata, without Alembic, since a
person waits for it; a test holds both ways equal.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, Column, Connection, Engine, MetaData, String, Table, inspect, select
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from octavia_core.db.engine import make_engine, parse_url, sqlite_path
from octavia_core.db.faults import translated, where
from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError, TransientError
from octavia_core.settings import Database

__all__ = ["HEAD", "KNOWN", "VERSION_TABLE", "check", "create", "downgrade", "prepare", "upgrade"]

KNOWN = ("oc0001", "oc0002", "oc0003")
"""Our revisions, oldest first; a test compares them with the files in migrations/versions."""

HEAD = KNOWN[-1]
VERSION_TABLE = "oc_alembic_version"

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
_LOCK = 0x0C7A71A  # any number that nobody else locks
_PATIENCE = 60  # seconds that a second migrator waits for the first


def check(engine: Engine) -> None:
    """Look whether the schema is the one that this program needs.

    Raises:
        ConfigurationError: there are no tables, they are older, or a newer version made them.
        TransientError: the database does not answer.
    """
    path = sqlite_path(engine.url)
    try:
        if path is not None and not path.exists():
            found = None  # connecting would create it
        else:
            with engine.connect() as connection:
                found = _revision(connection)
    except SQLAlchemyError as error:
        raise (translated(error, engine.url) or error) from error
    if found == HEAD:
        return
    if found is None:
        raise ConfigurationError(f"{where(engine.url)} has no tables yet; run: octavia-admin db upgrade")
    if found in KNOWN:
        raise ConfigurationError(
            f"{where(engine.url)} is at revision {found}, and this program needs {HEAD}; run: octavia-admin db upgrade"
        )
    raise ConfigurationError(_newer(engine.url, found))


def _newer(url: URL, found: str) -> str:
    return (
        f"{where(url)} was made by a newer version of octavia-core (revision {found}; this one knows {HEAD}); "
        "install that version"
    )


def _revision(connection: Connection) -> str | None:
    query = select(_version.c.version_num)
    try:
        return connection.execute(query).scalar()
    except (OperationalError, ProgrammingError):
        # No such table, which each driver says in its own words; any other trouble shows when we look for tables.
        connection.rollback()
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
    return connection.execute(query).scalar()  # somebody has just made it; any other trouble is there still


def prepare(settings: Database) -> None:
    """Make the schema ready: create it in a new file or database, upgrade an older one, touch nothing when it is ready.

    Raises:
        ConfigurationError: a newer version made it, or the place cannot be used.
    """
    url = parse_url(settings.connection.reveal().decode())
    path = sqlite_path(url)
    if path is not None:
        _touch(path)
    engine = make_engine(settings, url)
    try:
        with engine.connect() as connection:
            found = _revision(connection)
            fresh = found is None and path is not None and not inspect(connection).get_table_names()
        if fresh:
            create(engine)
    except SQLAlchemyError as error:
        raise (translated(error, url) or error) from error
    finally:
        engine.dispose()
    if found != HEAD and not fresh:
        _upgrade(settings, found)


def _touch(path: Path) -> None:
    """Make the file with its owner's rights only; SQLite gives its companions the same.

    It is never opened here: closing it would end the locks that SQLite has on it for other connections of this process
    (sqlite.org/howtocorrupt.html, section 2.2), and the next process to leave would take their log away.
    """
    try:
        os.mknod(os.path.realpath(path), 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigurationError(f"cannot create the database {path}: {error.strerror}") from error


def create(engine: Engine) -> None:
    """Everything at once, from the metadata, in one transaction; what another process did meanwhile is left alone."""
    from octavia_core.db.tables import metadata
    from octavia_core.db.tables.seeds import own_rows, upstream_rows

    with engine.begin() as connection:
        if inspect(connection).has_table(VERSION_TABLE):
            return
        metadata.create_all(connection, checkfirst=False)
        for table, rows in (*upstream_rows(), *own_rows()):
            connection.execute(table.insert().values(rows))
        _version.create(connection)
        connection.execute(_version.insert().values(version_num=HEAD))


def upgrade(url: str | Database) -> None:
    """Bring a database to the newest revision by the migrations; an empty one gets everything. Twice is harmless.

    Raises:
        ConfigurationError: a newer version made it, or upstream's tables in it are not those of upstream 19.
    """
    settings = _settings(url)
    _upgrade(settings, _present(settings))


def _upgrade(settings: Database, found: str | None) -> None:
    if found is not None and found not in KNOWN:
        raise ConfigurationError(_newer(parse_url(settings.connection.reveal().decode()), found))
    _migrate(settings, "upgrade", HEAD)


def downgrade(url: str | Database, revision: str = "base") -> None:
    """Take our tables away again, down to a revision. Upstream's tables stay: they hold the load balancers."""
    settings = _settings(url)
    _present(settings)
    _migrate(settings, "downgrade", revision)


def _settings(url: str | Database) -> Database:
    return url if isinstance(url, Database) else Database(connection=Secret(url))


def _present(settings: Database) -> str | None:
    """Our revision in the database, which answers as promptly as any other time."""
    engine = make_engine(settings)
    try:
        with engine.connect() as connection:
            return _revision(connection)
    except SQLAlchemyError as error:
        raise (translated(error, engine.url) or error) from error
    finally:
        engine.dispose()


def _migrate(settings: Database, command: str, revision: str) -> None:
    """Migrate, with a patience that large tables may need."""
    engine = make_engine(settings, patient=True)
    try:
        _run(engine, command, revision)
    except SQLAlchemyError as error:
        raise (translated(error, engine.url) or error) from error
    finally:
        engine.dispose()


def _run(engine: Engine, command: str, revision: str) -> None:
    from alembic import command as commands
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with engine.connect() as connection, _alone(connection):
        config.attributes["connection"] = connection
        getattr(commands, command)(config, revision)


@contextlib.contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """A transaction in which no other migrator is: kept apart by the write lock of SQLite, by named locks on servers. What it did
    is committed when the next one begins.
    """
    match connection.dialect.name:
        case "postgresql":
            with connection.begin():
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                yield
        case "mysql" | "mariadb":
            if connection.exec_driver_sql(f"SELECT GET_LOCK('octavia_core_schema', {_PATIENCE})").scalar() != 1:
                raise TransientError(f"another process has been upgrading {where(connection.engine.url)} for a while")
            try:
                connection.commit()
                with connection.begin():
                    yield
            finally:
                connection.exec_driver_sql("SELECT RELEASE_LOCK('octavia_core_schema')")
        case _:
            with connection.begin():
                yield
