"""One stage for all tests of this folder; each test leaves it running and settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.peers.octavia_api.clients import Clients
from tests.peers.octavia_api.programs import until
from tests.peers.octavia_api.stage import Stage, stage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need upstream's programs, are long, and stay in one xdist worker."""
    for item in items:
        if "peers/octavia_api" in item.nodeid:
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.external)
            item.add_marker(pytest.mark.timeout(300))
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # the clients' libraries warn about each other
            item.add_marker(pytest.mark.xdist_group("octavia_api"))


@pytest.fixture(scope="session")
def running() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture
def on(running: Stage) -> Iterator[Stage]:
    """The stage, everything running, with a cloud that fails nothing."""
    running.cloud().heal()
    yield running
    running.cloud().heal()
    for program in (running.consumer, running.worker):
        assert program.running(), program.said()


@pytest.fixture(scope="session")
def clients(running: Stage) -> Clients:
    return Clients(running.url)


@pytest.fixture
def settled(on: Stage) -> Callable[[], None]:
    """Wait until nothing is under way, and check that nothing was made twice."""

    def wait() -> None:
        until(f"nothing is pending: {on.pending()} {on.open_operations()}", lambda: not on.pending(), within=60)
        until(f"no operation is open: {on.open_operations()}", lambda: not on.open_operations(), within=60)
        assert on.cloud().made_twice() == []

    return wait
