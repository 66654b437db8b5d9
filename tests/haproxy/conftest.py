"""Certificates, and the marker that says which fields of the API a test shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.haproxy.certificates import Authority
from tests.support.running import THROUGH_AGENT


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "feature(*names): fields and values of the API that the test shows in HAProxy")


@pytest.fixture(params=["haproxy", pytest.param("agent", marks=pytest.mark.slow)])
def served_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test of a module that uses this runs on HAProxy as rendered, and in the long form through the local agent."""
    token = THROUGH_AGENT.set(request.param == "agent")
    yield request.param
    THROUGH_AGENT.reset(token)


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Signs the certificates of load balancers and members."""
    return Authority()


@pytest.fixture(scope="session")
def client_authority() -> Authority:
    """Signs those of clients."""
    return Authority()
