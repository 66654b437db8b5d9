"""Spares that die or fall silent: removed, never failed over; one that was taken meanwhile is its load balancer's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.ports.compute import ServerSpec
from tests.db.values import new_id
from tests.health.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, 2)
    yield rig
    rig.close()


def spare(rig: Rig) -> Amphora:
    """One that is READY and was heard just now."""
    id = new_id()
    server = rig.world.compute.boot(ServerSpec(name=f"amphora-{id}", amphora_id=id), dict)
    row = Amphora(id=id, status=AmphoraStatus.READY, compute_id=server.id, lb_network_ip=server.management_ip)
    rig.storage.transaction(lambda tx: tx.insert(row))
    rig.memory.keep([rig.beat(id, [])], rig.clock.monotonic())
    rig.writer.flush(rig.clock)
    return row


def about(rig: Rig, amphora_id: str) -> list[Operation]:
    rows = rig.storage.read(lambda tx: tx.operations(open_only=True))
    return [row for row in rows if row.amphora_id == amphora_id]


def test_one_that_died_is_removed(rig: Rig) -> None:
    waits = spare(rig)
    rig.lookout.died(str(waits.compute_id), "its server ended")
    (removal,) = about(rig, waits.id)
    assert (removal.flow, removal.load_balancer_id, removal.subjects) == ("delete-amphora", None, ())
    assert rig.status(waits.id) is AmphoraStatus.ERROR
    (lost,) = [e for e in rig.storage.read(lambda tx: tx.events()) if e.name == "amphora.lost"]
    assert lost.text.startswith("spare amphora")
    assert rig.storage.read(lambda tx: tx.spares()) == []


def test_one_that_was_taken_as_it_died_is_failed_over(rig: Rig) -> None:
    waits = spare(rig)
    rig.look()  # it is known as a spare
    lb = str(rig.amphorae[0].load_balancer_id)
    rig.storage.transaction(lambda tx: tx.settle_amphora(waits.id, AmphoraEvent.ALLOCATE, load_balancer_id=lb))
    rig.lookout.died(str(waits.compute_id), "its server ended")
    (failover,) = about(rig, waits.id)
    assert (failover.flow, failover.load_balancer_id) == ("failover", lb)
    assert rig.status(waits.id) is AmphoraStatus.ALLOCATED


def test_one_that_is_silent_is_removed_and_one_that_is_heard_stays(rig: Rig) -> None:
    silent, heard = spare(rig), spare(rig)
    rig.listeners[heard.id] = new_id()
    rig.mute()
    for _ in range(3):
        rig.pass_(2.0, heard.id, *rig.ids)
        rig.answered(silent.id)
    (removal,) = about(rig, silent.id)
    assert removal.flow == "delete-amphora"
    assert rig.failovers() == []
    assert rig.status(heard.id) is AmphoraStatus.READY
