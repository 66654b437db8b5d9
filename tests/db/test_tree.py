"""The load balancer tree: in and out, whole and in parts, on each database."""

from __future__ import annotations

import uuid

import attrs
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from sqlalchemy import event, func, select

from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.db.tables import UPSTREAM, metadata
from octavia_core.domain.tree import AdditionalVip, SessionPersistence, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, PersistenceType, Provisioning
from octavia_core.errors import BadRequest, NotFound, PermanentError
from octavia_core.lifecycle.amphora import AmphoraEvent
from tests.db import values
from tests.db.conftest import settings_for
from tests.db.values import amphora, balancer, full, listener, member, monitor, new_id, normal, policy, pool, rule

MANY = hypothesis_settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def store(storage, *nodes):
    storage.transaction(lambda tx: [tx.insert(node) for node in nodes])


def load(storage, id):
    return storage.read(lambda tx: tx.tree(id))


@MANY
@given(tree=values.balancers)
def test_a_tree_comes_back_as_it_went_in(storage, tree):
    try:
        store(storage, tree)
        assert load(storage, tree.id) == normal(tree)
        store(storage, tree)
        assert load(storage, tree.id) == normal(tree), "the same once more is success"
    finally:
        storage.transaction(lambda tx: tx.delete(Kind.LOAD_BALANCER, tree.id))
    assert load(storage, tree.id) is None


def test_an_unknown_load_balancer_is_none(storage):
    assert load(storage, new_id()) is None


def statements_of(storage, work):
    sent = []
    listen = lambda connection, cursor, statement, *rest: sent.append(statement)  # noqa: E731
    event.listen(storage._engine, "before_cursor_execute", listen)
    try:
        storage.read(work)
    finally:
        event.remove(storage._engine, "before_cursor_execute", listen)
    return [each for each in sent if each.startswith("SELECT")]


def test_a_tree_takes_the_same_few_queries_whatever_its_size(storage):
    small = balancer()
    large = balancer(
        listeners=tuple(listener(policy(rule(), rule()), policy(position=2), port=port) for port in range(1, 21)),
        pools=tuple(pool(*(member(n) for n in range(100)), health_monitor=monitor()) for _ in range(20)),
    )
    store(storage, small, large)
    counts = [len(statements_of(storage, lambda tx, of=each: tx.tree(of.id))) for each in (small, large)]
    assert counts[0] <= counts[1] <= 14
    assert load(storage, large.id) == normal(large)


def test_a_different_value_under_an_id_that_exists_is_refused(storage):
    tree = full()
    store(storage, tree)
    with pytest.raises(BadRequest, match="exists already"):
        store(storage, attrs.evolve(tree, name="other"))
    with pytest.raises(BadRequest, match="exists already"):
        store(storage, attrs.evolve(normal(tree).pools[0].members[0], address="192.0.2.99"))


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (lambda tree: listener(load_balancer_id=tree.id, port=80), "already has a listener on that port"),
        (lambda tree: member(1, pool_id=tree.pools[0].id), "already has a member with that address and port"),
        (lambda tree: monitor(pool_id=tree.pools[0].id), "already has a health monitor"),
        (lambda tree: member(9, pool_id="nowhere"), "does not exist"),
        (lambda tree: balancer(name="x" * 256), "255 characters"),
        (lambda tree: balancer(name="half \ud800"), "half of a character"),
        (lambda tree: balancer(name="nul \0"), "NUL"),
        (lambda tree: member(9, pool_id=tree.pools[0].id, weight=2**31), "cannot hold"),
    ],
    ids=["port", "member", "monitor", "parent", "long", "surrogate", "nul", "large"],
)
def test_what_cannot_be_stored_is_refused_in_words(storage, node, sentence):
    tree = full()
    store(storage, tree)
    with pytest.raises(BadRequest, match=sentence):
        store(storage, node(tree))


def test_a_failed_transaction_leaves_nothing(storage):
    tree = balancer()
    with pytest.raises(ZeroDivisionError):
        storage.transaction(lambda tx: (tx.insert(tree), 1 / 0))
    assert load(storage, tree.id) is None


def test_children_are_stored_one_by_one_too(storage):
    tree = balancer()
    store(storage, tree)
    behind = pool(load_balancer_id=tree.id)
    front = listener(load_balancer_id=tree.id, default_pool_id=behind.id)
    store(storage, behind, front, member(pool_id=behind.id), monitor(pool_id=behind.id), policy(listener_id=front.id))
    found = load(storage, tree.id)
    assert (len(found.pools[0].members), found.pools[0].health_monitor.pool_id) == (1, behind.id)
    assert found.listeners[0].l7policies[0].listener_id == front.id


