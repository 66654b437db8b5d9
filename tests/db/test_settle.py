"""How statuses move: by the lifecycle tables, in rows, with quotas; the outcomes of each kind of wish."""

from __future__ import annotations

import attrs
import pytest
from sqlalchemy import select

from octavia_core.db.tables import TABLE_OF, metadata
from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating, Provisioning
from octavia_core.errors import NotFound
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.lifecycle.provisioning import CHILD, LOAD_BALANCER, Event
from octavia_core.lifecycle.refusal import TransitionRefused
from tests.db.values import amphora, balancer, full, member, monitor, new_id, policy, pool

ACTIVE, ERROR, DELETED = Provisioning.ACTIVE, Provisioning.ERROR, Provisioning.DELETED
CREATE, UPDATE, DELETE = Provisioning.PENDING_CREATE, Provisioning.PENDING_UPDATE, Provisioning.PENDING_DELETE
GONE = None


def statuses(storage, tree: LoadBalancer):
    found = storage.read(lambda tx: tx.tree(tree.id))
    return {node.id: node.provisioning_status for _, node in found.nodes()} | {tree.id: found.provisioning_status}


def force(storage, kind, id, **columns):
    table = TABLE_OF[kind]
    storage.write(lambda tx: tx.write(table.update().where(table.c.id == id).values(columns)))


@pytest.fixture
def tree(storage):
    value = full()
    storage.transaction(lambda tx: tx.insert(value))
    return value


PLACES = {
    "listener": lambda tree: (Kind.LISTENER, tree.listeners[0].id),
    "pool": lambda tree: (Kind.POOL, tree.pools[0].id),
    "member": lambda tree: (Kind.MEMBER, tree.pools[0].members[0].id),
    "monitor": lambda tree: (Kind.HEALTH_MONITOR, tree.pools[0].health_monitor.id),
    "policy": lambda tree: (Kind.L7POLICY, tree.listeners[0].l7policies[0].id),
    "rule": lambda tree: (Kind.L7RULE, tree.listeners[0].l7policies[0].rules[0].id),
}

# What each message of upstream's API does to the object it is about: pending status, end when done (ERROR when failed).
OUTCOMES = [
    (place, before, done) for place in PLACES for before, done in ((CREATE, ACTIVE), (UPDATE, ACTIVE), (DELETE, GONE))
]


@pytest.mark.parametrize(("place", "before", "done"), OUTCOMES)
@pytest.mark.parametrize("succeeded", [True, False], ids=["succeeded", "failed"])
def test_a_wish_about_a_child_ends_as_upstreams_does(storage, tree, place, before, done, succeeded):
    kind, id = PLACES[place](tree)
    locked = [PLACES["listener"](tree), PLACES["pool"](tree)]
    for parent_kind, parent in locked:
        force(storage, parent_kind, parent, provisioning_status=UPDATE.value)
    force(storage, kind, id, provisioning_status=before.value)
    force(storage, Kind.LOAD_BALANCER, tree.id, provisioning_status=UPDATE.value)
    blamed = () if succeeded else [Subject(kind, id)]
    for _ in range(2):
        storage.transaction(lambda tx: tx.settle_tree(tree.id, failed=blamed, succeeded=succeeded))
    found = statuses(storage, tree)
    assert found.pop(id, GONE) == (done if succeeded else ERROR)
    assert set(found.values()) == {ACTIVE}, "everything that was only locked is ACTIVE again"


@pytest.mark.parametrize(
    ("before", "succeeded", "failed", "after"),
    [
        (CREATE, True, False, ACTIVE),
        (UPDATE, True, False, ACTIVE),
        (DELETE, True, False, DELETED),
        (CREATE, False, True, ERROR),
        (UPDATE, False, True, ERROR),
        (DELETE, False, True, ERROR),
        (UPDATE, False, False, ACTIVE),
        (ACTIVE, True, False, ACTIVE),
        (ERROR, False, True, ERROR),
    ],
)
def test_a_load_balancer_ends_as_upstreams_does(storage, tree, before, succeeded, failed, after):
    force(storage, Kind.LOAD_BALANCER, tree.id, provisioning_status=before.value)
    blamed = [Subject(Kind.LOAD_BALANCER, tree.id)] if failed else ()
    storage.transaction(lambda tx: tx.settle_tree(tree.id, failed=blamed, succeeded=succeeded))
    found = statuses(storage, tree)
    assert found[tree.id] == after
    assert len(found) == (1 if after is DELETED else 1 + len(list(tree.nodes())))


