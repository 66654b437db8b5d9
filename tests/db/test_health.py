"""Hearts and traffic in batches."""

from __future__ import annotations

import datetime
import threading

import attrs
import pytest
from sqlalchemy import event, select, text

from octavia_core.db.tables.amphora import amphora_health
from octavia_core.db.tables.listener import listener_statistics
from octavia_core.db.transaction.health import SILENT
from octavia_core.domain.operation import Event
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating
from octavia_core.ports.hearts import Heard, TrafficDelta
from tests.db.values import amphora, full, new_id

SECOND = 1_000_000


@pytest.fixture
def box(storage):
    value = amphora(status=AmphoraStatus.ALLOCATED)
    storage.transaction(lambda tx: tx.insert(value))
    return value


def heard(id, at, sequence=1, observer="here"):
    return Heard(amphora_id=id, at=at, sequence=sequence, observer=observer)


def apply(storage, *batch):
    storage.transaction(lambda tx: tx.heard(batch))


def liveness(storage, id):
    (found,) = storage.read(lambda tx: tx.liveness([id]))
    return found


def mirrored(storage, id):
    return storage.look(lambda tx: tx.row(select(amphora_health).where(amphora_health.c.amphora_id == id)))


def test_never_heard_counts_from_the_row(storage, box):
    found = liveness(storage, box.id)
    assert (found.last_heard, found.declared_dead, found.busy) == (None, None, False)
    assert 0 < found.since <= storage.now()


def test_what_a_clock_that_was_ahead_has_written_is_overwritten(storage, box):
    now = storage.now()
    apply(storage, heard(box.id, now + 3_600_000_000))
    apply(storage, heard(box.id, now, sequence=2))
    assert now - SECOND < liveness(storage, box.id).last_heard <= now


def test_last_heard_moves_forward_and_never_back(storage, box):
    start = storage.now()
    for at in (start, start + 5, start + 3, start - 10 * SECOND):
        apply(storage, heard(box.id, at))
    assert liveness(storage, box.id).last_heard == start + 5
    assert mirrored(storage, box.id).last_update.microsecond == 0
    apply(storage, heard(box.id, start + 9 * SECOND), heard(box.id, start + 7 * SECOND), heard(box.id, start))
    assert liveness(storage, box.id).last_heard == start + 9 * SECOND


def test_the_newest_report_of_each_amphora_is_kept_for_other_hosts(storage):
    now, owner = storage.now(), full()
    box = amphora(status=AmphoraStatus.ALLOCATED, load_balancer_id=owner.id)
    gone = amphora(status=AmphoraStatus.DELETED, load_balancer_id=owner.id)
    storage.transaction(lambda tx: [tx.insert(each) for each in (owner, box, gone)])

    def keep(at, words):
        report = dict.fromkeys((box.id, gone.id, new_id()), (at, words))
        storage.transaction(lambda tx: tx.keep_reports(report))
        found = storage.read(lambda tx: tx.last_reports([owner.id, new_id()]))
        return [(each.amphora_id, each.at, each.words) for each in found]

    assert keep(now, "one") == [(box.id, now, "one")], "before it was ever written as heard"
    assert keep(now - 1, "an older one") == [(box.id, now, "one")]
    assert keep(now + 1, "Ünder ' \" %s \\") == [(box.id, now + 1, "Ünder ' \" %s \\")]
    apply(storage, heard(box.id, now + 5))
    (found,) = storage.read(lambda tx: tx.last_reports([owner.id]))
    assert (found.load_balancer_id, found.last_heard) == (owner.id, now + 5)
    assert liveness(storage, box.id).last_heard == now + 5


def test_upstreams_row_is_mirrored_and_believed(storage, box):
    start = storage.now() // SECOND * SECOND
    apply(storage, heard(box.id, start + 1))
    row = mirrored(storage, box.id)
    assert (row.busy, int(row.last_update.timestamp())) is not None
    later = amphora_health.update().values(last_update=row.last_update + datetime.timedelta(days=365))
    storage.write(lambda tx: tx.write(later))
    assert liveness(storage, box.id).last_heard > start + 300 * 86400 * SECOND, "upstream's health manager heard it"


def test_unknown_and_deleted_amphorae_get_no_rows(storage, box):
    gone = amphora(status=AmphoraStatus.DELETED)
    storage.transaction(lambda tx: tx.insert(gone))
    storage.transaction(lambda tx: tx.forget_health(gone.id))
    apply(storage, heard(gone.id, 5), heard(new_id(), 5), heard(box.id, 5))
    assert mirrored(storage, gone.id) is None
    assert [each.amphora_id for each in storage.read(lambda tx: tx.liveness())] == [box.id]


