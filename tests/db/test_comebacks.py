"""Failovers that failed come back: by the rows, with growing pauses, counted anew when somebody else tried."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from octavia_core.controller import governing
from octavia_core.controller.health.again import Comebacks
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Operation, OperationState
from octavia_core.domain.tree import LoadBalancer, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.settings import Engine, Settings
from tests.db.test_fleet import served
from tests.db.values import amphora, new_id, operation


def settings(**engine: float) -> Settings:
    values = {"failover_retry_first": 0.0, "failover_retry_longest": 0.0} | engine
    return Settings(engine=Engine(**values))


@pytest.fixture
def again(storage: SqlStorage) -> Comebacks:
    return Comebacks(storage, settings(), lambda: None)


def failovers(storage: SqlStorage, box: Amphora) -> list[Operation]:
    """Oldest first."""
    found = storage.read(lambda tx: tx.operations(load_balancer_id=box.load_balancer_id))
    return sorted(found, key=lambda one: one.created_at)


def fail(storage: SqlStorage, box: Amphora, reason: str) -> None:
    row = failovers(storage, box)[-1]
    storage.transaction(lambda tx: tx.close_operation(row.id, OperationState.FAILED, reason))


def test_what_failed_is_tried_again_and_again_with_its_reason(storage: SqlStorage, again: Comebacks) -> None:
    box = served(storage, AmphoraStatus.ERROR)
    for attempt in (1, 2, 3):
        assert again.look() == 1
        assert again.look() == 0, "it is under way"
        (row,) = storage.read(lambda tx: tx.comebacks())
        assert (row.attempts, row.operation_id) == (attempt, failovers(storage, box)[-1].id)
        fail(storage, box, f"no valid host, {attempt}")
    again.look()
    (row,) = storage.read(lambda tx: tx.comebacks())
    assert row.reason == "no valid host, 3"
    events = [e for e in storage.read(lambda tx: tx.events()) if e.name == "failover.again"]
    assert [e.data["attempt"] for e in events] == [1, 2, 3, 4]
    assert {o.actor for o in failovers(storage, box)} == {"health"}


def test_pauses_grow_from_the_failure_and_have_an_end(storage: SqlStorage, again: Comebacks) -> None:
    slow = Comebacks(storage, settings(failover_retry_first=30.0, failover_retry_longest=100.0), lambda: None)
    box = served(storage, AmphoraStatus.ERROR)
    seen = []
    for _ in range(4):
        again.look()
        fail(storage, box, "no valid host")
        assert slow.look() == 0, "it is not time yet"
        (row,) = storage.read(lambda tx: tx.comebacks())
        ended = failovers(storage, box)[-1].finished_at
        assert ended is not None
        seen.append(round((row.next_at - ended) / 1_000_000))
        storage.transaction(lambda tx, row=row: tx.set_comeback(attrs.evolve(row, next_at=0)))  # type: ignore[misc]
    assert seen == [60, 100, 100, 100]


def test_what_is_replaced_is_forgotten(storage: SqlStorage, again: Comebacks) -> None:
    box = served(storage, AmphoraStatus.ERROR)
    again.look()
    row = failovers(storage, box)[-1]

    def replaced(tx: object) -> None:
        tx.settle_amphora(box.id, AmphoraEvent.DELETE)  # type: ignore[attr-defined]
        tx.settle_amphora(box.id, AmphoraEvent.DELETED)  # type: ignore[attr-defined]
        tx.close_operation(row.id, OperationState.SUCCEEDED)  # type: ignore[attr-defined]

    storage.transaction(replaced)
    assert again.look() == 0
    assert storage.read(lambda tx: tx.comebacks()) == []


def test_somebody_elses_failover_begins_the_count_anew(storage: SqlStorage, again: Comebacks) -> None:
    box = served(storage, AmphoraStatus.ERROR)
    for _ in range(3):
        again.look()
        fail(storage, box, "no valid host")
    mine = operation(box.load_balancer_id, flow="failover", actor="jo")
    storage.transaction(lambda tx: tx.add_operation(mine))
    again.look()
    fail(storage, box, "quota")
    again.look()
    (row,) = storage.read(lambda tx: tx.comebacks())
    assert (row.attempts, row.reason) == (1, "quota")


def test_a_pause_and_missing_tokens_hold_it_and_it_is_not_forgotten(storage: SqlStorage, again: Comebacks) -> None:
    served(storage, AmphoraStatus.ERROR)
    governing.pause(storage, actor="jo", reason="upgrade")
    assert again.look() == 0
    governing.resume(storage, actor="jo")
    storage.transaction(lambda tx: (tx.governing(hold=True), tx.set_tokens(0.5)))
    poor = Comebacks(storage, Settings(engine=attrs.evolve(settings().engine, failovers_per_minute=0.001)), int)
    assert poor.look() == 0
    assert len(storage.read(lambda tx: tx.comebacks())) == 1
    storage.transaction(lambda tx: (tx.governing(hold=True), tx.set_tokens(1.0)))
    assert again.look() == 1


def test_a_load_balancer_whose_deletion_failed_is_not_rebuilt(storage: SqlStorage, again: Comebacks) -> None:
    box = served(storage, AmphoraStatus.ERROR)
    storage.transaction(lambda tx: tx.add_operation(operation(box.load_balancer_id, flow="delete", actor="jo")))
    fail(storage, box, "the network is away")
    assert again.look() == 0
    assert storage.read(lambda tx: tx.comebacks()) == []


def made(storage: SqlStorage, address: str | None, *, by_us: bool) -> Amphora:
    """An amphora in ERROR of a load balancer that has no revision of ours."""
    tree = LoadBalancer(id=new_id(), provisioning_status=Provisioning.ERROR, vip=Vip(ip_address=address))
    box = amphora(tree.id, status=AmphoraStatus.ERROR)
    storage.transaction(lambda tx: (tx.insert(tree), tx.insert(box)))
    if by_us:
        row = storage.transaction(lambda tx: tx.add_operation(operation(tree.id, flow="create")))
        storage.transaction(lambda tx: tx.close_operation(row.id, OperationState.FAILED, "no valid host"))
    return box


def test_what_somebody_else_has_built_comes_back_as_often_as_it_takes(storage: SqlStorage, again: Comebacks) -> None:
    made(storage, None, by_us=False)
    made(storage, "10.0.0.5", by_us=True)
    box = made(storage, "10.0.0.6", by_us=False)
    for attempt in (1, 2):
        assert again.look() == 1, "the others were never built"
        (row,) = storage.read(lambda tx: tx.comebacks())
        assert (row.amphora_id, row.attempts) == (box.id, attempt)
        tree = storage.read(lambda tx: tx.tree(str(box.load_balancer_id)))
        storage.transaction(lambda tx, of=tree, n=attempt: tx.store_revision(of.id, of, str(n)))  # type: ignore[misc]
        fail(storage, box, "no valid host")


def test_two_of_one_load_balancer_come_back_one_after_the_other(storage: SqlStorage, again: Comebacks) -> None:
    box = served(storage, AmphoraStatus.ALLOCATED, Provisioning.ACTIVE)
    peer = attrs.evolve(box, id=box.id[::-1][:36])
    storage.transaction(lambda tx: (tx.insert(peer), tx.declare_dead(box.id), tx.declare_dead(peer.id)))
    assert again.look() == 1
    assert len(storage.read(lambda tx: tx.comebacks())) == 2


def test_managers_take_turns(storage: SqlStorage) -> None:
    served(storage, AmphoraStatus.ERROR)
    made: list[Callable[[float], int]] = [
        Comebacks(storage, settings(failover_retry_first=100.0), lambda: None).tick for _ in range(3)
    ]
    for tick in made:
        tick(0.0)
    planned = [e for e in storage.read(lambda tx: tx.events()) if e.name == "failover.planned"]
    assert len(planned) == 1
