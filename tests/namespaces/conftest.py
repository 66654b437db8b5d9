"""Every test here makes network namespaces, or is skipped with the command that lets it; none leaves an interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.main_job.stage import Stage, open_stage
from tests.namespaces.rig import SETTINGS, require_namespaces


@pytest.fixture(autouse=True, scope="session")
def namespaces() -> None:
    require_namespaces()


@pytest.fixture
def stage(tmp_path: Path, namespaces: None) -> Iterator[Stage]:
    """A controller whose amphorae have namespaces; after its story nothing is left."""
    with open_stage(tmp_path / "state", SETTINGS) as stage:
        yield stage
