"""Who may act: accepting, claiming, fencing, parking, waking, closing."""

from __future__ import annotations

import attrs
import pytest

from octavia_core.db.clock import db_now
from octavia_core.db.tables.own import oc_operation
from octavia_core.domain.operation import EntryKind, JournalEntry, OperationState, Outcome, Subject
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import LoadBalancerBusy, NotFound, Refused
from octavia_core.ports.storage import Claim, FenceLost
from tests.db.values import new_id, operation

FLOWS = {"flow": [1]}


def accept(storage, op):
    return storage.transaction(lambda tx: tx.add_operation(op))


def claim(storage, holder="w", limit=10, lease=60.0):
    return storage.claim(holder, FLOWS, lease=lease, limit=limit)


def claim_one(storage, op, holder="w", lease=60.0):
    ((found, right),) = claim(storage, holder, lease=lease)
    assert found.id == op.id
    return right


def read(storage, op):
    return storage.read(lambda tx: tx.operation(op.id))


def expire(storage, op):
    """The holder died a while ago: its lease is over."""
    past = oc_operation.update().where(oc_operation.c.id == op.id).values(lease_until=db_now() - 1)
    storage.write(lambda tx: tx.write(past))


def test_an_operation_comes_back_as_it_was_stored(storage):
    op = operation(
        "lb",
        arguments={"ids": ["a", "b"], "cascade": True, "nothing": None},
        subjects=(Subject(Kind.POOL, "p"),),
        request_id="r",
        actor="somebody",
        flow_version=3,
        amphora_id="box",
    )
    stored = accept(storage, op)
    assert attrs.evolve(stored, created_at=0, updated_at=0) == op
    assert read(storage, op) == stored
    assert 0 < stored.created_at <= storage.now()
    assert storage.read(lambda tx: tx.operation(new_id())) is None


def test_a_secret_in_arguments_is_refused(storage):
    with pytest.raises(TypeError, match="secret"):
        accept(storage, operation(arguments={"password": Secret("x")}))


def test_the_same_request_twice_is_the_same_operation(storage):
    first = accept(storage, operation("lb", request_id="r"))
    assert accept(storage, operation("lb", request_id="r")) == first
    assert accept(storage, operation("another", request_id="r")) == first
    assert storage.read(lambda tx: tx.requested("flow", "r")) == first
    assert storage.read(lambda tx: tx.requested("flow", "R")) is None, "compared byte by byte on every database"
    right = claim_one(storage, first)
    storage.transaction(lambda tx: tx.close_operation(first.id, OperationState.SUCCEEDED), claim=right)
    assert accept(storage, operation("lb", request_id="r")).state is OperationState.SUCCEEDED
    assert accept(storage, operation("lb", request_id="R")).id != first.id
    assert accept(storage, operation("lb2", request_id="r", flow="other")).id != first.id


def test_the_same_row_twice_is_stored_once(storage):
    op = operation("lb")
    assert accept(storage, op) == accept(storage, op)


def test_a_users_wish_is_refused_while_another_operation_holds_or_awaits_the_load_balancer(storage):
    first = accept(storage, operation("lb"))
    with pytest.raises(LoadBalancerBusy) as caught:
        accept(storage, operation("lb"))
    assert caught.value.operation_id == first.id
    accept(storage, operation("other"))
    right = next(right for op, right in claim(storage) if op.id == first.id)
    with pytest.raises(LoadBalancerBusy):
        accept(storage, operation("lb"))
    storage.park(right, wake_in=60, wait=None)
    with pytest.raises(LoadBalancerBusy):
        accept(storage, operation("lb"))
    storage.transaction(lambda tx: tx.close_operation(first.id, OperationState.FAILED, "no"))
    accept(storage, operation("lb"))


def test_a_users_wish_is_refused_while_an_internal_one_awaits_the_load_balancer(storage):
    waiting = accept(storage, operation("lb", internal=True))
    with pytest.raises(LoadBalancerBusy) as caught:
        accept(storage, operation("lb"))
    assert caught.value.operation_id == waiting.id


def test_a_wish_about_an_amphora_without_load_balancer_holds_the_amphora(storage):
    accept(storage, operation(amphora_id="box"))
    with pytest.raises(Refused, match="amphora box is held"):
        accept(storage, operation(amphora_id="box"))
    accept(storage, operation("lb", amphora_id="box"))


def test_wishes_about_nothing_in_particular_do_not_hinder_each_other(storage):
    accept(storage, operation())
    accept(storage, operation())
    assert len(claim(storage)) == 2


def test_internal_operations_queue_and_are_claimed_one_at_a_time_in_order(storage):
    first = accept(storage, operation("lb", internal=True))
    second = accept(storage, operation("lb", internal=True))
    elsewhere = accept(storage, operation("other", internal=True))
    taken = claim(storage, lease=600)
    assert {op.id for op, _ in taken} == {elsewhere.id, min(first, second, key=lambda o: (o.created_at, o.id)).id}
    assert claim(storage) == []
    assert storage.next_due() == pytest.approx(600, abs=60)
    for op, right in taken:
        storage.transaction(lambda tx, op=op: tx.close_operation(op.id, OperationState.SUCCEEDED), claim=right)
    assert len(claim(storage)) == 1
    assert claim(storage) == []


