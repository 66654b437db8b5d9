"""One local machine for each test that asks for it."""

from __future__ import annotations

import pytest

from tests.local.rig import LocalRig


@pytest.fixture
def rig(tmp_path):
    with LocalRig(tmp_path / "state") as rig:
        yield rig
