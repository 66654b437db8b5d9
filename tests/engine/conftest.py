"""Who kills workers: one server of victims for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.victims import Victims, victims


@pytest.fixture(scope="session")
def killer() -> Iterator[Victims]:
    """Runs workers that die or stand still."""
    with victims() as server:
        yield server
