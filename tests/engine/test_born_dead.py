"""An amphora whose death is noticed while it is being built is replaced as soon as its building ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from tests.engine.outside import SCENARIOS, Engine, prepared

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("name", ["create", "failover"])
def test_it_gets_a_failover_of_its_own(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    prepared(BY_NAME[name], folder)
    engine = Engine.open(folder)
    before = {amphora.id for amphora in engine.storage.read(lambda tx: tx.amphorae())}
    declared: list[str] = []

    def declare(point: str, path: str) -> None:
        """Health notices the death when the amphora has the VIP, and nothing to serve on it yet."""
        if declared or point != "before" or not path.endswith("/push"):
            return
        (newest,) = [a for a in engine.storage.read(lambda tx: tx.amphorae()) if a.id not in before]
        declared.append(newest.id)
        assert engine.storage.transaction(lambda tx: tx.declare_dead(newest.id))

    try:
        engine.settle(probe=declare)
        assert declared
        (serving,) = engine.storage.read(lambda tx: tx.amphorae())
        assert serving.status is AmphoraStatus.ALLOCATED
        assert serving.id not in declared
        assert engine.load_balancer().provisioning_status is Provisioning.ACTIVE
        assert [server.name for server in engine.world.compute.list()] == [f"amphora-{serving.id}"]
        assert engine.cloud.made_twice() == []
    finally:
        engine.close()
