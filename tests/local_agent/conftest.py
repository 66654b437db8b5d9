"""An agent of its own for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.local_agent.rig import Authorities, Member, Rig


@pytest.fixture(scope="session")
def authorities() -> Authorities:
    """Three authorities and the certificates of controllers."""
    return Authorities()


@pytest.fixture
def make_rig(tmp_path: Path, authorities: Authorities) -> Iterator[Callable[..., Rig]]:
    """Makes rigs that end with the test; `Rig.start` starts the agent."""
    with ExitStack() as stack:

        def make(name: str = "root", **changes: Any) -> Rig:
            return stack.enter_context(Rig(tmp_path / name, authorities, **changes))

        yield make


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """A ready agent."""
    return make_rig().start()


@pytest.fixture
def members() -> Iterator[tuple[Member, Member]]:
    """Two web servers."""
    with Member("one") as one, Member("two") as two:
        yield one, two