def test_names_owners_and_the_list(storage):
    tree, other = full(), balancer(name="web")
    gone = balancer(name="web", provisioning_status=Provisioning.DELETED)
    box = amphora(tree.id)
    store(storage, tree, other, gone, box)

    def look(tx):
        assert set(tx.find(Kind.LOAD_BALANCER, "web")) == {tree.id, other.id}
        assert tx.find(Kind.LOAD_BALANCER, tree.id) == (tree.id,)
        assert tx.find(Kind.LOAD_BALANCER, "nobody") == ()
        assert tx.find(Kind.AMPHORA, box.id) == (box.id,)
        assert all(tx.owner(kind, node.id) == tree.id for kind, node in tree.nodes())
        assert tx.owner(Kind.AMPHORA, box.id) == tree.id
        assert tx.owner(Kind.LOAD_BALANCER, tree.id) == tree.id
        assert tx.owner(Kind.MEMBER, "none") is None
        return tx.load_balancers()

    listed = storage.read(look)
    assert {each.id for each in listed} == {tree.id, other.id}
    assert next(each for each in listed if each.id == tree.id).vip_address == "192.0.2.1"


def test_attributes_are_changed_by_their_domain_names(storage):
    tree = full()
    store(storage, tree)
    front, behind = tree.listeners[0], tree.pools[0]
    cookie = SessionPersistence(type=PersistenceType.APP_COOKIE, cookie_name="c")

    def change(tx):
        tx.change(Kind.LOAD_BALANCER, tree.id, {"name": "new", "vip": Vip(ip_address="192.0.2.9", sg_ids=("a", "b"))})
        tx.change(
            Kind.LISTENER,
            front.id,
            {
                "insert_headers": {},
                "sni_container_ids": ("z", "y"),
                "allowed_cidrs": (),
                "tls_versions": ("TLSv1.3",),
                "default_pool_id": None,
            },
        )
        tx.change(Kind.POOL, behind.id, {"session_persistence": cookie})
        tx.change(Kind.MEMBER, behind.members[0].id, {"weight": 0, "address": "192.0.2.77"})
        tx.change(Kind.HEALTH_MONITOR, behind.health_monitor.id, {"max_retries": 9, "max_retries_down": 8})

    storage.transaction(change)
    found = load(storage, tree.id)
    assert (found.name, found.vip) == ("new", Vip(ip_address="192.0.2.9", sg_ids=("a", "b")))
    changed = found.listener(front.id)
    assert (changed.insert_headers, changed.sni_container_ids, changed.allowed_cidrs) == ({}, ("z", "y"), ())
    assert (changed.tls_versions, changed.default_pool_id) == (("TLSv1.3",), None)
    changed = found.pool(behind.id)
    assert changed.session_persistence == cookie
    assert {(m.weight, m.address) for m in changed.members} >= {(0, "192.0.2.77")}
    assert (changed.health_monitor.max_retries, changed.health_monitor.max_retries_down) == (9, 8)
    storage.transaction(lambda tx: tx.change(Kind.POOL, behind.id, {"session_persistence": None}))
    assert load(storage, tree.id).pool(behind.id).session_persistence is None


def test_statuses_and_strange_names_are_not_changed(storage):
    tree = full()
    store(storage, tree)
    for values_ in ({"provisioning_status": "ACTIVE"}, {"id": "x"}, {"colour": "red"}, {"members": ()}):
        with pytest.raises(BadRequest, match="cannot be set"):
            storage.transaction(lambda tx, v=values_: tx.change(Kind.POOL, tree.pools[0].id, v))
    with pytest.raises(NotFound):
        storage.transaction(lambda tx: tx.change(Kind.POOL, new_id(), {"name": "x"}))


def test_updated_at_is_null_until_the_first_change(storage):
    tree = full()
    store(storage, tree)
    of = metadata.tables["member"].c
    first, second, *_ = [m.id for m in tree.pools[0].members]
    storage.transaction(lambda tx: tx.change(Kind.MEMBER, first, {"weight": 2}))
    found = dict(storage.look(lambda tx: [tuple(r) for r in tx.rows(select(of.id, of.updated_at))]))
    assert found[first] is not None
    assert found[second] is None


def test_every_row_has_the_moment_in_which_it_was_made(storage):
    tree = full()
    store(storage, tree)
    store(storage, attrs.evolve(normal(tree).pools[0], id=new_id(), members=(), health_monitor=None))
    store(storage, attrs.evolve(normal(tree).listeners[0], id=new_id(), protocol_port=9, l7policies=()))
    for name in ("load_balancer", "listener", "pool", "member", "health_monitor", "l7policy", "l7rule"):
        of = metadata.tables[name].c
        born = storage.look(lambda tx, of=of: [row.created_at for row in tx.rows(select(of.created_at))])
        assert born, name
        assert None not in born, name