def test_a_fully_populated_create_makes_everything_active_and_shows_what_no_heartbeat_speaks_of(storage):
    def pending(node):
        return attrs.evolve(node, provisioning_status=CREATE)

    value = full(provisioning_status=CREATE)
    value = attrs.evolve(
        value,
        listeners=tuple(
            attrs.evolve(
                pending(each),
                l7policies=tuple(
                    attrs.evolve(pending(p), enabled=False, rules=tuple(pending(r) for r in p.rules))
                    for p in each.l7policies
                ),
            )
            for each in value.listeners
        ),
        pools=tuple(
            attrs.evolve(
                pending(each),
                members=tuple(pending(m) for m in each.members),
                health_monitor=each.health_monitor and pending(each.health_monitor),
            )
            for each in value.pools
        ),
    )
    storage.transaction(lambda tx: tx.insert(value))
    storage.transaction(lambda tx: tx.settle_tree(value.id, succeeded=True))
    assert set(statuses(storage, value).values()) == {ACTIVE}
    found = storage.read(lambda tx: tx.tree(value.id))
    shown = {kind: {n.operating_status for k, n in found.nodes() if k is kind} for kind in Kind}
    assert shown[Kind.HEALTH_MONITOR] == {Operating.ONLINE}
    assert shown[Kind.L7POLICY] == {Operating.OFFLINE}, "not enabled"
    assert shown[Kind.L7RULE] == {Operating.ONLINE}
    assert shown[Kind.LISTENER] == shown[Kind.POOL] == {Operating.OFFLINE}, "heartbeats speak of these"


def test_children_in_error_stay_in_error_when_the_wish_was_about_another(storage, tree):
    kind, id = PLACES["pool"](tree)
    force(storage, kind, id, provisioning_status=ERROR.value)
    force(storage, Kind.LOAD_BALANCER, tree.id, provisioning_status=UPDATE.value)
    storage.transaction(lambda tx: tx.settle_tree(tree.id, succeeded=True))
    assert statuses(storage, tree)[id] == ERROR


def test_a_child_that_is_blamed_turns_error_although_the_wish_came_true(storage, tree):
    kind, id = PLACES["listener"](tree)
    force(storage, kind, id, provisioning_status=UPDATE.value)
    force(storage, Kind.LOAD_BALANCER, tree.id, provisioning_status=UPDATE.value)
    storage.transaction(lambda tx: tx.settle_tree(tree.id, failed=[Subject(kind, id)], succeeded=True))
    found = statuses(storage, tree)
    assert (found[id], found[tree.id]) == (ERROR, ACTIVE)


def test_members_of_a_pool_whose_monitor_goes_have_no_monitor(storage, tree):
    first, other = tree.pools
    online = {(Kind.MEMBER, m.id): Operating.ONLINE for m in (*first.members, *other.members)}
    storage.transaction(lambda tx: tx.set_operating(online))
    kind, id = PLACES["monitor"](tree)
    force(storage, kind, id, provisioning_status=DELETE.value)
    storage.transaction(lambda tx: tx.settle_tree(tree.id, succeeded=True))
    found = storage.read(lambda tx: tx.tree(tree.id))
    assert {m.operating_status for m in found.pool(first.id).members} == {Operating.NO_MONITOR}
    assert {m.operating_status for m in found.pool(other.id).members} == {Operating.ONLINE}


def test_unknown_trees_and_rows_are_not_found(storage):
    for work in (
        lambda tx: tx.settle_tree(new_id(), succeeded=True),
        lambda tx: tx.settle(Kind.POOL, new_id(), Event.SUCCEED),
        lambda tx: tx.settle_amphora(new_id(), AmphoraEvent.BOOT),
    ):
        with pytest.raises(NotFound):
            storage.transaction(work)


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("kind", [Kind.LOAD_BALANCER, Kind.POOL])
def test_single_moves_follow_the_table_and_nothing_else(storage, kind, event):
    tree = balancer(pools=(pool(),))
    storage.transaction(lambda tx: tx.insert(tree))
    table = LOAD_BALANCER if kind is Kind.LOAD_BALANCER else CHILD
    id = tree.id if kind is Kind.LOAD_BALANCER else tree.pools[0].id
    for status in Provisioning:
        force(storage, kind, id, provisioning_status=status.value)
        wanted = table.get((status, event))
        if wanted is None:
            with pytest.raises(TransitionRefused, match=str(status)):
                storage.transaction(lambda tx: tx.settle(kind, id, event))
            continue
        assert storage.transaction(lambda tx: tx.settle(kind, id, event)) == wanted
        if wanted is DELETED and kind is not Kind.LOAD_BALANCER:
            assert statuses(storage, tree).get(id) is GONE
            storage.transaction(lambda tx: tx.insert(attrs.evolve(tree.pools[0], load_balancer_id=tree.id)))
        else:
            assert statuses(storage, tree)[id] == wanted


