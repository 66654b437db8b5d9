"""What health managers share: the pause, the tokens, one row of figures each, and failovers that come back."""

from __future__ import annotations

import threading
from typing import Any

import attrs
from sqlalchemy import text

from octavia_core.db import schema
from octavia_core.db.engine import make_engine
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Event, OperationState
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning
from octavia_core.ports.fleet import Comeback
from octavia_core.settings import Database
from tests.db.values import amphora, new_id, operation

SECOND = 1_000_000


def test_nobody_has_paused_and_nobody_has_counted_at_first(storage: SqlStorage) -> None:
    found = storage.read(lambda tx: tx.governing())
    assert (found.paused_by, found.tokens) == (None, None)
    assert storage.transaction(lambda tx: tx.governing(hold=True)).tokens is None


def test_a_pause_is_seen_by_everybody_until_it_is_over(storage: SqlStorage) -> None:
    storage.transaction(lambda tx: tx.set_pause("jo", "switch is replaced"))
    found = storage.read(lambda tx: tx.governing())
    assert (found.paused_by, found.paused_reason) == ("jo", "switch is replaced")
    assert found.paused_at is not None
    assert found.paused_at <= found.now
    storage.transaction(lambda tx: tx.set_tokens(2.5))
    storage.transaction(lambda tx: tx.set_pause(None, None))
    found = storage.read(lambda tx: tx.governing())
    assert (found.paused_by, found.paused_reason, found.paused_at, found.tokens) == (None, None, None, 2.5)


def test_who_takes_tokens_at_once_never_gets_more_than_there_are(storage: SqlStorage) -> None:
    storage.transaction(lambda tx: (tx.governing(hold=True), tx.set_tokens(20.0)))
    got: list[int] = []

    def take() -> None:
        got.extend(storage.transaction(some) for _ in range(5))

    def some(tx: Any) -> int:
        left = tx.governing(hold=True).tokens
        many = min(3, int(left))
        tx.set_tokens(left - many)
        return many

    threads = [threading.Thread(target=take) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(got) == 20
    assert storage.read(lambda tx: tx.governing()).tokens == 0


def test_a_health_manager_has_one_row_and_old_ones_go(storage: SqlStorage) -> None:
    storage.transaction(lambda tx: tx.observe("old", {"accepted": 1}, keep=60))
    storage.write(lambda tx: tx.write(text("UPDATE oc_observer SET written_at = 5")))
    for count in (1, 2):
        storage.transaction(lambda tx, n=count: tx.observe("here", {"accepted": n, "by": {"late": 3}}, keep=60))  # type: ignore[misc]
    (found,) = storage.read(lambda tx: tx.observers())
    assert (found.name, found.figures) == ("here", {"accepted": 2, "by": {"late": 3}})
    assert abs(storage.now() - found.written_at) < 60 * SECOND


def served(storage: SqlStorage, status: AmphoraStatus, lb: Provisioning = Provisioning.ERROR) -> Amphora:
    """An amphora of a load balancer that has served before."""
    tree = LoadBalancer(id=new_id(), provisioning_status=lb)
    box = amphora(tree.id, status=status)
    storage.transaction(lambda tx: (tx.insert(tree), tx.insert(box)))
    number = storage.transaction(lambda tx: tx.store_revision(tree.id, tree, None))
    storage.transaction(lambda tx: tx.mark_good(tree.id, number))
    return box


def unserving(storage: SqlStorage) -> list[str]:
    return [one.amphora_id for one in storage.read(lambda tx: tx.unserving())]


def test_what_should_be_replaced_and_is_not_is_found_by_the_rows(storage: SqlStorage) -> None:
    bad = served(storage, AmphoraStatus.ERROR)
    dead = served(storage, AmphoraStatus.ALLOCATED, Provisioning.ACTIVE)
    served(storage, AmphoraStatus.ALLOCATED)
    served(storage, AmphoraStatus.ERROR, Provisioning.PENDING_UPDATE)
    served(storage, AmphoraStatus.DELETED)
    never = LoadBalancer(id=new_id(), provisioning_status=Provisioning.ERROR)
    storage.transaction(lambda tx: (tx.insert(never), tx.insert(amphora(never.id, status=AmphoraStatus.ERROR))))
    storage.transaction(lambda tx: tx.declare_dead(dead.id))
    assert unserving(storage) == [bad.id, dead.id], "the others serve, are being changed, are gone, or never worked"
    queued = storage.transaction(lambda tx: tx.add_operation(operation(bad.load_balancer_id, flow="failover")))
    assert unserving(storage) == [dead.id], "an operation is about it"
    storage.transaction(lambda tx: tx.close_operation(queued.id, OperationState.FAILED, "no valid host"))
    first, _ = storage.read(lambda tx: tx.unserving())
    assert (first.amphora_id, first.reason) == (bad.id, "no valid host")
    assert first.failed_at is not None
    assert first.failed_at <= storage.now()


def test_a_comeback_is_one_row_for_an_amphora(storage: SqlStorage) -> None:
    one = Comeback(amphora_id=new_id(), load_balancer_id=new_id(), attempts=0, next_at=7, since=5, reason="no host")
    two = attrs.evolve(one, amphora_id=new_id(), next_at=6)
    again = attrs.evolve(one, attempts=1, next_at=9, operation_id=new_id(), reason="quota")
    for each in (one, two, again):
        storage.transaction(lambda tx, each=each: tx.set_comeback(each))  # type: ignore[misc]
    assert list(storage.read(lambda tx: tx.comebacks())) == [two, again]
    assert list(storage.read(lambda tx: tx.comebacks([one.amphora_id]))) == [again]
    storage.transaction(lambda tx: tx.forget_comebacks([one.amphora_id, new_id()]))
    assert list(storage.read(lambda tx: tx.comebacks())) == [two]


def test_a_database_of_the_last_revision_is_upgraded_and_taken_back(database_url: str) -> None:
    schema.upgrade(database_url)
    schema.downgrade(database_url, schema.KNOWN[-2])
    engine = make_engine(Database(connection=Secret(database_url)))
    try:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO oc_liveness (amphora_id, since) VALUES ('kept', 5)"))
        schema.prepare(Database(connection=Secret(database_url)))
        schema.check(engine)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT since FROM oc_liveness")) == 5
            assert connection.scalar(text("SELECT COUNT(*) FROM oc_governor")) == 0
    finally:
        engine.dispose()


def test_amphorae_are_counted_by_status_and_their_hosts_are_known(storage: SqlStorage) -> None:
    box = served(storage, AmphoraStatus.ALLOCATED)
    for status in (AmphoraStatus.ALLOCATED, AmphoraStatus.ERROR, AmphoraStatus.DELETED):
        served(storage, status)
    assert dict(storage.read(lambda tx: tx.amphora_states())) == {"ALLOCATED": 2, "ERROR": 1}
    storage.transaction(lambda tx: tx.set_host(box.id, "rack-7-node-3"))
    (heart,) = storage.read(lambda tx: tx.liveness([box.id]))
    assert heart.host == "rack-7-node-3"


def test_what_was_lost_lately_is_counted_by_the_rule(storage: SqlStorage) -> None:
    for rule in ("proof", "silence", "proof"):
        event = Event(name="amphora.lost", text="lost", data={"rule": rule})
        storage.transaction(lambda tx, event=event: tx.emit(event))  # type: ignore[misc]
    assert dict(storage.read(lambda tx: tx.lost_lately(600))) == {"proof": 2, "silence": 1}
