"""Programs of the stage: a message broker, a database, processes - each in a folder of its own, restartable, ended with the run.

Every program runs under tests/support/guard.py, which ends it when the test run ends, however that happens.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support import servers, system

__all__ = ["Broker", "Database", "Process", "free_port", "until"]

PATIENCE = 90.0
"""Seconds after which what should happen counts as not happening; the machine may be busy."""


def until(what: str, done: Callable[[], object], *, within: float = PATIENCE, pause: float = 0.05) -> None:
    """Look again and again until `done` is true; there is nothing to wait on outside of one's own process."""
    deadline = time.monotonic() + within
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"within {within:.0f} s not: {what}")
        time.sleep(pause)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A program that is started, stopped, killed and started again.

    Args:
        name: of its log file.
        folder: where it runs and logs.
        command: what it is.
        environment: added to a clean environment.
        account: whom it runs as; empty for oneself.
        last_word: the signal that ends it gently.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        account: str = "",
        last_word: int = signal.SIGTERM,
    ) -> None:
        self.name, self.folder, self.command, self.account = name, folder, list(command), account
        self.last_word = last_word
        kept = {key: os.environ[key] for key in ("LANG", "PYTHONPATH") if key in os.environ}
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        self.environment = {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder), **kept, **(environment or {})}
        self.guard: subprocess.Popen[bytes] | None = None
        self.log = folder / f"{name}.log"

    def start(self) -> None:
        """Start it, under its guard."""
        assert self.guard is None
        line = [sys.executable, "-S", servers.__file__.replace("servers.py", "guard.py")]
        line += [os.environ[servers.MAIN_PROCESS], str(int(self.last_word)), self.account, str(self.folder)]
        with self.log.open("ab") as log:
            self.guard = subprocess.Popen(
                [*line, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End it gently. Twice is harmless."""
        if self.guard is not None:
            self.guard.terminate()
            self.guard.wait(30)
            self.guard = None

    def kill(self) -> None:
        """Kill the program and everything it started, as a power cut would, and wait until all are gone."""
        if self.guard is None:
            return
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.guard.wait(30)
        self.guard = None

    def running(self) -> bool:
        """Whether it runs now."""
        return self.guard is not None and self.guard.poll() is None

    def pids(self) -> list[int]:
        """The program and its descendants, the guard left out."""
        assert self.guard is not None
        found, todo = [], [self.guard.pid]
        while todo:
            children = _children(todo.pop())
            found += children
            todo += children
        return found

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-6000:] if self.log.exists() else ""


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in task.read_text(encoding="ascii").split()]
    return found


class Broker:
    """RabbitMQ on free ports: its own folder, cookie, node name and name server (epmd)."""

    def __init__(self, folder: Path) -> None:
        system.require("rabbitmq")
        self.folder = folder
        folder.mkdir(mode=0o755)
        account = _account(folder, "rabbitmq")
        self.port, names, between = free_port(), free_port(), free_port()
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console.level = warning\nlog.file = false\n"
            "disk_free_limit.absolute = 10MB\nloopback_users = none\n",
            encoding="ascii",
        )
        (folder / "plugins").write_text("[].\n", encoding="ascii")
        environment = {
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"octavia{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(between),
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "rabbit.pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",  # idle means idle
        }
        _give(folder, account)
        self.names = Process("epmd", folder, [_epmd(), "-port", str(names)], environment, account=account)
        self.server = Process("rabbit", folder, [_rabbit()], environment, account=account)

    @property
    def url(self) -> str:
        """As [DEFAULT] transport_url."""
        return f"rabbit://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        if not self.names.running():
            self.names.start()
        self.server.start()
        until(f"RabbitMQ answers: {self.server.said()}", self._answers)

    def stop(self) -> None:
        """Stop it; what is durable stays for the next start."""
        self.server.stop()

    def close(self) -> None:
        """End everything."""
        self.server.stop()
        self.names.stop()

    def _answers(self) -> bool:
        """Whether it speaks AMQP: its first words to a client that greets with 0-9-1."""
        assert self.server.running(), self.server.said()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                client.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(client.recv(8))
        except OSError:
            return False


class Database:
    """A MariaDB of one's own, so that it can be stopped."""

    def __init__(self, folder: Path) -> None:
        program = system.require("mariadb")
        folder.mkdir(mode=0o755)
        account = _account(folder, "mysql")
        _give(folder, account)
        self.folder, self.socket = folder, folder / "s"
        install = shutil.which("mariadb-install-db") or "mariadb-install-db"
        options = ["--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal"]
        prepare = Process("install", folder, [install, *options, "--skip-test-db"], account=account)
        prepare.start()
        assert prepare.guard is not None
        assert prepare.guard.wait(PATIENCE) == 0, prepare.said()
        self.server = Process(
            "mariadb",
            folder,
            [
                str(program),
                "--no-defaults",
                f"--datadir={folder}/data",
                f"--socket={self.socket}",
                f"--tmpdir={folder}",
                "--skip-networking",
                "--skip-log-bin",
                "--character-set-server=utf8mb4",
                "--innodb-buffer-pool-size=64M",
                "--max-connections=300",
                "--innodb-flush-log-at-trx-commit=0",  # the data is thrown away
                "--innodb-doublewrite=0",
                "--sync-frm=0",
            ],
            account=account,
        )

    @property
    def url(self) -> str:
        """As [database] connection."""
        return f"mysql+pymysql://root@localhost/octavia?unix_socket={self.socket}&charset=utf8mb4"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.server.start()
        until(f"MariaDB answers: {self.server.said()}", self._answers)

    def stop(self) -> None:
        """Stop it; its data stays."""
        self.server.stop()

    def rows(self, statement: str, *values: object) -> list[dict[str, object]]:
        """Run a statement; what it returns."""
        import pymysql
        import pymysql.cursors

        with (
            pymysql.connect(
                unix_socket=str(self.socket), user="root", autocommit=True, cursorclass=pymysql.cursors.DictCursor
            ) as connection,
            connection.cursor() as cursor,
        ):
            if self._named:
                connection.select_db("octavia")
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    _named = False

    def make(self) -> None:
        """Make the database that everybody uses."""
        self.rows("CREATE DATABASE octavia CHARACTER SET utf8mb3")
        self._named = True

    def _answers(self) -> bool:
        import pymysql

        assert self.server.running(), self.server.said()
        try:
            with socket.socket(socket.AF_UNIX) as knock:  # PyMySQL leaves its socket open when nobody listens
                knock.connect(str(self.socket))
            self.rows("SELECT 1")
        except (OSError, pymysql.err.OperationalError):
            return False
        return True


def _account(folder: Path, preferred: str) -> str:
    if os.geteuid() != 0:
        return ""
    return preferred if preferred in {entry.pw_name for entry in pwd.getpwall()} else "nobody"


def _give(folder: Path, account: str) -> None:
    if account:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, account)


def _epmd() -> str:
    found = shutil.which("epmd") or next((str(p) for p in Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), None)
    return found or system.unavailable("epmd, which comes with Erlang, is not there")


def _rabbit() -> str:
    """The start script itself: the one on PATH changes the account and insists on /var/lib."""
    inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(inner) if inner.exists() else str(system.require("rabbitmq"))


def wait_for(pid: int) -> None:
    """Wait until a process that is not our child is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        select.select([descriptor], [], [], PATIENCE)
        os.close(descriptor)