def test_an_internal_one_waits_for_the_users_and_goes_on_when_it_parked_only(storage):
    users = accept(storage, operation("lb"))
    internal = accept(storage, operation("lb", internal=True))
    right = claim_one(storage, users)
    storage.park(right, wake_in=3600, wait={"kind": "k"})
    assert claim(storage) == []
    storage.transaction(lambda tx: tx.close_operation(users.id, OperationState.SUCCEEDED))
    claim_one(storage, internal)


def test_a_claim_takes_only_flows_and_versions_it_knows(storage):
    op = accept(storage, operation(flow_version=2))
    assert storage.claim("w", {"flow": [1], "other": [2]}, lease=60, limit=5) == []
    assert storage.claim("w", {}, lease=60, limit=5) == []
    ((found, _),) = storage.claim("w", {"flow": (1, 2)}, lease=60, limit=5)
    assert found.id == op.id


def test_a_claim_tells_everything_about_the_holder(storage):
    op = accept(storage, operation("lb"))
    before = storage.now()
    ((found, right),) = claim(storage, "me", lease=30)
    assert right == Claim(operation_id=op.id, holder="me", fence=1, lease=30)
    assert (found.state, found.holder, found.fence, found.attempts) == (OperationState.RUNNING, "me", 1, 1)
    assert before + 30_000_000 <= found.lease_until <= storage.now() + 30_000_000
    assert read(storage, op) == found


def test_no_more_than_asked_for_are_claimed(storage):
    for _ in range(5):
        accept(storage, operation())
    assert [len(claim(storage, limit=2)) for _ in range(4)] == [2, 2, 1, 0]
    assert claim(storage, limit=0) == []


def test_a_lease_protects_until_it_is_over_and_the_new_holder_has_a_higher_fence(storage):
    op = accept(storage, operation("lb"))
    old = claim_one(storage, op, "first")
    assert claim(storage, "second") == []
    expire(storage, op)
    new = claim_one(storage, op, "second")
    assert new.fence > old.fence
    with pytest.raises(FenceLost):
        storage.transaction(lambda tx: tx.set_undoing(op.id, "late"), claim=old)
    for refused in (lambda: storage.renew(old, 60), lambda: storage.park(old, wake_in=1, wait=None)):
        with pytest.raises(FenceLost):
            refused()
    assert read(storage, op).holder == "second"
    assert not read(storage, op).undoing


def test_a_holder_whose_lease_is_over_but_not_taken_may_go_on(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op)
    expire(storage, op)
    storage.transaction(lambda tx: None, claim=right)
    assert claim(storage, "second") == [], "the fenced transaction extended the lease"


def test_renewing_extends_the_lease_by_the_databases_clock(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op, lease=10)
    storage.renew(right, 500)
    assert read(storage, op).lease_until == pytest.approx(storage.now() + 500_000_000, abs=60_000_000)


def test_a_lost_fence_changes_nothing(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op)
    wrong = attrs.evolve(right, fence=right.fence + 1)
    with pytest.raises(FenceLost):
        storage.transaction(lambda tx: tx.close_operation(op.id, OperationState.FAILED), claim=wrong)
    assert read(storage, op).state is OperationState.RUNNING


def test_who_parked_or_closed_may_not_act_any_more(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op)
    storage.park(right, wake_in=60, wait=None)
    with pytest.raises(FenceLost):
        storage.renew(right, 60)
    storage.wake([op.id])
    right = claim_one(storage, op)
    storage.transaction(lambda tx: tx.close_operation(op.id, OperationState.SUCCEEDED), claim=right)
    with pytest.raises(FenceLost):
        storage.transaction(lambda tx: None, claim=right)


def test_parking_stores_the_wait_and_its_journal_entry_together(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op)
    wait = {"kind": "server_active", "id": "s1"}
    entry = JournalEntry(operation_id=op.id, path="wait", kind=EntryKind.WAIT, outcome=Outcome.INTENT, key=wait)
    storage.park(right, wake_in=3600, wait=wait, error="still booting", entry=entry)
    found = read(storage, op)
    assert (found.state, found.wait, found.error) == (OperationState.WAITING, wait, "still booting")
    assert (found.holder, found.lease_until) == (None, 0)
    assert [each.path for each in storage.read(lambda tx: tx.journal(op.id))] == ["wait"]
    assert [each.id for each in storage.waiting(["server_active", "other"])] == [op.id]
    assert storage.waiting(["other"]) == []
    assert 3500 < storage.next_due() <= 3600
    assert claim(storage) == []


def test_a_parked_operation_is_due_when_its_time_has_come_or_when_it_is_woken(storage):
    sleeper, early = accept(storage, operation("a")), accept(storage, operation("b"))
    rights = {op.id: right for op, right in claim(storage)}
    storage.park(rights[sleeper.id], wake_in=3600, wait={"kind": "k"})
    storage.park(rights[early.id], wake_in=0, wait={"kind": "k"})
    assert storage.next_due() == 0
    claim_one(storage, early)
    storage.wake([sleeper.id, new_id(), early.id])
    right = claim_one(storage, sleeper)
    assert (read(storage, sleeper).wait, read(storage, early).state) == (None, OperationState.RUNNING)
    assert right.fence == 2


