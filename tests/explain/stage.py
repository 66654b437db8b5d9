"""A cloud of simulated drivers with a real worker daemon, and both ways to ask it why: the library and the command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from sqlalchemy import update

from octavia_core import Controller
from octavia_core.certs.authority import create_authorities
from octavia_core.cli.program import run
from octavia_core.controller.explain import Explanation
from octavia_core.controller.sources import load_settings
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.db.tables.own import oc_observer
from octavia_core.domain.codec import to_json
from octavia_core.settings import Settings
from octavia_core.testing.outside import SimulatedCloud

PAGE = Path(__file__).parents[2] / "docs/how-to/find-out-why.md"
PATIENCE = 60.0
LEASE = 1.0
"""Seconds, where it is about workers that die."""
STEADY = 600.0
"""Seconds of a lease where nobody dies: what a worker said holds, however long it stands still."""
MOVING = ("age", "next_attempt", "next", "summary")
"""What differs between two questions although nothing happened: it holds seconds."""


@attrs.frozen
class Said:
    """What the command gave."""

    code: int
    out: str
    err: str


def still(said: Explanation) -> dict[str, Any]:
    """What of it does not change from moment to moment."""
    return {k: v for k, v in to_json(said).items() if k not in MOVING}


def settled(said: Explanation) -> tuple[dict[str, Any], set[str]]:
    """What of it does not change from moment to moment, and which of the rest it has at all."""
    return still(said), {k for k, v in to_json(said).items() if v is not None}


@attrs.define(eq=False)
class Stage:
    """A folder with settings, a simulated cloud, and a client of its database. `lease`: as its workers have it, seconds."""

    folder: Path
    url: str
    lease: float = attrs.field(default=LEASE, kw_only=True)
    table: str = ""
    """What the command said last."""

    @property
    def config(self) -> Path:
        return self.folder / "octavia.toml"

    @property
    def settings(self) -> Settings:
        return load_settings([str(self.config)], state_directory=str(self.folder))

    @property
    def cloud(self) -> SimulatedCloud:
        return SimulatedCloud(self.folder / "simulator.db")

    def write(self, **groups: str) -> None:
        """The settings; more of them by group."""
        authority = self.folder / "authority"
        create_authorities(str(authority))
        self.config.write_text(f"""
[controller_worker]
compute_driver = "noop"
network_driver = "noop"
amphora_driver = "noop"
workers = 1
client_ca = "{authority}/controllers.pem"
[certificates]
cert_manager = "noop"
ca_certificate = "{authority}/agents.pem"
ca_private_key = "{authority}/agents.key"
[haproxy_amphora]
client_cert = "{authority}/controller.pem"
server_ca = "{authority}/agents.pem"
[engine]
poll_interval = 0.1
lease = {self.lease}
{groups.get("engine", "")}
[database]
connection = "{self.url}"
{groups.get("database", "")}
[health_manager]
heartbeat_key = "only for tests"
{groups.get("health", "")}
""")

    def make(self, **groups: str) -> None:
        """The settings and the tables."""
        self.write(**groups)
        prepare(self.settings)
        self.heard()

    def heard(self) -> None:
        """A health manager says that it lives, for an hour."""
        storage = SqlStorage.open(self.settings)

        def say(tx: Any) -> None:
            tx.observe("elsewhere:1:abcd", {}, keep=3600)
            tx.write(update(oc_observer).values(written_at=oc_observer.c.written_at + 3_600_000_000))

        storage.transaction(say)
        storage.close()

    @contextlib.contextmanager
    def client(self) -> Iterator[Controller]:
        with Controller.open(settings=self.settings, run=False) as opened:
            yield opened

    @contextlib.contextmanager
    def worker(self, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """The worker daemon; `OCTAVIA_WORKER_NUMBER="0"` makes it one process without anybody to replace it."""
        program = [sys.executable, "-m", "octavia_daemons.worker"]
        options = ["--config-file", str(self.config), "--state-directory", str(self.folder)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | more
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [*program, *options], stdin=subprocess.PIPE, stderr=log, env=environment, start_new_session=True
            )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()  # a lone process ends by that; a supervisor's children end with it
            process.kill()
            process.wait()

    def admin(self, *words: str) -> Said:
        """The command, on the cloud's settings, without what it repeats of them in its advice (tests/cli/test_hints.py)."""
        out, err = io.StringIO(), io.StringIO()
        options = ["--config-file", str(self.config), "--state", str(self.folder)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*words, *options])
        assert "Traceback" not in out.getvalue() + err.getvalue()
        repeated = f" {' '.join(options)}"
        return Said(code, out.getvalue().replace(repeated, ""), err.getvalue().replace(repeated, ""))

    def why(self, client: Controller, id: str) -> Explanation:
        """The library's answer; the command's table and JSON must be the same one.

        It is asked before and after the commands, since meanwhile somebody's word may end, and the answer be another.
        """
        after = client.why(id)
        for _ in range(5):
            said = after
            answered, table = self.admin("why", id, "--json"), self.admin("why", id)
            after = client.why(id)
            if settled(after) == settled(said):
                break
        assert (answered.code, answered.err) == (table.code, table.err) == (0, "")
        found, wanted = json.loads(answered.out), to_json(said)
        assert {k: v for k, v in found.items() if k not in MOVING} == still(said)
        assert {k for k, v in found.items() if v is not None} == {k for k, v in wanted.items() if v is not None}
        self.table = table.out
        first, *rest = table.out.splitlines()
        assert first.startswith(f"{said.kind} ")
        assert said.status in first
        for fact in (said.holder, said.step, said.cause, *said.problems, *said.advice):
            assert fact is None or fact in table.out
        labels = {line[2:15].strip() for line in rest}
        for label, value in (("held by", said.holder), ("for", said.age), ("next attempt", said.next_attempt)):
            assert (label in labels) == (value is not None), table.out
        return said

    def shown(self, title: str) -> None:
        """The page shows what the command said last, under that title; ids, numbers and the machine's name are others."""
        page = PAGE.read_text(encoding="utf-8")
        section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        block = section.partition("```text\n")[2].partition("```")[0]
        assert plain(block) == plain(self.table), f"{PAGE.name}, {title}:\n{self.table}"


def plain(text: str) -> str:
    """Without what is different each time."""
    text = text.replace(f" on {socket.gethostname()[:40]}", " on HOST").replace(" on controller-1", " on HOST")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"database \S+", "database URL", text)
    text = re.sub(r"\d+(\.\d+)? (ms|min \d+ s|s)\b", "N of time", text)
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def until(true: Callable[[], Any], what: str = "") -> Any:
    """Wait for something that stays true once it is."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not (found := true()):
        assert time.monotonic() < deadline, f"it did not come true in time: {what}"
        pause.wait(0.02)
    return found
