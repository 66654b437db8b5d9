"""Everything below a load balancer is created, changed and deleted while it serves, and each change is seen in traffic."""

from __future__ import annotations

import pytest

from octavia_core import NewHealthMonitor, NewL7Policy, NewL7Rule, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.vocabulary import (
    Algorithm,
    CompareType,
    Kind,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
    Operating,
    Provisioning,
)
from octavia_core.errors import BadRequest, NotFound, Refused
from tests.main_job.stage import PATIENCE, behind, http, only_member, only_pool, until
from tests.support.running import Echo


def refused(stage, lb, listener=0) -> bool:
    """Nobody listens there."""
    try:
        stage.ask(lb, listener=listener)
    except ConnectionRefusedError:
        return True
    return False


def test_a_listener_comes_changes_and_goes(stage):
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one)))
        made = stage.controller.create_listener(lb.id, http(*behind(two), port=8081, name="second"))
        made.wait(PATIENCE)
        lb = stage.tree(lb.id)
        second = lb.listener(made.subject_id)
        assert second.name == "second"
        assert stage.ask(lb, listener=second).member == "two"
        assert stage.ask(lb).member == "one"
        headers = {"X-Forwarded-For": "true", "X-Forwarded-Port": "true"}
        stage.update(Kind.LISTENER, second.id, insert_headers=headers, connection_limit=100)
        seen = stage.ask(lb, listener=second).echo["headers"]
        assert (seen["x-forwarded-for"], seen["x-forwarded-port"]) == ("127.0.0.1", "8081")
        assert stage.find(lb.id, second.id).connection_limit == 100
        assert stage.find(lb.id, second.id).insert_headers == headers
        stage.delete(Kind.LISTENER, second.id)
        assert refused(stage, lb, second)
        assert stage.tree(lb.id).listener(second.id) is None
        assert stage.ask(lb).member == "one"
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def test_a_load_balancer_without_listeners_gets_everything_one_by_one(stage):
    with Echo("one") as one, Echo("two") as two:
        lb = stage.create(NewLoadBalancer())
        control = stage.controller
        pool = control.create_pool(lb.id, NewPool(protocol="HTTP"))
        pool.wait(PATIENCE)
        control.create_member(pool.subject_id, *behind(one)).wait(PATIENCE)
        wish = NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool_id=pool.subject_id)
        listener = control.create_listener(lb.id, wish)
        listener.wait(PATIENCE)
        lb = stage.tree(lb.id)
        assert stage.ask(lb).member == "one"
        other = control.create_pool(lb.id, NewPool(protocol="HTTP", members=behind(two)))
        other.wait(PATIENCE)
        assert stage.served(lb, 3) == ["one"] * 3
        stage.update(Kind.LISTENER, listener.subject_id, default_pool_id=other.subject_id)
        assert stage.served(lb, 3) == ["two"] * 3
        stage.update(Kind.LISTENER, listener.subject_id, default_pool_id=None)
        assert stage.ask(lb).status == 503
        third = control.create_pool(lb.id, NewPool(members=behind(one)), listener_id=listener.subject_id)
        third.wait(PATIENCE)
        assert stage.ask(lb).member == "one"
        stage.delete(Kind.POOL, third.subject_id)
        assert stage.ask(lb).status == 503
        assert stage.find(lb.id, listener.subject_id).default_pool_id is None
        stage.delete(Kind.LISTENER, listener.subject_id)
        assert refused(stage, lb)
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def test_two_listeners_share_a_pool_and_its_changes(stage):
    with Echo("one") as one, Echo("two") as two:
        pools = [NewPool(name="shared", protocol="HTTP", members=behind(one))]
        first = NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool_id="shared")
        second = NewListener(protocol=ListenerProtocol.HTTP, protocol_port=8081, default_pool_id="shared")
        lb = stage.build(first, second, pools=pools)
        assert [stage.ask(lb, listener=at).member for at in (0, 1)] == ["one", "one"]
        shared = only_pool(lb)
        stage.controller.create_member(shared.id, *behind(two)).wait(PATIENCE)
        stage.delete(Kind.MEMBER, shared.members[0].id)
        assert [stage.ask(lb, listener=at).member for at in (0, 1)] == ["two", "two"]
        stage.operating(lb.id, shared.id, Operating.ONLINE)
        first = next(one for one in lb.listeners if one.protocol_port == 8080)
        stage.delete(Kind.LISTENER, first.id)
        assert stage.ask(lb, listener=1).member == "two"
        stage.operating(lb.id, shared.id, Operating.ONLINE)


