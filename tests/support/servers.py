"""Real MariaDB and PostgreSQL servers for tests: one of each per test run, shared by all xdist workers.

Tests ask for the fixtures of tests/conftest.py:

- `database_url`: SQLAlchemy URL of an empty database, one per test, the test run once for each of sqlite, mariadb and
  postgresql (marked `external` but for SQLite; a server that is missing skips with the command that installs it, and
  fails on CI). Dropped afterwards, even with connections left open.
- `ready_database_url`: the same with our tables in it, which takes far less time (databases.py).
- `module_database_url`: the same, one per module: make the tables once, empty them between tests.
- URLs: `sqlite:///PATH`, `mysql+pymysql://root@localhost/NAME?unix_socket=...`, `postgresql+psycopg://.../NAME?host=DIR`.

A server starts when the first test asks for it (MariaDB about 2 s, PostgreSQL about 1 s), in a folder of its own,
reached by a unix socket in that folder only: no port can clash. The run's main process names the folder in an
environment variable that workers inherit; a lock file there decides who starts a server, a JSON file says how it is
reached. Each server has a guard (guard.py) that ends it with the run, however the run ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import psycopg
import pymysql

from tests.support import system

VARIABLE = "OCTAVIA_TESTS_SERVERS"
MAIN_PROCESS = "OCTAVIA_TESTS_PROCESS"
START_LIMIT = 60.0  # seconds; a busy machine with two cores needs about five
LONGEST_BASE = 44  # bytes of the folder for temporary files, so that sockets' paths below it fit into 107, unix(7)


class CannotStart(Exception):
    """The programs are here, but no server came of them."""


@attrs.frozen(kw_only=True)
class Server:
    """A database server of this run.

    Attributes:
        kind: "mariadb" or "postgresql".
        address: its unix socket (MariaDB), or the folder of its socket (PostgreSQL).
        user: the account of the database's administrator.
    """

    kind: str
    address: str
    user: str

    @contextlib.contextmanager
    def new_database(self) -> Iterator[str]:
        """The SQLAlchemy URL of an empty database, dropped at the end together with its connections."""
        name = self.create()
        try:
            yield self.url(name)
        finally:
            self.disconnect(name)
            self.drop(name)

    def create(self) -> str:
        """Make an empty database, which stays for as long as the server; its name."""
        name = f"t_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database. PostgreSQL gives those whom it has just disconnected five seconds to notice; a busy machine more."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                self.execute(f"DROP DATABASE {name}" + (" WITH (FORCE)" if self.kind == "postgresql" else ""))
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    @property
    def socket_file(self) -> str:
        """The unix socket itself."""
        return self.address if self.kind == "mariadb" else f"{self.address}/.s.PGSQL.5432"

    def url(self, database: str) -> str:
        """SQLAlchemy URL of a database."""
        if self.kind == "mariadb":
            return f"mysql+pymysql://{self.user}@localhost/{database}?unix_socket={self.address}"
        return f"postgresql+psycopg://{self.user}@/{database}?host={self.address}"

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement as administrator, outside of any transaction; the rows it returns, if any."""
        if self.kind == "mariadb":
            with (
                # or it would read all authorities of the machine for each connection, which takes longer than all else
                pymysql.connect(
                    unix_socket=self.address,
                    user=self.user,
                    autocommit=True,
                    ssl_disabled=True,
                    connect_timeout=int(START_LIMIT),
                ) as maria,
                maria.cursor() as cursor,
            ):
                cursor.execute(statement)
                return list(cursor.fetchall())
        with psycopg.connect(host=self.address, user=self.user, dbname="postgres", autocommit=True) as postgres:
            result = postgres.execute(statement)
            return list(result.fetchall()) if result.description else []

    def disconnect(self, database: str) -> None:
        """End all connections to the database, as an operator or a restart would."""
        if self.kind == "mariadb":
            for thread in self.connections(database):
                with contextlib.suppress(pymysql.err.OperationalError):  # 1094: it is gone already
                    self.execute(f"KILL {thread}")
        else:
            self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")

    def connections(self, database: str) -> list[object]:
        """Who is connected to the database, by the server's numbers."""
        if self.kind == "mariadb":
            found = self.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{database}'")
        else:
            found = self.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'")
        return [number for (number,) in found]


