"""Every test here makes network namespaces, or is skipped with the command that lets it; none leaves an interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.main_job.stage import Stage
from tests.namespaces.rig import open_stage_inside, require_namespaces


@pytest.fixture(autouse=True, scope="session")
def namespaces() -> None:
    require_namespaces()


@pytest.fixture
def stage(tmp_path: Path, namespaces: None) -> Iterator[Stage]:
    """A controller whose amphorae have namespaces; after its story nothing is left."""
    with open_stage_inside(tmp_path / "state") as stage:
        yield stage