def test_a_member_is_reweighted_disabled_and_deleted(stage):
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one, two)))
        first, second = stage.find(lb.id, "one"), stage.find(lb.id, "two")
        change = stage.update
        change(Kind.MEMBER, first.id, weight=3)
        answers = stage.served(lb, 24)
        assert answers.count("one") > 2 * answers.count("two") > 0
        change(Kind.MEMBER, first.id, weight=0)
        assert set(stage.served(lb)) == {"two"}
        change(Kind.MEMBER, first.id, weight=1)
        change(Kind.MEMBER, second.id, enabled=False)
        assert set(stage.served(lb)) == {"one"}
        stage.operating(lb.id, second.id, Operating.OFFLINE)
        change(Kind.MEMBER, second.id, enabled=True, name="renamed")
        assert set(stage.served(lb)) == {"one", "two"}
        assert stage.find(lb.id, second.id).name == "renamed"
        stage.operating(lb.id, second.id, Operating.NO_MONITOR)
        stage.delete(Kind.MEMBER, first.id)
        assert set(stage.served(lb)) == {"two"}
        assert only_member(stage.tree(lb.id)).id == second.id


def test_members_are_set_in_one_operation_and_an_unchanged_list_is_none(stage):
    with Echo("one") as one, Echo("two") as two, Echo("three") as three:
        lb = stage.build(http(*behind(one, two)))
        pool, control = only_pool(lb), stage.controller
        wishes = [*behind(two, weight=2), *behind(three)]
        operation = control.set_members(pool.id, wishes)
        operation.wait(PATIENCE)
        answers = stage.served(lb, 18)
        assert answers.count("two") > answers.count("three") > 0 == answers.count("one")
        ids = {member.id for member in only_pool(stage.tree(lb.id)).members}
        before = {member.name: member.id for member in pool.members}
        assert before["two"] in ids  # it stayed the same member
        assert before["one"] not in ids
        assert control.set_members(pool.id, wishes) is None
        assert control.set_members(pool.id, behind(three), additive_only=True) is None
        control.set_members(pool.id, behind(one), additive_only=True).wait(PATIENCE)
        assert set(stage.served(lb, 8)) == {"one", "two", "three"}
        with pytest.raises(BadRequest, match="listed twice"):
            control.set_members(pool.id, [*behind(one), *behind(one)])
        control.set_members(pool.id, []).wait(PATIENCE)
        assert stage.ask(lb).status == 503
        assert control.set_members(pool.id, []) is None