def test_an_amphora_lives_by_its_own_table_and_booting_starts_its_deadline(storage):
    box = amphora()
    storage.transaction(lambda tx: tx.insert(box))
    before = storage.now()
    assert storage.transaction(lambda tx: tx.settle_amphora(box.id, AmphoraEvent.BOOT)) is AmphoraStatus.BOOTING
    assert before <= storage.read(lambda tx: tx.liveness([box.id]))[0].since <= storage.now()
    with pytest.raises(TransitionRefused, match="BOOTING"):
        storage.transaction(lambda tx: tx.settle_amphora(box.id, AmphoraEvent.DELETED))
    assert storage.transaction(lambda tx: tx.settle_amphora(box.id, AmphoraEvent.ALLOCATE)) is AmphoraStatus.ALLOCATED


def test_only_operating_statuses_that_differ_are_written(storage, tree):
    wanted = {(kind, node.id): Operating.ONLINE for kind, node in tree.nodes()}
    wanted[Kind.LOAD_BALANCER, tree.id] = Operating.DEGRADED
    wanted[Kind.MEMBER, new_id()] = Operating.ERROR  # gone meanwhile
    assert storage.transaction(lambda tx: tx.set_operating(wanted)) == len(wanted) - 1
    assert storage.transaction(lambda tx: tx.set_operating(wanted)) == 0
    wanted[Kind.MEMBER, tree.pools[0].members[0].id] = Operating.ERROR
    assert storage.transaction(lambda tx: tx.set_operating(wanted)) == 1
    assert storage.read(lambda tx: tx.tree(tree.id)).operating_status is Operating.DEGRADED


# -- quotas ------------------------------------------------------------------------------------------------------------


def usage(storage):
    row = storage.look(lambda tx: tx.row(select(metadata.tables["quotas"])))
    return row and {k.removeprefix("in_use_"): v for k, v in row._mapping.items() if k.startswith("in_use_") and v}


def with_quotas(storage, **in_use):
    storage.write(lambda tx: tx.add_rows(metadata.tables["quotas"], [{"project_id": "project", **in_use}]))


def test_usage_is_counted_where_upstream_keeps_a_row_of_it(storage):
    tree = full()
    with_quotas(storage)
    storage.transaction(lambda tx: tx.insert(tree))
    whole = {"load_balancer": 1, "listener": 2, "pool": 2, "member": 3, "health_monitor": 1, "l7policy": 2, "l7rule": 3}
    assert usage(storage) == whole
    storage.transaction(lambda tx: tx.insert(member(7, pool_id=tree.pools[1].id)))
    assert usage(storage)["member"] == 4
    storage.transaction(lambda tx: tx.delete(Kind.POOL, tree.pools[0].id))
    assert usage(storage) == {"load_balancer": 1, "listener": 2, "pool": 1, "member": 2, "l7policy": 2, "l7rule": 3}
    storage.transaction(lambda tx: tx.delete(Kind.LISTENER, tree.listeners[0].id))
    assert usage(storage) == {"load_balancer": 1, "listener": 1, "pool": 1, "member": 2}
    force(storage, Kind.LOAD_BALANCER, tree.id, provisioning_status=DELETE.value)
    storage.transaction(lambda tx: tx.settle_tree(tree.id, succeeded=True))
    assert usage(storage) == {}
    storage.transaction(lambda tx: tx.delete(Kind.LOAD_BALANCER, tree.id))
    assert usage(storage) == {}, "counted once, when it became DELETED"


def test_usage_never_falls_below_nothing(storage):
    tree = full()
    storage.transaction(lambda tx: tx.insert(tree))
    with_quotas(storage, in_use_member=1)
    storage.transaction(lambda tx: tx.delete(Kind.POOL, tree.pools[0].id))
    row = storage.look(lambda tx: tx.row(select(metadata.tables["quotas"])))
    assert (row.in_use_member, row.in_use_pool) == (0, 0)


def test_without_a_row_nothing_is_counted(storage, tree):
    storage.transaction(lambda tx: tx.insert(monitor(pool_id=tree.pools[1].id)))
    storage.transaction(lambda tx: tx.insert(policy(listener_id=tree.listeners[1].id)))
    assert usage(storage) is None
