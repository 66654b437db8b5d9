"""Bad input and bad places: one sentence each, nothing lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from sqlalchemy import event

from octavia_core.db import engine as engine_module
from octavia_core.db import schema
from octavia_core.db.engine import make_engine, parse_url
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError, DriverUnavailable, TransientError
from octavia_core.settings import Database
from tests.db.conftest import settings_for
from tests.db.values import balancer
from tests.support import servers


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "is not a database URL"),
        ("oracle://x/y", "'oracle' is not supported"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        parse_url(url)


@pytest.mark.parametrize(
    ("short", "driver"),
    [
        ("mysql://u@h/d", "mysql+pymysql"),
        ("mariadb://u@h/d", "mariadb+pymysql"),
        ("postgresql://h/d", "postgresql+psycopg"),
    ],
)
def test_a_url_without_driver_gets_ours(short, driver):
    assert parse_url(short).drivername == driver
    assert parse_url(f"{driver}://u@h/d").drivername == driver


def test_a_driver_that_is_not_installed_names_the_extra():
    with pytest.raises(DriverUnavailable, match=r"pip install 'octavia-core\[mysql\]'"):
        make_engine(Database(connection=Secret("mysql+mysqldb://h/d")))


def test_the_password_is_in_no_message(tmp_path):
    engine = make_engine(Database(connection=Secret("postgresql+psycopg://u:hush@localhost:1/d")))
    with pytest.raises(TransientError) as caught:
        schema.check(engine)
    assert "hush" not in str(caught.value)
    assert "***" in str(caught.value)


MOUNTS = "/dev/vda / ext4 rw 0 0\nserver:/x {nfs} nfs4 rw 0 0\n/dev/vdb {disk} xfs rw 0 0\n"


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    shared, disk = tmp_path / "on network", tmp_path / "on network" / "disk"
    disk.mkdir(parents=True)
    escaped = {name: str(path).replace(" ", "\\040") for name, path in (("nfs", shared), ("disk", disk))}
    table = tmp_path / "mounts"
    table.write_text(MOUNTS.format(**escaped))
    monkeypatch.setattr(engine_module, "_MOUNTS", table)
    with pytest.raises(ConfigurationError, match=r"on network is on a network file system \(nfs4\)"):
        make_engine(Database(connection=Secret(f"sqlite:///{shared}/octavia.db")))
    make_engine(Database(connection=Secret(f"sqlite:///{disk}/octavia.db"))).dispose()
    make_engine(Database(connection=Secret(f"sqlite:///{tmp_path}/octavia.db"))).dispose()


@pytest.fixture
def settings(tmp_path):
    made = settings_for(f"sqlite:///{tmp_path}/octavia.db", max_retries=2)
    prepare(made)
    return made


def path_of(settings):
    return Path(settings.database.connection.reveal().decode().removeprefix("sqlite:///"))


def test_sqlite_is_told_what_a_crash_must_not_lose(settings):
    storage = SqlStorage.open(settings)
    with storage._engine.connect() as connection:
        told = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    storage.close()
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_full_disk_is_said_in_one_sentence_and_passes(settings):
    storage = SqlStorage.open(settings)
    pages = sqlite3.connect(path_of(settings)).execute("PRAGMA page_count").fetchone()[0]
    limit = [pages]
    event.listen(storage._engine, "checkout", lambda raw, *_: raw.execute(f"PRAGMA max_page_count = {limit[0]}"))
    storage._engine.dispose()
    wish = balancer(description="x" * 200)

    def many(tx):
        for _ in range(2000):
            tx.insert(balancer(description="x" * 200))

    with pytest.raises(TransientError, match=r"octavia.db cannot be written: .*full; make room"):
        storage.transaction(many)
    assert storage.read(lambda tx: tx.load_balancers()) == []
    limit[0] = 10 * pages
    storage.transaction(lambda tx: tx.insert(wish))
    assert [each.id for each in storage.read(lambda tx: tx.load_balancers())] == [wish.id]
    storage.close()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "octavia.db").write_bytes(b"something else entirely" * 100)
    settings = settings_for(f"sqlite:///{tmp_path}/octavia.db")
    for refused in (SqlStorage.open, prepare):
        with pytest.raises(ConfigurationError, match=r"octavia.db cannot be used: file is not a database"):
            refused(settings)


def test_a_damaged_file_is_refused_in_one_sentence(settings):
    storage = SqlStorage.open(settings)
    storage.transaction(lambda tx: [tx.insert(balancer()) for _ in range(50)])
    storage.close()
    path = path_of(settings)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises((ConfigurationError, TransientError), match=r"octavia\.db"):
        SqlStorage.open(settings)


def test_a_place_that_is_not_there_is_refused(tmp_path):
    settings = settings_for(f"sqlite:///{tmp_path}/none/octavia.db")
    with pytest.raises(ConfigurationError, match=r"cannot create the database .*No such file or directory"):
        prepare(settings)
    with pytest.raises(ConfigurationError, match="no tables yet"):
        SqlStorage.open(settings)


def test_preparing_from_two_processes_at_once_makes_one_schema(tmp_path):
    url = f"sqlite:///{tmp_path}/octavia.db"
    program = (
        "import sys\nfrom octavia_core.db import schema\nfrom octavia_core.domain.secret import Secret\n"
        "from octavia_core.settings import Database\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "schema.prepare(Database(connection=Secret(sys.argv[1])))\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for each in both:
        assert each.stdout.readline() == "ready\n"
    for each in both:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in both:
        each.communicate(timeout=60)
        assert each.returncode == 0
    SqlStorage.open(settings_for(url)).close()


def test_whoever_prepares_again_keeps_the_locks_of_this_process(settings):
    """As a second controller of one process does; otherwise the next process to leave would take the log of the first away."""
    storage = SqlStorage.open(settings)
    storage.transaction(lambda tx: tx.insert(balancer(name="first")))
    prepare(settings)
    program = (
        "import sys\nfrom octavia_core.db.storage import SqlStorage\nfrom octavia_core.domain.secret import Secret\n"
        "from octavia_core.settings import Database, Settings\n"
        "storage = SqlStorage.open(Settings(database=Database(connection=Secret(sys.argv[1]))))\n"
        "print(*sorted(each.name for each in storage.read(lambda tx: tx.load_balancers())))\n"
        "storage.close()\n"
    )
    line = [sys.executable, "-c", program, settings.database.connection.reveal().decode()]
    seen = []
    for name in ("second", "third"):
        seen.append(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split())
        storage.transaction(lambda tx, name=name: tx.insert(balancer(name=name)))
    storage.close()
    assert seen == [["first"], ["first", "second"]]
    assert Path(f"{path_of(settings)}-wal").exists() is False, "the last one to leave takes it away"


def test_a_storage_belongs_to_the_process_that_opened_it(settings):
    storage = SqlStorage.open(settings)
    storage.now()
    with warnings.catch_warnings():  # a library that another test of this process loaded may warn of any fork
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            storage.now()
        except RuntimeError as error:
            os._exit(0 if "fork" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    storage.close()
    storage.close()


def test_importing_the_room_connects_to_nothing_and_loads_no_driver():
    program = (
        "import sys, octavia_core.db.storage, octavia_core.db.schema\n"
        "print(sorted({'pymysql', 'psycopg', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.external
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
@pytest.mark.parametrize("wrong", ["account", "database"])
def test_a_server_that_refuses_is_no_server_that_is_away(kind: str, wrong: str) -> None:
    server = servers.server(kind)
    url = server.url("nothing_here" if wrong == "database" else {"mariadb": "mysql"}.get(kind, "postgres"))
    if wrong == "account":
        url = url.replace(f"//{server.user}@", "//stranger@")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        SqlStorage.open(settings_for(url, max_retries=1))


@pytest.mark.external
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_that_takes_no_writes_for_a_while_is_a_trouble_that_passes(database_url):
    """As a standby that becomes the primary in a moment: whoever asks tries again."""
    settings = settings_for(database_url, max_retries=2, retry_interval=0.01)
    prepare(settings)
    engine = make_engine(settings.database)
    with engine.begin() as connection:
        name = engine.url.database
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    engine.dispose()
    storage = SqlStorage.open(settings)
    with pytest.raises(TransientError, match=r"takes no writes now: .*read-only transaction"):
        storage.transaction(lambda tx: tx.insert(balancer()))
    storage.close()
