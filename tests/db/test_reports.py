"""What heartbeats are held against, read for many amphorae at once."""

from __future__ import annotations

import attrs
import pytest
from sqlalchemy import event, text

from octavia_core.domain.outline import Outline
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating, Provisioning, Topology
from tests.benchmarks.heartbeat_rows import store_rows
from tests.db.values import amphora, balancer, full, member, new_id, pool
from tests.support.outlines import outline

ODD = "Ünder \" ' \\ % [,] {}\tтаб \u2028 %s ?"


def by_id(found: Outline | None) -> Outline | None:
    if found is None:
        return None
    pools = [each._replace(members=tuple(sorted(each.members))) for each in found.pools]
    return found._replace(listeners=tuple(sorted(found.listeners)), pools=tuple(sorted(pools)))


def store(storage, *values):
    storage.transaction(lambda tx: [tx.insert(each) for each in values])


def reported_on(storage, *ids):
    found = storage.read(lambda tx: tx.reported_on(ids))
    return {id: by_id(each) for id, each in found.items()}


def test_it_is_the_tree_in_outline_whatever_things_are_called(storage):
    one = full(topology=Topology.ACTIVE_STANDBY)
    off = attrs.evolve(pool(member(7, enabled=False, operating_status=Operating.OFFLINE)), name=ODD)
    two = balancer(name=ODD, enabled=False, pools=(off, pool()))
    bare = balancer(name=None)
    boxes = [amphora(each.id, status=AmphoraStatus.ALLOCATED) for each in (one, one, two, bare)]
    store(storage, one, two, bare, *boxes)
    trees = [outline(storage.read(lambda tx, of=each.load_balancer_id: tx.tree(of))) for each in boxes]
    assert reported_on(storage, *(each.id for each in boxes)) == {
        box.id: tree for box, tree in zip(boxes, trees, strict=True)
    }


def test_one_that_is_too_big_for_a_text_of_the_database_is_read_by_rows_and_the_others_as_ever(storage):
    big, small = balancer(pools=(pool(*(member(n) for n in range(9))), pool())), full()
    boxes = [amphora(each.id, status=AmphoraStatus.ALLOCATED) for each in (big, small)]
    store(storage, big, small, *boxes)
    trees = [outline(storage.read(lambda tx, of=each.load_balancer_id: tx.tree(of))) for each in boxes]
    whole = storage.read(lambda tx: tx.calm([each.id for each in boxes]))
    cut = lambda connection, cursor, *rest: cursor.execute("SET SESSION group_concat_max_len = 500")  # noqa: E731
    if storage._engine.dialect.name == "mysql":  # the others have no such limit
        event.listen(storage._engine, "before_cursor_execute", cut)
    try:
        assert reported_on(storage, *(each.id for each in boxes)) == {
            box.id: tree for box, tree in zip(boxes, trees, strict=True)
        }
        assert set(storage.read(lambda tx: tx.calm([each.id for each in boxes]))) == set(whole)
    finally:
        if storage._engine.dialect.name == "mysql":
            event.remove(storage._engine, "before_cursor_execute", cut)
            storage._engine.dispose()  # its connections remember that limit


def test_who_serves_nobody_has_none_and_the_unknown_are_left_out(storage):
    lb, removed = full(), full(provisioning_status=Provisioning.DELETED)
    replaced = amphora(lb.id, status=AmphoraStatus.PENDING_DELETE)
    gone, left = amphora(lb.id, status=AmphoraStatus.DELETED), amphora(removed.id, status=AmphoraStatus.ALLOCATED)
    spare = amphora(status=AmphoraStatus.READY)
    store(storage, lb, removed, gone, replaced, left, spare)
    nobodys = (gone.id, replaced.id, left.id, spare.id)
    assert reported_on(storage, *nobodys, new_id()) == dict.fromkeys(nobodys)
    assert reported_on(storage) == {}


@pytest.mark.parametrize("status", ["ALLOCATED", "BOOTING", "ERROR", "FAILOVER_STOPPED"])
def test_whoever_does_not_go_says_something_of_its_load_balancer(storage, status):
    lb = full()
    box = amphora(lb.id, status=AmphoraStatus(status))
    store(storage, lb, box)
    assert reported_on(storage, box.id)[box.id].id == lb.id
    storage.transaction(lambda tx: tx.set_operating({(Kind.LOAD_BALANCER, lb.id): Operating.ERROR}))
    assert box.id in storage.read(lambda tx: tx.changed_under(0, 0))


def test_an_id_that_would_mean_something_in_a_statement_is_only_an_id(storage):
    lb = full()
    box = amphora(lb.id, status=AmphoraStatus.ALLOCATED)
    store(storage, lb, box)
    odd = ["a' OR '1'='1", "b), (c", "%s", "?", "d,e", "\\", "é", '"', f"{box.id} {box.id}"]
    assert set(reported_on(storage, *odd, box.id)) == {box.id}


def test_five_hundred_amphorae_take_one_statement_that_uses_indexes(storage):
    made = store_rows(storage._engine.url.render_as_string(hide_password=False), 200)
    sent: list[tuple[str, object]] = []
    listen = lambda connection, cursor, words, given, *rest: sent.append((words, given))  # noqa: E731
    event.listen(storage._engine, "before_cursor_execute", listen)
    try:
        found = reported_on(storage, *(each["amphora"] for each in made), *(new_id() for _ in range(300)))
    finally:
        event.remove(storage._engine, "before_cursor_execute", listen)
    assert len(found) == len(made)
    ((words, given),) = [one for one in sent if one[0].startswith("SELECT") and "listener" in one[0]]
    dialect = storage._engine.dialect.name
    with storage._engine.connect() as connection:
        for table in ("amphora", "load_balancer", "listener", "pool", "member"):
            connection.execute(text(f"ANALYZE {'' if dialect in ('sqlite', 'postgresql') else 'TABLE '}{table}"))
        if dialect == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))  # the tables of a test are too small for an index
        explain = "EXPLAIN QUERY PLAN " if dialect == "sqlite" else "EXPLAIN "
        plan = [str(tuple(row)) for row in connection.exec_driver_sql(explain + words, given)]
    scans = [line for line in plan if "Seq Scan" in line or "SCAN " in line or "'ALL'" in line]
    # all amphorae of this test are asked for, so MariaDB reads that table as it lies
    below = [line for line in scans if "json_each" not in line and "'a', 'ALL'" not in line]
    assert below == [], "\n".join(plan)
