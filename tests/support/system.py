"""Programs of the system that tests want: where they are, or the command that brings them.

The table is tests/system-packages.toml; noxfile.py reads it too. On CI a missing program is a failure, elsewhere a skip
that says how to get it.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import NoReturn

import pytest

TABLE = Path(__file__).resolve().parents[1] / "system-packages.toml"


def find(name: str) -> Path | None:
    """Where the program of that entry of the table is (the newest, if several), or None."""
    for program in entries()[name]["programs"]:
        if program.startswith("/"):
            matches = sorted(Path("/").glob(program[1:]), key=_numbers)
            if matches:
                return matches[-1]
        else:
            path = shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
            if path:
                return Path(path)
    return None


def require(name: str) -> Path:
    """Where the program is; without it the test is skipped (on CI: fails) with the command that installs it."""
    path = find(name)
    if path is None:
        packages = " ".join(entries()[name]["packages"])
        unavailable(f"{name} is not installed; to enable: sudo apt-get install -y --no-install-recommends {packages}")
    return path


def unavailable(reason: str) -> NoReturn:
    """Skip the test for that reason; on CI, where nothing is skipped silently, fail."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"on CI this may not be missing: {reason}", pytrace=False)
    pytest.skip(reason)


def entries() -> dict[str, dict[str, list[str]]]:
    """The table: name -> programs, packages."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def _numbers(path: Path) -> list[float]:
    return [float(part) for part in path.parts if part.replace(".", "", 1).isdigit()]
