"""Failovers where the message queue is away: health manager and worker need nothing but their database."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavia_core import Controller, NewLoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.testing.outside import SimulatedCloud
from octavia_core.testing.simulator import SimulatedCompute
from tests.daemons.test_daemons import PATIENCE, config, daemon, end, settings, until

__all__ = ["config"]


def test_with_rabbitmq_away_what_dies_is_replaced_all_the_same(config: Path) -> None:
    pytest.importorskip("oslo_messaging")
    cloud_conf = config.with_name("octavia.conf")
    cloud_conf.write_text(
        "[DEFAULT]\ntransport_url = rabbit://guest:guest@127.0.0.1:1/\n"
        "[certificates]\nserver_certs_key_passphrase = 0123456789abcdef0123456789abcdef\n"
    )
    with (
        daemon("worker", config, cloud_conf) as worker,
        daemon("health_manager", config, cloud_conf) as health,
        Controller.open(settings=settings(config), run=False) as client,
    ):
        operation = client.create_load_balancer(NewLoadBalancer(name="web"))
        operation.wait(PATIENCE)
        lb = operation.load_balancer_id

        def serving() -> list[str]:
            rows = client.storage.read(lambda tx: tx.amphorae(lb))
            return [row.id for row in rows if row.status is AmphoraStatus.ALLOCATED]

        (first,) = serving()
        cloud = SimulatedCloud(config.parent / "simulator.db")
        SimulatedCompute(cloud).kill(f"amphora-{first}")
        cloud.close()
        until(lambda: bool(serving()) and serving() != [first])
        end(health)
        end(worker)