DURABLE = "-durable-"
"""In the name of a server that forces its data to the disk, as in production; the worker's name follows."""


def _called(kind: str, *, durable: bool) -> str:
    """The name of a server's folder. Tests kill durable ones and let them stand still, so each worker has its own."""
    return f"{kind}{DURABLE}{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}" if durable else kind


def server(kind: str, *, durable: bool = False) -> Server:
    """The run's server of that kind, started if nobody did; skips (on CI fails) when there cannot be one.

    `durable` asks for another one, of this worker alone, that loses nothing when it is killed: for tests that kill it, and
    for benchmarks.
    """
    program = system.require(kind)
    home = Path(os.environ[VARIABLE])
    name = _called(kind, durable=durable)
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        facts = home / f"{name}.json"
        if not facts.exists():
            _note(facts, _start(kind, program, home / name))
        known = json.loads(facts.read_text(encoding="utf-8"))
    if "error" in known:
        system.unavailable(known["error"])
    return Server(kind=kind, address=known["address"], user=known["user"])


def guard_of(kind: str, *, durable: bool = False) -> int:
    """The guard of a server that was started: the process that the server's own descend from."""
    facts = Path(os.environ[VARIABLE]) / f"{_called(kind, durable=durable)}.json"
    return int(json.loads(facts.read_text(encoding="utf-8"))["guard"])


@contextlib.contextmanager
def killed(kind: str) -> Iterator[None]:
    """Inside the block the durable server of that kind is dead, killed by SIGKILL; afterwards it runs again."""
    program = system.require(kind)
    folder = Path(os.environ[VARIABLE]) / _called(kind, durable=True)
    _kill(guard_of(kind, durable=True))
    try:
        yield
    finally:
        again = _start(kind, program, folder)
        _note(folder.with_suffix(".json"), again)
        if "error" in again:
            system.unavailable(str(again["error"]))


def _kill(guard: int) -> None:
    """SIGKILL for the server below that guard; returns when nothing of it is left: a process of PostgreSQL's that outlives the
    first one for a moment would keep the next one from starting.
    """
    ends = [os.pidfd_open(guard)]
    first = below(guard, deep=False)
    for pid in first:
        os.kill(pid, signal.SIGSTOP)  # it starts no more of them
    for pid in below(guard):
        with contextlib.suppress(ProcessLookupError):
            ends.append(os.pidfd_open(pid))
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    for end in ends:
        ended, _, _ = select.select([end], [], [], START_LIMIT)
        os.close(end)
        assert ended, "a process of a database server does not end"


