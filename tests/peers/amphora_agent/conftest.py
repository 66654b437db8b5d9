"""One amphora with the unmodified agent for all tests of this folder, and our driver as its controller."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need root and programs of an amphora, are long, and stay in one xdist worker, in their order."""
    for item in items:
        if "peers/amphora_agent" in item.nodeid:
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.external)
            item.add_marker(pytest.mark.timeout(300))
            item.add_marker(pytest.mark.xdist_group("amphora_agent"))
