"""Certificates, and the marker that says which fields of the API a test shows."""

from __future__ import annotations

import pytest

from tests.haproxy.certificates import Authority


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "feature(*names): fields and values of the API that the test shows in HAProxy")


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Signs the certificates of load balancers and members."""
    return Authority()


@pytest.fixture(scope="session")
def client_authority() -> Authority:
    """Signs those of clients."""
    return Authority()
