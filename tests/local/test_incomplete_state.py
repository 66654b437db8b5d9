"""A state directory that lost a part of itself is refused in one sentence, and no amphora is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from octavia_core import Controller
from octavia_core.errors import ConfigurationError, StateDirectoryError


def _without_database(state: Path) -> None:
    for file in state.glob("octavia.db*"):
        file.unlink()


def _with_empty_database(state: Path) -> None:
    _without_database(state)
    (state / "octavia.db").touch(0o600)


def _without_authority(state: Path) -> None:
    shutil.rmtree(state / "authority")


def _with_empty_key(state: Path) -> None:
    (state / "heartbeat.key").write_bytes(b"")


@pytest.mark.parametrize(
    ("lose", "named"),
    [
        (_without_database, "octavia.db"),
        (_with_empty_database, "octavia.db"),
        (_without_authority, "authority"),
        (_with_empty_key, "heartbeat.key"),
    ],
)
def test_what_is_lost_is_named_and_amphorae_are_left_alone(
    lose: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    Controller.open(state).close()
    amphora = state / "amphorae" / "0f5c1a52-6d7e-4a0e-9d35-0d8c6d1d4f10"
    amphora.mkdir(parents=True, mode=0o700)
    (state / "amphorae").chmod(0o700)
    lose(state)
    for run in (True, False):
        with pytest.raises(StateDirectoryError, match=named):
            Controller.open(state, run=run)
    assert amphora.is_dir()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_a_time_that_nothing_could_work_with_is_refused(value: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    Controller.open(state).close()
    (state / "octavia.toml").write_text(f"[health_manager]\nheartbeat_timeout = {value}\n")
    with pytest.raises(ConfigurationError, match="heartbeat_timeout"):
        Controller.open(state, run=False)