def test_when_the_next_is_due(storage):
    assert storage.next_due() is None
    op = accept(storage, operation("lb"))
    assert storage.next_due() == 0
    right = claim_one(storage, op, lease=1000)
    assert 900 < storage.next_due() <= 1000
    storage.transaction(lambda tx: tx.close_operation(op.id, OperationState.SUCCEEDED), claim=right)
    assert storage.next_due() is None


def test_undoing_survives_parking_and_its_cause_is_kept(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op)
    storage.transaction(lambda tx: tx.set_undoing(op.id, "the cloud said no"), claim=right)
    assert read(storage, op).state is OperationState.UNDOING
    storage.park(right, wake_in=0, wait=None, error="a passing thing")
    ((found, _),) = claim(storage)
    assert (found.undoing, found.error, found.state) == (True, "the cloud said no", OperationState.UNDOING)


def test_the_cause_of_a_retry_is_shown_until_the_next_parking(storage):
    op = accept(storage, operation("lb"))
    storage.park(claim_one(storage, op), wake_in=0, wait=None, error="no answer")
    assert read(storage, op).error == "no answer"
    storage.park(claim_one(storage, op), wake_in=0, wait=None)
    assert read(storage, op).error is None


def test_closing_lets_go_of_everything_and_is_final(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op)

    def close(tx):
        tx.close_operation(op.id, OperationState.FAILED, "reason")

    storage.transaction(close, claim=right)
    storage.transaction(close)
    found = read(storage, op)
    assert (found.state, found.error, found.holder) == (OperationState.FAILED, "reason", None)
    assert found.created_at <= found.finished_at <= storage.now()
    with pytest.raises(Refused, match="ended already: FAILED"):
        storage.transaction(lambda tx: tx.close_operation(op.id, OperationState.SUCCEEDED))
    with pytest.raises(NotFound):
        storage.transaction(lambda tx: tx.close_operation(new_id(), OperationState.SUCCEEDED))
    with pytest.raises(ValueError, match="not final"):
        storage.transaction(lambda tx: tx.close_operation(op.id, OperationState.RUNNING))
    assert storage.read(lambda tx: (tx.operations(open_only=True), len(tx.operations()))) == ([], 1)


def test_cancelling_a_running_operation_takes_the_fence_and_leaves_the_lease(storage):
    op = accept(storage, operation("lb"))
    right = claim_one(storage, op)
    assert storage.transaction(lambda tx: tx.cancel_operation(op.id, "not wanted"))
    with pytest.raises(FenceLost):
        storage.transaction(lambda tx: None, claim=right)
    assert claim(storage) == [], "a call may be under way until the lease ends"
    expire(storage, op)
    ((found, _),) = claim(storage)
    assert (found.undoing, found.error, found.state) == (True, "not wanted", OperationState.UNDOING)
    assert storage.transaction(lambda tx: tx.cancel_operation(op.id, "again"))
    assert read(storage, op).error == "not wanted"


@pytest.mark.parametrize("parked", [True, False], ids=["parked", "queued"])
def test_cancelling_what_nobody_holds_is_due_at_once(storage, parked):
    op = accept(storage, operation("lb"))
    if parked:
        storage.park(claim_one(storage, op), wake_in=3600, wait={"kind": "k"})
    assert storage.transaction(lambda tx: tx.cancel_operation(op.id, "not wanted"))
    ((found, _),) = claim(storage)
    assert (found.undoing, found.attempts) == (True, 2 if parked else 1)
    storage.transaction(lambda tx: tx.close_operation(op.id, OperationState.CANCELLED))
    assert storage.transaction(lambda tx: tx.cancel_operation(op.id, "late")) is False
    with pytest.raises(NotFound):
        storage.transaction(lambda tx: tx.cancel_operation(new_id(), "x"))


def test_operations_are_listed_newest_first_by_load_balancer(storage):
    mine = []
    for _ in range(3):
        op = accept(storage, operation("lb"))
        storage.transaction(lambda tx, op=op: tx.close_operation(op.id, OperationState.SUCCEEDED))
        mine.append(read(storage, op))
    accept(storage, operation("other"))
    found = storage.read(lambda tx: tx.operations(load_balancer_id="lb"))
    assert found == sorted(mine, key=lambda op: (op.created_at, op.id), reverse=True)
    assert len(storage.read(lambda tx: tx.operations(limit=2))) == 2


def test_many_parked_operations_cost_one_statement_to_wake(storage):
    ops = [accept(storage, operation()) for _ in range(60)]
    for op, right in claim(storage, limit=100):
        assert op.state is OperationState.RUNNING
        storage.park(right, wake_in=3600, wait={"kind": "k", "id": op.id})
    assert len(storage.waiting(["k"])) == len(ops)
    storage.wake([op.id for op in ops])
    assert storage.next_due() == 0
    assert len(claim(storage, limit=100)) == len(ops)
