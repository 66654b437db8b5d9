"""Changes and failures on top of each other, with traffic: nothing is refused that need not be, and all ends well."""

from __future__ import annotations

import http.client
import os
import signal
import socket

import pytest

from octavia_core import NewHealthMonitor, NewLoadBalancer, NewMember
from octavia_core.domain.vocabulary import Kind, MonitorType, Provisioning, Topology
from octavia_core.errors import BadRequest, NotFound, OperationFailed
from tests.main_job.stage import PATIENCE, behind, only_pool, until
from tests.main_job.stage import http as http_listener
from tests.main_job.test_healing import Load, serving
from tests.support.running import Echo


def test_no_request_fails_in_many_updates(stage):
    """New connections and a kept one, through changes at run time and through reloads."""
    control = stage.controller
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http_listener(*behind(one)))
        pool, listener = only_pool(lb), lb.listeners[0]
        kept = http.client.HTTPConnection(*stage.at(lb), timeout=PATIENCE)

        def still_there() -> None:
            kept.request("GET", "/")
            answer = kept.getresponse()
            assert answer.status == 200
            answer.read()

        with Load(stage.at(lb)) as load:
            load.more(5)
            for number in range(20):
                wishes = [*behind(one, weight=2 + number % 2), *(behind(two) if number % 3 else ())]
                control.set_members(pool.id, wishes).wait(PATIENCE)
                still_there()
            for number in range(5):
                stage.update(Kind.LISTENER, listener.id, connection_limit=100 + number)
            load.more(10)
        assert load.failed == []
        kept.close()


def test_hundreds_of_members_come_and_go_in_one_operation(stage):
    control = stage.controller
    with Echo("one") as one:
        lb = stage.build(http_listener(*behind(one)))
        pool = only_pool(lb)
        crowd = [NewMember("127.0.0.1", 20000 + number, weight=0) for number in range(300)]
        control.set_members(pool.id, [*behind(one), *crowd]).wait(PATIENCE)
        assert len(only_pool(stage.tree(lb.id)).members) == 301
        assert stage.served(lb) == ["one"] * 4
        control.set_members(pool.id, behind(one)).wait(PATIENCE)
        assert len(only_pool(stage.tree(lb.id)).members) == 1
        assert stage.served(lb) == ["one"] * 4


def test_an_amphora_that_dies_during_a_change_that_is_refused_is_replaced_all_the_same(stage):
    control = stage.controller
    with Echo("one") as one:
        lb = stage.build(http_listener(*behind(one)))
        (before,) = serving(stage, lb.id)
        pid = stage.agent_pid(before)
        with socket.create_server((lb.vip.ip_address, 8099)):
            os.kill(pid, signal.SIGSTOP)
            change = control.create_listener(lb.id, http_listener(port=8099))
            until(lambda: change.state != "QUEUED", "a beginning")
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(OperationFailed, match="8099"):
                change.wait(PATIENCE)
            until(lambda: not control.operations(load_balancer_id=lb.id, open_only=True), "quiet")
        assert serving(stage, lb.id) not in ([], [before])
        assert stage.served(lb) == ["one"] * 4
        assert stage.find(lb.id, change.subject_id).provisioning_status is Provisioning.ERROR
        assert stage.tree(lb.id).provisioning_status is Provisioning.ACTIVE


def test_an_amphora_is_replaced_on_request_and_only_once(stage):
    with Echo("one") as one:
        lb = stage.build(http_listener(*behind(one)))
        (first,) = serving(stage, lb.id)
        with stage.asleep() as client:
            asked = [client.failover_amphora(first) for _ in range(2)]  # they queue
        control = stage.controller
        for operation in asked:
            control.operation(operation.id).wait(PATIENCE)
        (second,) = serving(stage, lb.id)
        assert second != first
        with pytest.raises(NotFound):
            control.failover_amphora(first)
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        assert serving(stage, lb.id) not in ([first], [second])
        assert stage.served(lb) == ["one"] * 4


def test_a_document_is_applied_and_the_same_again_is_nothing(stage):
    control = stage.controller
    with Echo("one") as one, Echo("two") as two:
        first = NewLoadBalancer(name="applied", listeners=[http_listener(*behind(one))])
        control.apply(first).wait(PATIENCE)
        assert control.apply(first) is None
        lb = control.load_balancer("applied")
        assert stage.ask(lb).member == "one"
        second = NewLoadBalancer(
            name="applied", listeners=[http_listener(*behind(two)), http_listener(*behind(one), port=8081)]
        )
        control.apply(second).wait(PATIENCE)
        changed = control.load_balancer("applied")
        assert changed.id == lb.id
        assert [stage.ask(changed, listener=at).member for at in (0, 1)] == ["two", "one"]
        assert control.apply(second) is None
        control.apply(first).wait(PATIENCE)
        assert len(control.load_balancer("applied").listeners) == 1


def test_what_is_not_offered_is_refused_by_name(stage):
    control = stage.controller
    before = len(control.load_balancers())
    for wish, said in (
        (NewLoadBalancer(topology=Topology.ACTIVE_STANDBY), "ACTIVE_STANDBY"),
        (NewLoadBalancer(flavor_id="large"), "flavor 'large'"),
        (NewLoadBalancer(availability_zone="moon"), "availability zone 'moon'"),
    ):
        with pytest.raises(BadRequest, match=said):
            control.create_load_balancer(wish)
    assert len(control.load_balancers()) == before
    with Echo("one") as one:
        lb = stage.build(http_listener(*behind(one)))
        ping = control.create_health_monitor(only_pool(lb).id, NewHealthMonitor(type=MonitorType.PING))
        with pytest.raises(OperationFailed, match="PING"):
            ping.wait(PATIENCE)
        assert stage.ask(lb).member == "one"
        stage.delete(Kind.HEALTH_MONITOR, ping.subject_id)
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}
