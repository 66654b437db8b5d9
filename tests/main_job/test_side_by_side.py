"""Many callers, one controller: the same request once, a busy load balancer, wishes side by side, eight threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from octavia_core import NewLoadBalancer
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.errors import LoadBalancerBusy
from tests.main_job.stage import PATIENCE, behind, http, only_pool, until
from tests.support.running import Echo


def test_the_same_request_twice_is_the_same_operation(stage):
    control = stage.controller
    with Echo("one") as member:
        wish = NewLoadBalancer(name="asked twice", listeners=[http(*behind(member))])
        first = control.create_load_balancer(wish, request_id="create-1")
        again = control.create_load_balancer(wish, request_id="create-1")
        assert (again.id, again.load_balancer_id) == (first.id, first.load_balancer_id)
        first.wait(PATIENCE)
        assert control.create_load_balancer(wish, request_id="create-1").state is OperationState.SUCCEEDED
        lb = control.load_balancer("asked twice")
        listeners = [
            control.create_listener(lb.id, http(port=8081), request_id="listen-1", wait=PATIENCE) for _ in range(3)
        ]
        assert len({operation.id for operation in listeners}) == 1
        listeners[0].wait(PATIENCE)
        assert len(stage.tree(lb.id).listeners) == 2
        pool = only_pool(lb)
        changed = control.set_members(pool.id, behind(member, weight=7), request_id="members-1")
        changed.wait(PATIENCE)
        again = control.set_members(pool.id, behind(member, weight=7), request_id="members-1")
        assert again.id == changed.id  # though nothing is left to change
        removed = control.delete(Kind.LISTENER, listeners[0].subject_id, request_id="unlisten-1")
        removed.wait(PATIENCE)
        assert control.delete(Kind.LISTENER, listeners[0].subject_id, request_id="unlisten-1").id == removed.id
        assert control.update_load_balancer(lb.id, name="x", request_id="name-1").wait(PATIENCE)
        assert control.update_load_balancer(lb.id, name="y", request_id="name-1").wait(PATIENCE)
        assert stage.tree(lb.id).name == "x"
        deletion = control.delete_load_balancer(lb.id, request_id="delete-1")
        deletion.wait(PATIENCE)
        assert control.delete_load_balancer(lb.id, request_id="delete-1").id == deletion.id


def test_the_same_request_from_many_threads_at_once_is_one_operation(stage):
    control = stage.controller
    with Echo("one") as member, ThreadPoolExecutor(8) as threads:
        wish = NewLoadBalancer(name="asked at once", listeners=[http(*behind(member))])
        asked = [threads.submit(control.create_load_balancer, wish, request_id="create-2") for _ in range(8)]
        operations = [future.result() for future in asked]
        assert len({operation.id for operation in operations}) == 1
        operations[0].wait(PATIENCE)
        lb = control.load_balancer("asked at once")
        changes = [
            threads.submit(control.create_listener, lb.id, http(port=8081), request_id="listen-2", wait=PATIENCE)
            for _ in range(8)
        ]
        assert len({future.result().id for future in changes}) == 1
        changes[0].result().wait(PATIENCE)
        assert len(stage.tree(lb.id).listeners) == 2
        assert stage.ask(lb).member == "one"


def test_a_busy_load_balancer_refuses_and_wait_keeps_trying(stage):
    with Echo("one") as member:
        with stage.asleep() as client:
            asked = client.create_load_balancer(NewLoadBalancer(listeners=[http(*behind(member))]))
            id = asked.load_balancer_id
            for ask in (
                lambda: client.create_listener(id, http(port=8081)),
                lambda: client.update_load_balancer(id, name="x"),
                lambda: client.delete_load_balancer(id),
                lambda: client.failover_load_balancer(id),
            ):
                with pytest.raises(LoadBalancerBusy, match=id) as caught:
                    ask()
                assert "octavia-admin why" in str(caught.value)
        control = stage.controller
        creation = control.operation(asked.id)
        made = control.create_listener(id, http(port=8081), wait=PATIENCE)
        assert creation.state is OperationState.SUCCEEDED
        made.wait(PATIENCE)
        first = control.update(Kind.LISTENER, made.subject_id, name="a", wait=PATIENCE)
        second = control.update(Kind.LISTENER, made.subject_id, name="b", wait=PATIENCE)
        assert first.state is OperationState.SUCCEEDED
        second.wait(PATIENCE)
        assert stage.find(id, made.subject_id).name == "b"


def test_wishes_on_different_load_balancers_are_carried_out_side_by_side(stage):
    with Echo("one") as member:
        wishes = [NewLoadBalancer(name=f"lb-{n}", listeners=[http(*behind(member))]) for n in range(4)]
        with stage.asleep() as client:
            asked = [client.create_load_balancer(wish) for wish in wishes]
        control = stage.controller
        creations = [control.operation(one.id) for one in asked]
        rows = [creation.wait(PATIENCE) for creation in creations]
        # each began before the first one was over: none waited for another
        began = [
            min(entry.started_at for entry in control.storage.read(lambda tx, operation=row.id: tx.journal(operation)))
            for row in rows
        ]
        assert max(began) < min(row.finished_at for row in rows)
        lbs = [stage.tree(creation.load_balancer_id) for creation in creations]
        assert len({lb.vip.ip_address for lb in lbs}) == 4
        assert [stage.ask(lb).member for lb in lbs] == ["one"] * 4
        changes = [control.create_listener(lb.id, http(port=8081)) for lb in lbs]
        for change in changes:
            change.wait(PATIENCE)
        deletions = [control.delete_load_balancer(lb.id) for lb in lbs]
        for deletion in deletions:
            deletion.wait(PATIENCE)


def test_eight_threads_use_one_controller_on_one_load_balancer_and_nothing_is_lost(stage):
    """Each thread adds members of its own, reweights and looks; all changes are there in the end, and traffic never failed."""
    control = stage.controller
    with Echo("base") as base:
        lb = stage.build(http(*behind(base)))
        pool = only_pool(lb)

        def worker(number: int) -> list[str]:
            failed = []
            with Echo(f"m{number}") as server:
                made = control.create_member(pool.id, *behind(server), actor=f"thread {number}", wait=PATIENCE)
                made.wait(PATIENCE)
                control.update(Kind.MEMBER, made.subject_id, weight=number + 1, wait=PATIENCE).wait(PATIENCE)
                for _ in range(5):
                    answer = stage.ask(lb)
                    if answer.status != 200:
                        failed.append(answer)
                assert stage.find(lb.id, made.subject_id).weight == number + 1
                control.load_balancers(), control.events(load_balancer_id=lb.id), control.operations()
                control.delete(Kind.MEMBER, made.subject_id, wait=PATIENCE).wait(PATIENCE)
            return failed

        with ThreadPoolExecutor(8) as threads:
            assert [failed for found in threads.map(worker, range(8)) for failed in found] == []
        assert [member.name for member in only_pool(stage.tree(lb.id)).members] == ["base"]
        assert stage.served(lb) == ["base"] * 4
        rows = control.operations(load_balancer_id=lb.id)
        assert len(rows) == 1 + 3 * 8
        assert {row.state for row in rows} == {OperationState.SUCCEEDED}
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def test_an_operation_tells_its_events_and_can_be_found_again(stage):
    control = stage.controller
    seen = []
    operation = control.create_load_balancer(NewLoadBalancer(name="told"), actor="somebody")
    operation.wait(PATIENCE, on_event=seen.append)
    names = [event.name for event in seen]
    assert names[0] == "operation.accepted"
    assert "amphora.allocated" in names
    assert "somebody" in seen[0].text
    again = control.operation(operation.id)
    assert [event.sequence for event in again.events()] == [event.sequence for event in operation.events()]
    assert "load_balancer.active" in [event.name for event in again.events()]
    assert again.cancel() is False
    until(lambda: control.why("told"), "an explanation")
    assert control.timeline("told")


def test_a_cancelled_creation_leaves_nothing_but_its_row_in_error(stage):
    control = stage.controller
    operation = control.create_load_balancer(NewLoadBalancer(name="cancelled"))
    if not operation.cancel(actor="me"):  # it was quicker
        return
    until(lambda: operation.state.final, "the end")
    assert operation.state is not OperationState.SUCCEEDED
    lb = stage.tree(operation.load_balancer_id)
    assert lb.provisioning_status is Provisioning.ERROR
    until(lambda: list(control.amphorae(lb.id)) == [], "no amphora")
    until(lambda: not any(lb.id in name for _, name in control.world.network.list()), "no address")
    stage.drop(lb.id)