def test_an_amphora_of_upstreams_making_is_known_from_its_first_heartbeat(storage, box):
    storage.transaction(lambda tx: tx.forget_health(box.id))
    assert liveness(storage, box.id).since > 0, "when its row was made"
    apply(storage, heard(box.id, storage.now()))
    assert liveness(storage, box.id).last_heard


def test_a_thousand_hearts_take_a_fixed_number_of_statements(storage):
    boxes = [amphora(status=AmphoraStatus.ALLOCATED) for _ in range(1000)]
    storage.transaction(lambda tx: [tx.insert(box) for box in boxes[:1]])
    table = [{"id": b.id, "status": "ALLOCATED", "cert_busy": False} for b in boxes[1:]]
    from octavia_core.db.tables.amphora import amphora as rows

    storage.write(lambda tx: tx.add_rows(rows, table))
    start, sent = storage.now(), []
    listen = lambda connection, cursor, statement, *rest: sent.append(statement.split()[0])  # noqa: E731
    event.listen(storage._engine, "before_cursor_execute", listen)
    try:
        apply(storage, *(heard(each.id, start + n) for n, each in enumerate(boxes)))
    finally:
        event.remove(storage._engine, "before_cursor_execute", listen)
    expected = ["SELECT", "INSERT", "INSERT"]
    assert [word for word in sent if word in ("SELECT", "INSERT", "UPDATE")][:3] == expected
    assert len(sent) <= len(["BEGIN", *expected, "INSERT INTO oc_commit"])
    found = {each.amphora_id: each.last_heard for each in storage.read(lambda tx: tx.liveness())}
    assert found == {each.id: start + n for n, each in enumerate(boxes)}


def test_many_that_were_heard_at_one_time_share_a_statement_per_table_and_thousand(storage):
    boxes = [amphora(status=AmphoraStatus.ALLOCATED) for _ in range(1100)]
    from octavia_core.db.tables.amphora import amphora as rows

    table = [{"id": b.id, "status": "ALLOCATED", "cert_busy": False} for b in boxes[1:]]
    storage.transaction(lambda tx: tx.insert(boxes[0]))
    storage.write(lambda tx: tx.add_rows(rows, table))
    gone, ids = new_id(), [each.id for each in boxes]
    start, sent = storage.now() - 60 * SECOND, []
    listen = lambda connection, cursor, statement, *rest: sent.append(statement.split()[0])  # noqa: E731
    for at in (start, start + SECOND, start + SECOND // 2, start + 2 * SECOND):
        sent.clear()
        event.listen(storage._engine, "before_cursor_execute", listen)
        try:
            storage.transaction(lambda tx, at=at: tx.heard_together(at, "here", [*ids, *([gone] * (at == start))]))
        finally:
            event.remove(storage._engine, "before_cursor_execute", listen)
    assert sent.count("UPDATE") == 4
    assert len(sent) <= 6, "and what a transaction has of its own"
    found = storage.read(lambda tx: tx.liveness())
    assert {each.amphora_id: each.last_heard for each in found} == dict.fromkeys(ids, start + 2 * SECOND)
    assert {each.observer for each in found} == {"here"}
    assert mirrored(storage, gone) is None


def test_only_the_silent_are_read_by_an_index(storage):
    boxes = [amphora(status=AmphoraStatus.ALLOCATED) for _ in range(300)]
    for each in boxes:
        storage.transaction(lambda tx, each=each: tx.insert(each))
    now = storage.now()
    apply(storage, *(heard(each.id, now - (100 if n < 3 else 1) * SECOND) for n, each in enumerate(boxes)))
    found = storage.read(lambda tx: tx.silent(now - 60 * SECOND))
    assert {each.amphora_id for each in found} == {each.id for each in boxes[:3]}
    storage.transaction(lambda tx: tx.declare_dead(boxes[0].id))
    assert len(storage.read(lambda tx: tx.silent(now - 60 * SECOND))) == 2
    dialect = storage._engine.dialect
    query = select(SILENT.subquery()).params(before=now - 60 * SECOND)
    words = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).replace("%%", "%")
    with storage._engine.connect() as connection:
        if dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE oc_liveness")
            connection.exec_driver_sql("SET enable_seqscan = off")  # the table of a test is too small for an index
        explain = "EXPLAIN QUERY PLAN " if dialect.name == "sqlite" else "EXPLAIN "
        plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + words))
    assert "ix_oc_liveness_last_heard" in plan


