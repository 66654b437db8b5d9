"""Plans on real rows: edits as the controller makes them, in one transaction, and a second apply finds nothing to do."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Kind, Topology
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import BadRequest
from octavia_core.lifecycle.provisioning import Event
from octavia_core.policy import validity
from octavia_core.policy.apply import Change, Insert, Plan, plan
from octavia_core.ports.storage import Transaction
from octavia_core.settings import Database, Settings
from tests.wishes.strategies import wishes


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlStorage]:
    place = tmp_path_factory.mktemp("rows")
    place.chmod(0o700)
    wanted = Settings(database=Database(connection=Secret(f"sqlite:///{place}/octavia.db")))
    prepare(wanted)
    opened = SqlStorage.open(wanted)
    yield opened
    opened.close()


def new_id() -> str:
    return str(uuid.uuid4())


def carried_out(storage: SqlStorage, id: str, edits: Plan) -> None:
    def work(tx: Transaction) -> None:
        tx.settle(Kind.LOAD_BALANCER, id, Event.LOCK)
        for edit in edits.edits:
            if isinstance(edit, Insert):
                tx.insert(edit.node)
                continue
            if edit.kind is not Kind.LOAD_BALANCER:
                tx.settle(edit.kind, edit.id, Event.ACCEPT_UPDATE if isinstance(edit, Change) else Event.ACCEPT_DELETE)
            if isinstance(edit, Change):
                tx.change(edit.kind, edit.id, edit.values)

    storage.transaction(work)
    storage.transaction(lambda tx: tx.settle_tree(id, succeeded=True))


def stored(storage: SqlStorage, id: str) -> LoadBalancer:
    found = storage.read(lambda tx: tx.tree(id))
    assert found is not None
    return found


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(wishes(), wishes())
def test_rows_become_what_a_document_wants(
    storage: SqlStorage, before: NewLoadBalancer, after: NewLoadBalancer
) -> None:
    tree = before.build(new_id, topology=Topology.SINGLE)
    storage.transaction(lambda tx: tx.insert(tree))
    storage.transaction(lambda tx: tx.settle_tree(tree.id, succeeded=True))
    assert plan(stored(storage, tree.id), before, new_id).empty
    try:
        edits = plan(stored(storage, tree.id), after, new_id)
    except BadRequest as refused:
        assert "delete the monitor first" in str(refused)
        return
    carried_out(storage, tree.id, edits)
    now = stored(storage, tree.id)
    validity.check(now)
    assert plan(now, after, new_id).empty
