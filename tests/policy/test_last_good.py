"""Which tree is rendered: a broken object counts as it last worked, and spoils nothing else."""

from __future__ import annotations

import attrs
import pytest

from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import L7Policy, L7Rule, Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import (
    CompareType,
    Kind,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    Operating,
    PoolProtocol,
    Provisioning,
)
from octavia_core.policy.last_good import resolve

ACTIVE, ERROR, LEAVING = Provisioning.ACTIVE, Provisioning.ERROR, Provisioning.PENDING_DELETE


def member(id="m", weight=1, status=ACTIVE):
    return Member(id=id, address="192.0.2.1", protocol_port=80, weight=weight, provisioning_status=status)


def pool(*members, id="p", status=ACTIVE):
    return Pool(id=id, protocol=PoolProtocol.HTTP, members=members, provisioning_status=status)


def tree(*pools, listener=None, **more):
    listener = listener or Listener(
        id="l", protocol=ListenerProtocol.HTTP, protocol_port=80, default_pool_id="p", provisioning_status=ACTIVE
    )
    return LoadBalancer(id="lb", pools=pools, listeners=(listener,), **more)


def rendered(rows, good=None, *subjects):
    return resolve(rows, good, subjects)


def the_member(wanted):
    return next(iter(wanted.pools[0].members), None)


def test_what_is_in_error_is_rendered_as_it_last_worked():
    good = rendered(tree(pool(member(weight=1))))
    assert the_member(rendered(tree(pool(member(weight=9, status=ERROR))), good)).weight == 1


def test_what_never_worked_is_left_out():
    good = rendered(tree(pool()))
    assert the_member(rendered(tree(pool(member(status=ERROR))), good)) is None
    assert the_member(rendered(tree(pool(member(status=ERROR))))) is None


def test_what_the_wish_is_about_counts_as_asked_even_in_error():
    good = rendered(tree(pool(member(weight=1))))
    rows = tree(pool(member(weight=9, status=ERROR)))
    assert the_member(rendered(rows, good, Subject(Kind.MEMBER, "m"))).weight == 9


def test_a_bad_object_changes_nothing_about_the_others():
    before = tree(pool(member("m"), member("n")))
    good = rendered(before)
    rows = tree(pool(member("m", weight=9, status=ERROR), member("n", weight=5)))
    assert {m.id: m.weight for m in rendered(rows, good).pools[0].members} == {"m": 1, "n": 5}


def test_children_of_a_bad_pool_count_as_their_own_rows_say():
    good = rendered(tree(pool(member("m"))))
    rows = tree(pool(member("m", weight=3), member("n"), status=ERROR))
    assert {m.id: m.weight for m in rendered(rows, good).pools[0].members} == {"m": 3, "n": 1}


def test_what_is_leaving_is_left_out_with_every_reference_to_it():
    rule = L7Rule(
        id="r",
        type=L7RuleType.PATH,
        compare_type=CompareType.EQUAL_TO,
        value="/x",
        provisioning_status=ACTIVE,
    )
    policy = L7Policy(
        id="po",
        action=L7Action.REDIRECT_TO_POOL,
        redirect_pool_id="p",
        position=1,
        rules=(rule,),
        provisioning_status=ACTIVE,
    )
    listener = Listener(
        id="l",
        protocol=ListenerProtocol.HTTP,
        protocol_port=80,
        default_pool_id="p",
        l7policies=(policy,),
        provisioning_status=ACTIVE,
    )
    wanted = rendered(tree(pool(member(), status=LEAVING), listener=listener))
    assert wanted.pools == ()
    assert wanted.listeners[0].default_pool_id is None
    assert wanted.listeners[0].l7policies == ()


@pytest.mark.parametrize("status", [ACTIVE, Provisioning.PENDING_CREATE, Provisioning.PENDING_UPDATE])
def test_equal_content_is_equal_whatever_its_statuses(status):
    here = tree(pool(attrs.evolve(member(status=status), operating_status=Operating.ERROR)), provisioning_status=status)
    assert rendered(here) == rendered(tree(pool(member())))
    assert rendered(rendered(here), rendered(here)) == rendered(here)