def test_what_others_changed_under_an_amphora_is_found_by_its_date_or_by_its_event(storage):
    box = amphora(status=AmphoraStatus.ALLOCATED)
    lb = full()

    def found(after=10**9):
        since = storage.now() - 60 * SECOND
        return storage.read(lambda tx: tx.changed_under(since, after))

    storage.transaction(lambda tx: (tx.insert(lb), tx.insert(attrs.evolve(box, load_balancer_id=lb.id))))
    past = "2020-01-01 00:00:00"
    storage.write(lambda tx: tx.write(text(f"UPDATE load_balancer SET created_at = '{past}', updated_at = '{past}'")))
    assert found() == set()
    newest = storage.read(lambda tx: tx.last_event())
    assert found(newest) == set()
    event = Event(name="member.error", text="it is", load_balancer_id=lb.id, amphora_id=box.id)
    storage.transaction(lambda tx: tx.emit(event))
    assert found(newest) == {box.id}
    storage.transaction(lambda tx: tx.set_operating({(Kind.LOAD_BALANCER, lb.id): Operating.ERROR}))
    assert found() == {box.id}


@pytest.mark.parametrize("own_row", [True, False], ids=["ours", "upstreams"])
def test_exactly_one_of_many_declares_it_dead(storage, box, own_row):
    if own_row:
        apply(storage, heard(box.id, storage.now()))
    else:
        storage.transaction(lambda tx: tx.forget_health(box.id))
    barrier, verdicts = threading.Barrier(6), []

    def judge():
        barrier.wait()
        verdicts.append(storage.transaction(lambda tx: tx.declare_dead(box.id)))

    threads = [threading.Thread(target=judge) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdicts) == [False] * 5 + [True]
    found = liveness(storage, box.id)
    assert found.declared_dead
    assert found.busy is own_row


def test_what_does_not_exist_is_not_declared_dead(storage):
    assert storage.transaction(lambda tx: tx.declare_dead(new_id())) is False


def test_forgetting_twice_is_harmless(storage, box):
    apply(storage, heard(box.id, 5))
    for _ in range(2):
        storage.transaction(lambda tx: tx.forget_health(box.id))
    assert mirrored(storage, box.id) is None
    storage.transaction(lambda tx: tx.delete(Kind.AMPHORA, box.id))
    assert storage.read(lambda tx: tx.liveness([box.id])) == []


def traffic(storage):
    of = listener_statistics.c
    query = select(of.listener_id, of.amphora_id, of.bytes_in, of.total_connections, of.active_connections)
    return {tuple(r)[:2]: tuple(r)[2:] for r in storage.look(lambda tx: tx.rows(query))}


def delta(listener, box, bytes_in, active=1, **more):
    values = {"bytes_out": 0, "total_connections": 1, "request_errors": 0, **more}
    return TrafficDelta(listener_id=listener, amphora_id=box, bytes_in=bytes_in, active_connections=active, **values)


def test_traffic_is_added_and_connections_that_are_open_are_set(storage):
    storage.transaction(lambda tx: tx.add_traffic([delta("l", "a", 10, 5), delta("l", "a", 5, 4), delta("l", "b", 1)]))
    storage.transaction(lambda tx: tx.add_traffic([delta("l", "a", 2**40, 3)]))
    assert traffic(storage) == {("l", "a"): (15 + 2**40, 3, 3), ("l", "b"): (1, 1, 1)}


def test_totals_of_old_agents_replace_the_counters_unless_they_are_lower(storage):
    storage.transaction(lambda tx: tx.add_traffic([delta("l", "a", 10)]))
    storage.transaction(
        lambda tx: tx.add_traffic([delta("l", "a", 7, absolute=True), delta("m", "a", 3, absolute=True)])
    )
    assert traffic(storage) == {("l", "a"): (10, 1, 1), ("m", "a"): (3, 1, 1)}
    storage.transaction(lambda tx: tx.add_traffic([delta("l", "a", 17, absolute=True)]))
    assert traffic(storage) == {("l", "a"): (17, 1, 1), ("m", "a"): (3, 1, 1)}
    storage.transaction(lambda tx: tx.add_traffic([]))


def test_an_id_that_would_mean_something_in_a_statement_is_only_an_id(storage):
    boxes = [amphora(status=AmphoraStatus.ALLOCATED) for _ in range(25)]
    storage.transaction(lambda tx: [tx.insert(box) for box in boxes])
    start = storage.now() - 60 * SECOND
    odd = ["a' OR '1'='1", "b), (c", "%s", "?", "d,e", "\\", "é", f"{boxes[0].id} {boxes[1].id}"]
    for at in (start, start + SECOND):
        ids = [*odd, *(each.id for each in boxes)]
        storage.transaction(lambda tx, at=at, ids=ids: tx.heard_together(at, "here", ids))
    others = amphora(status=AmphoraStatus.ALLOCATED)
    storage.transaction(lambda tx: tx.insert(others))
    storage.transaction(lambda tx: tx.heard_together(start + 2 * SECOND, "here", [*odd, boxes[0].id, "x' OR 'x'='x"]))
    found = {each.amphora_id: each.last_heard for each in storage.read(lambda tx: tx.liveness())}
    assert found == {
        **dict.fromkeys((each.id for each in boxes), start + SECOND),
        boxes[0].id: start + 2 * SECOND,
        others.id: None,
    }
