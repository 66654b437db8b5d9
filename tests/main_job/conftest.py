"""Controllers for the stories of the main job: one for all stories of a module, or one of a story's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.haproxy.certificates import Authority
from tests.main_job.stage import Stage, open_stage
from tests.support.calm import CALM


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A controller that the stories of a module share; each leaves it as it likes."""
    with open_stage(tmp_path_factory.mktemp("stage") / "state", CALM) as stage:
        yield stage


@pytest.fixture
def own_stage(tmp_path: Path) -> Iterator[Stage]:
    """A controller that a story may kill."""
    with open_stage(tmp_path / "state", CALM) as stage:
        yield stage


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Issues the certificates of listeners, members and clients."""
    return Authority()