def test_a_health_monitor_comes_changes_and_goes(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        pool, member = only_pool(lb), only_member(lb)
        wish = NewHealthMonitor(
            type=MonitorType.HTTP, delay=1, timeout=60, max_retries=1, max_retries_down=1, url_path="/check"
        )
        monitor = stage.controller.create_health_monitor(pool.id, wish)
        monitor.wait(PATIENCE)
        stage.operating(lb.id, member.id, Operating.ONLINE)
        until(lambda: any("/check" in line for line in one.seen), "a check")
        stage.update(Kind.MEMBER, member.id, weight=0)
        stage.operating(lb.id, member.id, Operating.DRAINING)
        stage.update(Kind.MEMBER, member.id, weight=1)
        stage.operating(lb.id, member.id, Operating.ONLINE)
        with pytest.raises(Refused, match="has health monitor"):
            stage.controller.create_health_monitor(pool.id, wish)
        stage.update(Kind.HEALTH_MONITOR, monitor.subject_id, url_path="/other", max_retries=2)
        until(lambda: any("/other" in line for line in one.seen), "the new check")
        assert stage.find(lb.id, monitor.subject_id).max_retries == 2
        stage.update(Kind.HEALTH_MONITOR, monitor.subject_id, enabled=False)
        stage.operating(lb.id, member.id, Operating.NO_MONITOR)
        stage.delete(Kind.HEALTH_MONITOR, monitor.subject_id)
        assert only_pool(stage.tree(lb.id)).health_monitor is None
        assert only_member(stage.tree(lb.id)).operating_status is Operating.NO_MONITOR
        assert stage.ask(lb).member == "one"


def test_policies_move_change_and_go(stage):
    def to(url: str, position: int | None = None, **options) -> NewL7Policy:
        rules = [NewL7Rule(type=L7RuleType.PATH, compare_type=CompareType.STARTS_WITH, value="/x")]
        return NewL7Policy(
            action=L7Action.REDIRECT_TO_URL, redirect_url=url, position=position, rules=rules, name=url[8:], **options
        )

    def goes_to() -> str | None:
        return stage.ask(lb, "/x").headers.get("location")

    def order() -> list[str | None]:
        return [policy.name for policy in stage.tree(lb.id).listeners[0].l7policies]

    control = stage.controller
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one), l7policies=[to("https://a"), to("https://b")]))
        listener = lb.listeners[0]
        a, b = listener.l7policies
        assert goes_to() == "https://a"
        made = control.create_l7policy(listener.id, to("https://c", position=1))
        made.wait(PATIENCE)
        assert (order(), goes_to()) == (["c", "a", "b"], "https://c")
        stage.update(Kind.L7POLICY, b.id, position=1)
        assert (order(), goes_to()) == (["b", "c", "a"], "https://b")
        stage.update(Kind.L7POLICY, b.id, position=99)
        assert (order(), goes_to()) == (["c", "a", "b"], "https://c")
        stage.update(Kind.L7POLICY, made.subject_id, enabled=False)
        assert goes_to() == "https://a"
        assert stage.find(lb.id, made.subject_id).operating_status is Operating.OFFLINE
        stage.update(Kind.L7POLICY, a.id, redirect_url="https://new", redirect_http_code=307)
        answer = stage.ask(lb, "/x")
        assert (answer.status, answer.headers["location"]) == (307, "https://new")
        stage.delete(Kind.L7POLICY, a.id)
        assert (order(), goes_to()) == (["c", "b"], "https://b")
        assert [policy.position for policy in stage.tree(lb.id).listeners[0].l7policies] == [1, 2]
        wish = NewL7Policy(action=L7Action.REDIRECT_TO_POOL, redirect_pool=NewPool(members=behind(two)))
        pooled = control.create_l7policy(listener.id, wish)
        pooled.wait(PATIENCE)
        rule = control.create_l7rule(pooled.subject_id, NewL7Rule(type=L7RuleType.PATH, value="/two"))
        rule.wait(PATIENCE)
        assert (stage.ask(lb, "/two").member, stage.ask(lb, "/one").member) == ("two", "one")
        stage.update(Kind.L7RULE, rule.subject_id, invert=True)
        assert (stage.ask(lb, "/two").member, stage.ask(lb, "/one").member) == ("one", "two")
        stage.update(Kind.L7RULE, rule.subject_id, value="/deux", invert=False)
        assert (stage.ask(lb, "/deux").member, stage.ask(lb, "/two").member) == ("two", "one")
        target = stage.find(lb.id, pooled.subject_id).redirect_pool_id
        with pytest.raises(Refused, match=f"pool {target} is the target of L7 policy"):
            control.delete(Kind.POOL, target)
        stage.delete(Kind.L7RULE, rule.subject_id)
        assert stage.ask(lb, "/deux").member == "one"  # a policy without rules matches nothing
        stage.update(Kind.L7POLICY, pooled.subject_id, action="reject")
        assert stage.find(lb.id, pooled.subject_id).redirect_pool_id is None
        stage.delete(Kind.POOL, target)
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def test_what_is_disabled_serves_nobody_until_it_is_enabled_again(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        pool, listener, control = only_pool(lb), lb.listeners[0], stage.controller
        stage.update(Kind.POOL, pool.id, enabled=False)
        assert stage.ask(lb).status == 503
        stage.operating(lb.id, pool.id, Operating.OFFLINE)
        stage.update(Kind.POOL, pool.id, enabled=True)
        assert stage.ask(lb).member == "one"
        stage.update(Kind.LISTENER, listener.id, enabled=False)
        assert refused(stage, lb)
        stage.operating(lb.id, listener.id, Operating.OFFLINE)
        stage.update(Kind.LISTENER, listener.id, enabled=True)
        assert stage.ask(lb).member == "one"
        stage.operating(lb.id, listener.id, Operating.ONLINE)
        stage.update_load_balancer(lb.id, enabled=False, name="off")
        assert refused(stage, lb)
        until(lambda: stage.tree(lb.id).operating_status is Operating.OFFLINE, "OFFLINE")
        stage.update_load_balancer(lb.id, enabled=True)
        assert stage.ask(lb).member == "one"
        until(lambda: stage.tree(lb.id).operating_status is Operating.ONLINE, "ONLINE")
        assert stage.tree(lb.id).name == "off"
        assert len(control.amphorae(lb.id)) == 1
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def test_a_pool_changes_its_algorithm_and_name(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        pool = only_pool(lb)
        stage.update(Kind.POOL, pool.id, lb_algorithm="least_connections", name="p", description="d")
        found = stage.find(lb.id, pool.id)
        assert (found.lb_algorithm, found.name, found.description) == (Algorithm.LEAST_CONNECTIONS, "p", "d")
        assert stage.ask(lb).member == "one"
        revisions = stage.controller.revisions(lb.id)
        assert [revision.number for revision in revisions] == [2, 1]
        assert all(revision.good for revision in revisions)


def test_a_wish_that_cannot_be_is_refused_in_a_sentence_and_changes_nothing(stage):
    control = stage.controller
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        pool, listener, member = only_pool(lb), lb.listeners[0], only_member(lb)
        for ask, said in (
            (lambda: control.create_listener(lb.id, http(port=8080)), "no other listener"),
            (lambda: control.create_listener(lb.id, http(port=70000)), "protocol_port"),
            (lambda: control.create_member(pool.id, NewMember("one.example", 80)), "address"),
            (lambda: control.create_member(pool.id, NewMember(one.address, one.port)), "no other member"),
            (lambda: control.update(Kind.MEMBER, member.id, weight=257), "weight"),
            (lambda: control.update(Kind.MEMBER, member.id, address="127.0.0.2"), "cannot be changed"),
            (lambda: control.update(Kind.MEMBER, member.id, wieght=1), "did you mean 'weight'"),
            (lambda: control.update(Kind.MEMBER, member.id), "nothing to change"),
            (
                lambda: control.update(Kind.LISTENER, listener.id, default_pool_id=member.id),
                "a pool of this load balancer",
            ),
            (lambda: control.update(Kind.POOL, listener.id, name="x"), "no pool"),
            (lambda: control.delete(Kind.LISTENER, "nonsense"), "no listener 'nonsense'"),
            (lambda: control.create_pool(lb.id, NewPool(), listener_id="nonsense"), "no listener 'nonsense'"),
            (lambda: control.load_balancer("nobody"), "no load balancer 'nobody'"),
            (lambda: control.delete_load_balancer(lb.id, cascade=False), "still has 1 listener"),
        ):
            with pytest.raises(BadRequest, match=said) as caught:
                ask()
            assert "\n" not in str(caught.value)
        assert stage.tree(lb.id) == lb or stage.statuses(lb.id) == {Provisioning.ACTIVE}
        with pytest.raises(NotFound):
            control.operation("nonsense")
        assert stage.ask(lb).member == "one"
        assert len(control.operations(load_balancer_id=lb.id)) == 1
