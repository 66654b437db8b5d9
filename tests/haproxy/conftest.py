"""Certificates, and in which ways load balancers are served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.haproxy.certificates import Authority
from tests.support.running import SERVE


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of a module that uses `served_by` runs on HAProxy as rendered; one that shows a feature is wished of a
    controller as well; and in the long form all go through the driver and the local agent.
    """
    if "served_by" in metafunc.fixturenames:
        feature = metafunc.definition.get_closest_marker("feature")
        by_wish = ["library"] if feature is not None and "library" not in feature.kwargs else []
        ways = ["haproxy", *by_wish, pytest.param("agent", marks=pytest.mark.slow)]
        metafunc.parametrize("served_by", ways, indirect=True)


@pytest.fixture
def served_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """The way: "haproxy", "library" or "agent"."""
    way: str = request.param
    if way == "haproxy":
        yield way
        return
    if way == "library":
        serve = request.getfixturevalue("library").serve
    else:
        from tests.support.through_agent import serve_by_agent

        serve = serve_by_agent
    token = SERVE.set(serve)
    yield way
    SERVE.reset(token)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A controller that all of these tests wish of."""
    from tests.support.through_library import open_library

    with open_library(tmp_path_factory.mktemp("library") / "state") as found:
        yield found


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Signs the certificates of load balancers and members."""
    return Authority()


@pytest.fixture(scope="session")
def client_authority() -> Authority:
    """Signs those of clients."""
    return Authority()
