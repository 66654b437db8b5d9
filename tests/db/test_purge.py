"""Rows whose time is over go, and nothing else does."""

from __future__ import annotations

import datetime
import uuid

from sqlalchemy import update

from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import EntryKind, Event, JournalEntry, Operation, OperationState, Outcome
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Provisioning

AGE = 1000.0


def new_id() -> str:
    return str(uuid.uuid4())


def purge(storage: SqlStorage, age: float = AGE) -> int:
    return storage.transaction(lambda tx: tx.purge(amphora_age=age, load_balancer_age=age))


def test_what_is_deleted_goes_after_its_time_and_what_lives_stays(storage: SqlStorage) -> None:
    gone, kept = new_id(), new_id()
    dead, alive = new_id(), new_id()

    def make(tx: object) -> None:
        tx.insert(LoadBalancer(id=gone, provisioning_status=Provisioning.DELETED))
        tx.insert(LoadBalancer(id=kept, provisioning_status=Provisioning.ACTIVE))
        tx.insert(Amphora(id=dead, status=AmphoraStatus.DELETED, load_balancer_id=gone))
        tx.insert(Amphora(id=alive, status=AmphoraStatus.ALLOCATED, load_balancer_id=kept))

    storage.transaction(make)
    assert purge(storage) == 0, "nothing is old yet"
    old = datetime.datetime(2020, 1, 1)  # noqa: DTZ001 - as upstream's columns hold it
    for table in (load_balancer, amphora):
        storage.write(lambda tx, table=table: tx.write(update(table).values(updated_at=old)))
    assert purge(storage) == 2
    assert storage.read(lambda tx: tx.tree(gone)) is None
    assert storage.read(lambda tx: tx.amphora(dead)) is None
    assert storage.read(lambda tx: tx.tree(kept)) is not None
    assert storage.read(lambda tx: tx.amphora(alive)) is not None
    assert purge(storage) == 0


def test_operations_that_ended_go_with_their_journals_and_old_events(storage: SqlStorage) -> None:
    ended, still_open = new_id(), new_id()

    def make(tx: object) -> None:
        for id in (ended, still_open):
            tx.add_operation(Operation(id=id, flow="cleanup"))
            tx.write_journal(
                JournalEntry(operation_id=id, path="plan", kind=EntryKind.RECORD, outcome=Outcome.DONE, sequence=1)
            )
        tx.close_operation(ended, OperationState.SUCCEEDED)
        tx.emit(Event(name="load_balancer.active", text="it is"))

    storage.transaction(make)
    assert purge(storage) == 0
    assert purge(storage, age=-10.0) == 2  # as if ten seconds from now: the operation and the event
    assert storage.read(lambda tx: tx.operation(ended)) is None
    assert storage.read(lambda tx: tx.journal(ended)) == []
    assert storage.read(lambda tx: tx.operation(still_open)) is not None
    assert storage.read(lambda tx: len(tx.journal(still_open))) == 1


def test_events_that_a_plugin_has_not_been_given_stay(storage: SqlStorage) -> None:
    storage.transaction(lambda tx: tx.emit(Event(name="a.b", text="first")))
    first = storage.read(lambda tx: tx.events())[0].sequence
    storage.transaction(lambda tx: tx.set_delivered("metering", first))
    storage.transaction(lambda tx: tx.emit(Event(name="a.b", text="second")))
    assert purge(storage, age=-10.0) == 1
    assert [event.text for event in storage.read(lambda tx: tx.events())] == ["second"]


def test_leases_of_the_dead_end_and_ours_stays(storage: SqlStorage) -> None:
    mine, theirs = new_id(), new_id()
    for id, holder in ((mine, "me"), (theirs, "them")):
        storage.transaction(lambda tx, one=id: tx.add_operation(Operation(id=one, flow="cleanup")))
        assert len(storage.claim(holder, {"cleanup": {1}}, lease=60, limit=1)) == 1
    assert storage.claim("me", {"cleanup": {1}}, lease=60, limit=5) == []
    assert storage.end_leases(but="me") == 1
    assert [row.id for row, _ in storage.claim("me", {"cleanup": {1}}, lease=60, limit=5)] == [theirs]