def below(pid: int, *, deep: bool = True) -> list[int]:
    """The children of a process that has one thread, and theirs."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        found.append(int(child))
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += below(int(child)) if deep else ()
    return found


def _note(facts: Path, content: Mapping[str, object]) -> None:
    """Write down how a server is reached: all of it at once."""
    aside = facts.with_suffix(".new")
    aside.write_text(json.dumps(content), encoding="utf-8")
    aside.replace(facts)


def open_run() -> Path:
    """Make the folder of this run's servers and name it to the workers; for the run's main process."""
    base = tempfile.gettempdir()
    home = Path(tempfile.mkdtemp(prefix="octavia-tests-", dir=base if len(base) <= LONGEST_BASE else "/tmp"))
    home.chmod(0o711)  # servers run under accounts of their own, each in its closed folder below
    os.environ[VARIABLE], os.environ[MAIN_PROCESS] = str(home), str(os.getpid())
    return home


def close_run(home: Path) -> None:
    """End the servers of this run and remove their folder."""
    guards = [json.loads(facts.read_text(encoding="utf-8")).get("guard") for facts in home.glob("*.json")]
    for guard in filter(None, guards):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(guard)
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            select.select([descriptor], [], [], 15)
            os.close(descriptor)
    shutil.rmtree(home, ignore_errors=True)


def _start(kind: str, program: Path, folder: Path) -> dict[str, object]:
    folder.mkdir(mode=0o700, exist_ok=True)
    start = {"mariadb": _start_mariadb, "postgresql": _start_postgresql}[kind]
    try:
        return start(program, folder)
    except (OSError, subprocess.SubprocessError, CannotStart) as error:
        log = folder / "log"
        words = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:] if log.exists() else []
        return {"error": f"{kind} does not start: {error} {' | '.join(words)}"}


def _start_mariadb(program: Path, folder: Path) -> dict[str, object]:
    account = _account(folder, "mysql")
    data, address = folder / "data", folder / "s"
    install = shutil.which("mariadb-install-db") or "mariadb-install-db"
    options = ["--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
    if not data.exists():
        _prepare([install, *options], account, folder)
    careless = [
        # The data is thrown away, so nothing is forced to the disk; what transactions see of each other stays.
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=0",
        "--sync-frm=0",
    ]
    guard = _guarded(
        signal.SIGTERM,
        account,
        folder,
        [
            str(program),
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={address}",
            f"--tmpdir={folder}",
            "--skip-networking",
            "--skip-log-bin",
            "--character-set-server=utf8mb4",
            "--innodb-buffer-pool-size=64M",
            "--max-connections=300",
            *([] if DURABLE in folder.name else careless),
        ],
    )
    candidate = Server(kind="mariadb", address=str(address), user="root")
    _until_it_answers(candidate, guard, pymysql.err.OperationalError)
    return {"address": str(address), "user": "root", "guard": guard}


def _start_postgresql(program: Path, folder: Path) -> dict[str, object]:
    account = _account(folder, "postgres")
    data = folder / "data"
    initdb = program.with_name("initdb")
    encoding = ["-E", "UTF8", "--locale=C"]
    if not data.exists():
        _prepare(
            [str(initdb), "-D", str(data), "-U", "octavia", "-A", "trust", "--no-sync", *encoding], account, folder
        )
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "max_connections": "300",
        "shared_buffers": "64MB",
    }
    if DURABLE not in folder.name:
        # The data is thrown away, so nothing is forced to the disk; what transactions see of each other stays.
        settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    guard = _guarded(signal.SIGQUIT, account, folder, [str(program), "-D", str(data), *options])
    candidate = Server(kind="postgresql", address=str(folder), user="octavia")
    _until_it_answers(candidate, guard, psycopg.OperationalError)
    return {"address": str(folder), "user": "octavia", "guard": guard}


def _account(folder: Path, preferred: str) -> str:
    """The account a server runs under: servers refuse root, so its own one, or nobody; empty for oneself."""
    if os.geteuid() != 0:
        return ""
    names = {entry.pw_name for entry in pwd.getpwall()}
    account = preferred if preferred in names else "nobody"
    shutil.chown(folder, account)
    return account


def _prepare(command: list[str], account: str, folder: Path) -> None:
    with (folder / "log").open("ab") as log:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            timeout=START_LIMIT,
            user=account or None,
            group=pwd.getpwnam(account).pw_gid if account else None,
            extra_groups=[] if account else None,
        )
    if done.returncode:
        raise CannotStart(f"{Path(command[0]).name} ended with {done.returncode}")


def _guarded(last_word: int, account: str, folder: Path, command: list[str]) -> int:
    """Start the server under its guard, detached from this process; the guard's pid."""
    guard = [sys.executable, str(Path(__file__).with_name("guard.py")), os.environ[MAIN_PROCESS], str(int(last_word))]
    log = str(folder / "log")
    return os.posix_spawn(
        sys.executable,
        [*guard, account, str(folder), *command],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _until_it_answers(candidate: Server, guard: int, not_yet: type[Exception]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as knock:  # PyMySQL leaves its socket open when nobody listens
                knock.connect(candidate.socket_file)
            candidate.execute("SELECT 1")
        except (OSError, not_yet) as error:  # there is nothing to wait on before its socket exists
            ended, status = os.waitpid(guard, os.WNOHANG)
            if ended:
                raise CannotStart(f"it ended with {os.waitstatus_to_exitcode(status)}") from error
            if time.monotonic() > deadline:
                os.kill(guard, signal.SIGTERM)
                raise CannotStart(f"no answer within {START_LIMIT:.0f} s") from error
            time.sleep(0.02)
        else:
            return
