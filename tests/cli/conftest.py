"""`octavia-admin` as people and scripts run it: as a process, on a state directory of the test's own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from octavia_core.cli.program import run
from tests.support.calm import write_settings

PATIENCE = 60.0


@attrs.frozen
class Said:
    """What a run of the command gave."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@attrs.frozen
class Admin:
    """Runs octavia-admin on one state directory."""

    state: Path
    started: list[subprocess.Popen[str]] = attrs.field(factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "OCTAVIA_STATE": str(self.state),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "COLUMNS": "120",
        }

    def calm(self) -> Admin:
        """The same, where nobody is taken for dead who is only slow; before there is a state directory."""
        write_settings(self.state)
        return self

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "octavia_core.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=more.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            **more,
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str, code: int = 0) -> Said:
        """Run it to its end; the exit code must be `code`."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        said = Said(process.returncode, out, err)
        assert "Traceback" not in said.err + said.out
        assert said.code == code, said
        return said

    def inside(self, *arguments: str, code: int = 0) -> Said:
        """The same inside this process, which is quicker: where a process of its own adds nothing."""
        out, err = io.StringIO(), io.StringIO()
        with self._chosen(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = run(arguments)
        said = Said(ended, out.getvalue(), err.getvalue())
        assert said.code == code, said
        return said

    @contextlib.contextmanager
    def _chosen(self) -> Iterator[None]:
        """By the environment, as for a process: sentences then name commands without --state."""
        before = os.environ.get("OCTAVIA_STATE")
        os.environ["OCTAVIA_STATE"] = str(self.state)
        try:
            yield
        finally:
            if before is None:
                del os.environ["OCTAVIA_STATE"]
            else:
                os.environ["OCTAVIA_STATE"] = before

    @contextlib.contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """A controller that is ready; ended at the end if it still runs."""
        process = self.start("up", "--json", "--quiet")
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            assert '"ready": true' in ready, process.communicate()[1]
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    """The command on a fresh state directory; whatever it started has ended afterwards."""
    runner = Admin(tmp_path / "state")
    yield runner
    for process in runner.started:
        if process.poll() is None:  # of a test that failed
            process.kill()
            process.communicate()
    if (runner.state / "state.json").exists():
        runner.inside("down")
