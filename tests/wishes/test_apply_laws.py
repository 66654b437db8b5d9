"""Laws of applying a document: it gets what it wants, once; and what is as wanted is not touched."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavia_core.domain.tree import L7Policy, Listener, LoadBalancer, Pool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, MonitorType, PoolProtocol, Provisioning, Topology
from octavia_core.domain.wishes import NewHealthMonitor, NewL7Policy, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.errors import BadRequest
from octavia_core.policy import validity
from octavia_core.policy.apply import Change, Delete, Insert, applied, plan
from tests.wishes.strategies import counter, policies, wishes

relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
pairs = settings(relaxed, max_examples=40)


def settled(tree: LoadBalancer) -> LoadBalancer:
    """As after a successful operation: everything ACTIVE."""

    def active(node: Any, **values: Any) -> Any:
        return attrs.evolve(node, provisioning_status=Provisioning.ACTIVE, **values)

    def listener(one: Listener) -> Listener:
        below = (active(policy, rules=tuple(map(active, policy.rules))) for policy in one.l7policies)
        return active(one, l7policies=tuple(below))

    def pool(one: Pool) -> Pool:
        monitor = active(one.health_monitor) if one.health_monitor else None
        return active(one, members=tuple(map(active, one.members)), health_monitor=monitor)

    return active(tree, listeners=tuple(map(listener, tree.listeners)), pools=tuple(map(pool, tree.pools)))


def made(wish: NewLoadBalancer) -> LoadBalancer:
    return settled(wish.build(counter("old"), topology=Topology.SINGLE))


def ids(tree: LoadBalancer) -> set[str]:
    return {node.id for _, node in tree.nodes()}


def content(tree: LoadBalancer) -> Any:
    """What a tree says, without ids: what two trees have in common when one document made both."""

    def pool(id: str | None) -> Any:
        found = tree.pool(id)
        return found and attrs.asdict(found, filter=_meaning)

    def policy(one: L7Policy) -> Any:
        rules = sorted(repr(attrs.asdict(rule, filter=_meaning)) for rule in one.rules)
        return attrs.asdict(attrs.evolve(one, rules=()), filter=_meaning), pool(one.redirect_pool_id), rules

    def listener(one: Listener) -> Any:
        cidrs = tuple(sorted(one.allowed_cidrs))  # rows without an order: which comes first says nothing
        plain = attrs.evolve(one, l7policies=(), allowed_cidrs=cidrs)
        return attrs.asdict(plain, filter=_meaning), pool(one.default_pool_id), [policy(p) for p in one.l7policies]

    listeners = sorted(repr(listener(one)) for one in tree.listeners)
    return listeners, sorted(repr(pool(one.id)) for one in tree.pools)


def _meaning(field: attrs.Attribute[Any], value: Any) -> bool:
    return not field.name.endswith(("_id", "status")) and field.name not in ("id", "name", "peer_port", "members")


def attempt(tree: LoadBalancer, wanted: NewLoadBalancer) -> LoadBalancer | None:
    """The tree after applying; None when that needs two steps, which the refusal says."""
    try:
        return applied(tree, plan(tree, wanted, counter("new")))
    except BadRequest as refused:
        assert "delete the monitor first" in str(refused)
        return None


@relaxed
@given(wishes())
def test_what_is_as_wanted_needs_nothing(wish: NewLoadBalancer) -> None:
    assert plan(made(wish), wish, counter("new")).empty


@relaxed
@given(wishes())
def test_nothing_becomes_everything(wish: NewLoadBalancer) -> None:
    edits = plan(None, wish, counter())
    tree = applied(None, edits)
    assert [edit.kind for edit in edits.edits] == [Kind.LOAD_BALANCER]
    assert plan(settled(tree), wish, counter("new")).empty


@pairs
@given(wishes(), wishes())
def test_applying_twice_is_applying_once(before: NewLoadBalancer, after: NewLoadBalancer) -> None:
    tree = attempt(made(before), after)
    if tree is not None:
        assert plan(settled(tree), after, counter("again")).empty


@pairs
@given(wishes(), wishes())
def test_the_result_is_what_was_wanted_and_makes_sense(before: NewLoadBalancer, after: NewLoadBalancer) -> None:
    tree = attempt(made(before), after)
    if tree is None:
        return
    validity.check(tree)
    assert content(tree) == content(made(after))
    assert (tree.description or None, tree.enabled) == (after.description or None, after.enabled)
    for listener in tree.listeners:
        assert [policy.position for policy in listener.l7policies] == list(range(1, len(listener.l7policies) + 1))
    peers = [listener.peer_port for listener in tree.listeners]
    assert len(set(peers)) == len(peers)


@pairs
@given(wishes(), wishes())
def test_every_edit_names_an_object_of_its_own_and_references_hold_at_each_step(
    before: NewLoadBalancer, after: NewLoadBalancer
) -> None:
    tree = made(before)
    try:
        edits = plan(tree, after, counter("new")).edits
    except BadRequest:
        return
    named = [edit.id for edit in edits]
    assert len(set(named)) == len(named)
    there = ids(tree) | {tree.id}
    for edit in edits:
        if isinstance(edit, Insert):
            alone = LoadBalancer(id="x", pools=(edit.node,)) if isinstance(edit.node, Pool) else None
            there |= {edit.id} | (ids(alone) if alone else set())
            assert _parent(edit.node) in there
        else:
            assert edit.id in there
        for reference in _references(edit):
            assert reference in there
        if isinstance(edit, Delete):
            there.discard(edit.id)


def _parent(node: Any) -> str:
    names = ("pool_id", "l7policy_id", "listener_id", "load_balancer_id")
    return str(next(getattr(node, name) for name in names if hasattr(node, name)))


def _references(edit: Insert | Change | Delete) -> list[str]:
    found = []
    if isinstance(edit, Insert) and isinstance(edit.node, Listener):
        found = [edit.node.default_pool_id, *(policy.redirect_pool_id for policy in edit.node.l7policies)]
    elif isinstance(edit, Insert) and isinstance(edit.node, L7Policy):
        found = [edit.node.redirect_pool_id]
    elif isinstance(edit, Change):
        found = [edit.values.get("default_pool_id"), edit.values.get("redirect_pool_id")]
    return [id for id in found if id is not None]


@pairs
@given(st.lists(policies(ListenerProtocol.HTTP), max_size=6), st.randoms(use_true_random=False))
def test_policies_come_into_the_wanted_order(drawn: list[NewL7Policy], random: Any) -> None:
    def of(chosen: list[NewL7Policy]) -> NewLoadBalancer:
        listener = NewListener(protocol=ListenerProtocol.HTTP, protocol_port=80, l7policies=chosen)
        return NewLoadBalancer(listeners=[listener])

    known = [attrs.evolve(policy, name=f"policy-{index}") for index, policy in enumerate(drawn)]
    old = random.sample(known, random.randint(0, len(known)))
    new = random.sample(known, random.randint(0, len(known)))
    tree = made(of(old))
    after = applied(tree, plan(tree, of(new), counter("new")))
    assert [policy.name for policy in after.listeners[0].l7policies] == [policy.name for policy in new]
    kept = {policy.name for policy in old} & {policy.name for policy in new}
    assert {p.id for p in after.listeners[0].l7policies if p.name in kept} <= ids(tree)


def one(**values: Any) -> NewLoadBalancer:
    pool = NewPool(**{"name": "web", "members": [NewMember("10.0.0.1", 80), NewMember("10.0.0.2", 80)], **values})
    return NewLoadBalancer(
        name="lb", listeners=[NewListener(protocol=ListenerProtocol.HTTP, protocol_port=80, default_pool=pool)]
    )


def edits(before: NewLoadBalancer, after: NewLoadBalancer) -> list[tuple[str, str, Any]]:
    found = []
    for edit in plan(made(before), after, counter("new")).edits:
        more = edit.values if isinstance(edit, Change) else None
        found.append((type(edit).__name__, edit.kind.value, more))
    return found


def test_a_weight_is_one_change() -> None:
    heavier = one(members=[NewMember("10.0.0.1", 80, weight=7), NewMember("10.0.0.2", 80)])
    assert edits(one(), heavier) == [("Change", "member", {"weight": 7})]


def test_a_member_that_moves_is_made_before_the_old_one_goes() -> None:
    moved = one(members=[NewMember("10.0.0.1", 80), NewMember("10.0.0.3", 80)])
    assert edits(one(), moved) == [("Insert", "member", None), ("Delete", "member", None)]


def test_another_spelling_of_an_address_is_the_same_member() -> None:
    assert edits(one(members=[NewMember("2001:db8::1", 80)]), one(members=[NewMember("2001:DB8:0::1", 80)])) == []


def test_a_pool_of_another_protocol_takes_the_place_of_the_old_one() -> None:
    assert [e[:2] for e in edits(one(), one(protocol=PoolProtocol.PROXY))] == [
        ("Insert", "pool"),
        ("Change", "listener"),
        ("Delete", "pool"),
    ]


def test_a_pool_that_gets_another_name_stays_the_same_pool() -> None:
    assert edits(one(), one(name="shop")) == [("Change", "pool", {"name": "shop"})]


def test_names_that_the_document_leaves_out_stay() -> None:
    assert edits(one(), one(name=None)) == []


def test_pools_are_shared_by_name() -> None:
    wish = NewLoadBalancer(
        listeners=[
            NewListener(protocol=ListenerProtocol.HTTP, protocol_port=port, default_pool_id="web") for port in (80, 81)
        ],
        pools=[NewPool(name="web", protocol=PoolProtocol.HTTP)],
    )
    tree = made(wish)
    validity.check(tree)
    assert {listener.default_pool_id for listener in tree.listeners} == {tree.pools[0].id}
    assert plan(tree, wish, counter("new")).empty


def test_a_pool_referred_to_by_its_id_stays_though_the_document_does_not_describe_it() -> None:
    tree = made(one())
    listener = NewListener(protocol=ListenerProtocol.HTTP, protocol_port=80, default_pool_id=tree.pools[0].id)
    assert plan(tree, NewLoadBalancer(name="lb", listeners=[listener]), counter("new")).empty
    named = attrs.evolve(listener, default_pool_id="web")
    assert plan(tree, NewLoadBalancer(name="lb", listeners=[named]), counter("new")).empty


def test_another_type_of_monitor_needs_two_steps_and_says_so() -> None:
    with pytest.raises(
        BadRequest, match="type is TCP and cannot become HTTP; delete the monitor first, then apply again"
    ):
        edits(one(health_monitor=NewHealthMonitor()), one(health_monitor=NewHealthMonitor(type=MonitorType.HTTP)))


@pytest.mark.parametrize(
    ("name", "value"), [("vip_address", "10.9.9.9"), ("topology", Topology.ACTIVE_STANDBY), ("flavor_id", "f")]
)
def test_what_is_fixed_for_life_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=f"load balancer 'lb': {name} is"):
        plan(made(one()), attrs.evolve(one(), **{name: value}), counter("new"))


def test_what_is_in_error_is_tried_again() -> None:
    tree = made(one())
    pool = attrs.evolve(tree.pools[0], provisioning_status=Provisioning.ERROR)
    tree = attrs.evolve(tree, pools=(pool,))
    again = plan(tree, one(), counter("new"))
    assert again.edits == (Change(Kind.POOL, pool.id, {}),)
    assert plan(applied(tree, again), one(), counter("new")).empty


def test_what_is_leaving_already_is_not_deleted_again() -> None:
    tree = made(one())
    leaving = attrs.evolve(tree.pools[0].members[1], provisioning_status=Provisioning.PENDING_DELETE)
    pool = attrs.evolve(tree.pools[0], members=(tree.pools[0].members[0], leaving))
    assert plan(attrs.evolve(tree, pools=(pool,)), one(members=[NewMember("10.0.0.1", 80)]), counter("new")).empty