def positions(storage, tree):
    return [each.id for each in load(storage, tree.id).listeners[0].l7policies], [
        each.position for each in load(storage, tree.id).listeners[0].l7policies
    ]


def test_policies_are_numbered_without_gaps_wherever_they_move(storage):
    a, b, c = (policy(position=n) for n in (1, 2, 3))
    tree = balancer(listeners=(listener(a, b, c),))
    store(storage, tree)
    d = policy(listener_id=tree.listeners[0].id, position=2)
    store(storage, d)
    assert positions(storage, tree) == ([a.id, d.id, b.id, c.id], [1, 2, 3, 4])
    storage.transaction(lambda tx: tx.change(Kind.L7POLICY, a.id, {"position": 99}))
    assert positions(storage, tree) == ([d.id, b.id, c.id, a.id], [1, 2, 3, 4])
    storage.transaction(lambda tx: tx.change(Kind.L7POLICY, c.id, {"position": 1, "name": "first"}))
    assert positions(storage, tree) == ([c.id, d.id, b.id, a.id], [1, 2, 3, 4])
    storage.transaction(lambda tx: tx.delete(Kind.L7POLICY, d.id))
    assert positions(storage, tree) == ([c.id, b.id, a.id], [1, 2, 3])


def left_rows(storage):
    seeded = {"amphora_build_slots", "flavor", "flavor_profile", "availability_zone", "availability_zone_profile"}
    seeded |= {"spares_pool", "alembic_version"}
    tables = [t for t in UPSTREAM if t.name not in seeded and (len(t.c) > 2 or t.name in ("sni", "tags"))]
    return {
        t.name: n for t in tables if (n := storage.look(lambda tx, t=t: tx.value(select(func.count()).select_from(t))))
    }


def test_deleting_a_load_balancer_leaves_only_its_amphora_rows(storage):
    tree = full()
    box = amphora(tree.id)
    store(storage, tree, box)
    tags = metadata.tables["tags"]
    tagged = [{"resource_id": node.id, "tag": "x"} for _, node in tree.nodes()] + [{"resource_id": tree.id, "tag": "x"}]
    storage.write(lambda tx: tx.add_rows(tags, tagged))
    storage.transaction(lambda tx: tx.store_revision(tree.id, tree, None))
    for _ in range(2):
        storage.transaction(lambda tx: tx.delete(Kind.LOAD_BALANCER, tree.id))
    assert left_rows(storage) == {"amphora": 1}
    assert storage.read(lambda tx: (tx.amphora(box.id).load_balancer_id, tx.revisions(tree.id))) == (None, [])
    storage.transaction(lambda tx: tx.delete(Kind.AMPHORA, box.id))
    assert left_rows(storage) == {}


@pytest.mark.parametrize(
    "kind", [Kind.LISTENER, Kind.POOL, Kind.MEMBER, Kind.HEALTH_MONITOR, Kind.L7POLICY, Kind.L7RULE]
)
def test_deleting_a_child_takes_what_hangs_below_and_nothing_else(storage, kind):
    tree = full()
    store(storage, tree)
    doomed = next(node for k, node in tree.nodes() if k is kind)
    for _ in range(2):
        storage.transaction(lambda tx: tx.delete(kind, doomed.id))
    found = load(storage, tree.id)
    kept = {node.id for _, node in found.nodes()}
    assert doomed.id not in kept
    below = {
        Kind.LISTENER: lambda: {p.id for p in doomed.l7policies} | {r.id for p in doomed.l7policies for r in p.rules},
        Kind.POOL: lambda: (
            {m.id for m in doomed.members} | ({doomed.health_monitor.id} if doomed.health_monitor else set())
        ),
        Kind.L7POLICY: lambda: {r.id for r in doomed.rules},
    }.get(kind, set)()
    assert kept == {node.id for _, node in tree.nodes()} - below - {doomed.id}


def test_what_referred_to_a_pool_refers_to_nothing_afterwards(storage):
    tree = full()
    store(storage, tree)
    storage.transaction(lambda tx: [tx.delete(Kind.POOL, each.id) for each in tree.pools])
    found = load(storage, tree.id)
    assert [each.default_pool_id for each in found.listeners] == [None, None]
    assert all(p.redirect_pool_id is None for each in found.listeners for p in each.l7policies)
    assert sum(len(each.l7policies) for each in found.listeners) == 2


def test_a_hostile_header_column_is_refused_and_says_which_listener(storage):
    tree = full()
    store(storage, tree)
    table = metadata.tables["listener"]
    storage.write(lambda tx: tx.write(table.update().values(insert_headers=b"cos\nsystem\n(S'true'\ntR.")))
    with pytest.raises(PermanentError, match=r"listener .* refused"):
        load(storage, tree.id)


def test_what_upstream_leaves_empty_reads_as_upstream_takes_it(storage):
    tree = full()
    store(storage, tree)

    def blank(tx):
        tx.write(metadata.tables["member"].update().values(weight=None))
        tx.write(metadata.tables["listener"].update().values(connection_limit=None, hsts_preload=None))
        tx.write(metadata.tables["load_balancer"].update().values(topology=None))
        tx.write(metadata.tables["vip"].update().values(octavia_owned=None))

    storage.write(blank)
    found = load(storage, tree.id)
    assert {m.weight for p in found.pools for m in p.members} == {1}
    assert {each.connection_limit for each in found.listeners} == {-1}
    assert (found.topology, found.vip.octavia_owned) == ("SINGLE", False)


def test_vips_are_stored_as_the_network_gave_them(storage):
    tree = full()
    store(storage, tree)
    given_vip = Vip(ip_address="192.0.2.50", port_id="p", subnet_id="s", network_id="n", sg_ids=("group",))
    more = attrs.evolve(tree.additional_vips[0], port_id="q")
    for _ in range(2):
        storage.transaction(lambda tx: tx.set_vip(tree.id, given_vip, [more]))
    found = load(storage, tree.id)
    assert (found.vip, found.additional_vips) == (given_vip, (more,))
    with pytest.raises(NotFound):
        storage.transaction(lambda tx: tx.set_vip(new_id(), given_vip))


def test_additional_vips_whose_subnet_is_left_open_come_back_so_and_are_replaced_by_what_was_given(storage):
    tree = balancer(additional_vips=(AdditionalVip(), AdditionalVip(ip_address="192.0.2.3")))
    store(storage, tree)
    assert load(storage, tree.id).additional_vips == tree.additional_vips
    raw = storage.read(lambda tx: tx.rows(select(metadata.tables["additional_vip"].c.subnet_id)))
    assert all(str(uuid.UUID(row.subnet_id)) == row.subnet_id for row in raw)  # upstream's API shows it
    given = tuple(AdditionalVip(subnet_id=f"s{n}", ip_address=f"192.0.2.{n}", port_id="p") for n in (2, 3))
    storage.transaction(lambda tx: tx.set_vip(tree.id, tree.vip, given))
    assert load(storage, tree.id).additional_vips == given
    storage.transaction(lambda tx: tx.set_vip(tree.id, tree.vip))
    assert load(storage, tree.id).additional_vips == given


def test_amphorae_come_back_as_they_went_in(storage):
    tree = balancer()
    box = amphora(tree.id, agent_port=9555, cert_expiration=2_000_000_000, lb_network_ip="127.0.0.9", role="MASTER")
    store(storage, tree, box)
    store(storage, box)
    assert storage.read(lambda tx: tx.amphora(box.id)) == box
    with pytest.raises(BadRequest, match="exists already"):
        store(storage, attrs.evolve(box, lb_network_ip="127.0.0.10"))
    storage.transaction(lambda tx: tx.change_amphora(box.id, agent_port=9443, vrrp_ip="192.0.2.3", cert_expiration=5))
    assert storage.read(lambda tx: tx.amphora(box.id)) == attrs.evolve(
        box, agent_port=9443, vrrp_ip="192.0.2.3", cert_expiration=5
    )
    with pytest.raises(BadRequest, match="status cannot be set"):
        storage.transaction(lambda tx: tx.change_amphora(box.id, status=AmphoraStatus.ERROR))
    with pytest.raises(NotFound):
        storage.transaction(lambda tx: tx.change_amphora(new_id(), vrrp_ip="192.0.2.3"))

    def end(tx):
        tx.settle_amphora(box.id, AmphoraEvent.DELETE)
        tx.settle_amphora(box.id, AmphoraEvent.DELETED)

    storage.transaction(end)
    assert storage.read(lambda tx: (tx.amphorae(tree.id), len(tx.amphorae(with_deleted=True)))) == ([], 1)
    assert storage.read(lambda tx: tx.find(Kind.AMPHORA, box.id)) == ()


def test_reading_may_not_change_anything(storage):
    with pytest.raises(RuntimeError, match="must not change"):
        storage.read(lambda tx: tx.insert(balancer()))


def test_transactions_do_not_nest_where_there_is_one_writer(tmp_path):
    settings = settings_for(f"sqlite:///{tmp_path}/octavia.db")
    prepare(settings)
    storage = SqlStorage.open(settings)
    try:
        with pytest.raises(RuntimeError, match="do not nest"):
            storage.transaction(lambda tx: storage.transaction(lambda inner: None))
    finally:
        storage.close()
