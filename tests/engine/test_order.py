"""A tree comes back in the order in which it was asked for, though rows know only the second in which they were made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from octavia_core.controller.accept import Asked
from octavia_core.controller.accept_trees import ascending_ids
from octavia_core.db.tables import metadata
from octavia_core.domain.wishes import NewL7Policy, NewL7Rule, NewListener, NewLoadBalancer, NewMember, NewPool
from tests.engine.outside import Engine

MANY = 12
"""Of each kind: in any other order by chance once in 480 million runs."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine.open(tmp_path)
    yield engine
    engine.close()


def members(first: int = 1) -> list[NewMember]:
    return [NewMember(f"192.0.2.{number}", 80) for number in range(first, first + MANY)]


def wish(listeners: int = MANY) -> NewLoadBalancer:
    rules = [NewL7Rule(type="PATH", value=f"/{number}") for number in range(MANY)]
    return NewLoadBalancer(
        name="web",
        listeners=[
            NewListener(
                protocol="HTTP", protocol_port=8000 + number, default_pool=NewPool(name=f"of {number}"),
                l7policies=[NewL7Policy(action="REJECT", name=f"policy {one}", rules=rules) for one in range(3)],
            )
            for number in range(listeners)
        ],
        pools=[NewPool(protocol="HTTP", name=f"pool {number}", members=members()) for number in range(MANY)],
    )  # fmt: skip


def test_what_is_created_together_comes_back_as_it_was_asked_for(engine: Engine) -> None:
    asked = wish()
    engine.acceptor.create_load_balancer(asked, Asked())
    engine.settle()
    tree = engine.load_balancer()
    assert [one.protocol_port for one in tree.listeners] == [one.protocol_port for one in asked.listeners]
    assert [pool.name for pool in tree.pools] == [f"{what} {n}" for what in ("pool", "of") for n in range(MANY)]
    assert [member.address for member in tree.pools[0].members] == [member.address for member in members()]
    assert [policy.name for policy in tree.listeners[0].l7policies] == ["policy 0", "policy 1", "policy 2"]
    assert [rule.value for rule in tree.listeners[0].l7policies[0].rules] == [f"/{number}" for number in range(MANY)]


def test_what_a_document_and_a_list_of_members_add_comes_behind_what_is_there(engine: Engine) -> None:
    engine.acceptor.create_load_balancer(wish(1), Asked())
    engine.settle()
    tree = engine.load_balancer()
    earlier(engine, 2020)
    engine.acceptor.apply(tree.id, wish(MANY), Asked())
    engine.settle()
    earlier(engine, 2021)
    both = [*members(), *members(101)]
    engine.acceptor.set_members(tree.pools[0].id, both, Asked(), additive_only=False)
    engine.settle()
    tree = engine.load_balancer()
    assert [one.protocol_port for one in tree.listeners] == [8000 + number for number in range(MANY)]
    found = [member.address for member in tree.pools[0].members]
    assert sorted(found[:MANY]) == sorted(member.address for member in members())
    new = [member.address for member in members(101)]
    assert [address for address in found if address in new] == new


def earlier(engine: Engine, year: int) -> None:
    """What is there was made in other seconds than what comes: of one second, rows know the order within one wish."""
    for of in (metadata.tables[name] for name in ("listener", "pool", "member")):
        then = datetime(year, 1, 1)  # noqa: DTZ001 - as upstream's columns have it
        before = of.update().where(of.c.created_at > then).values(created_at=then)
        engine.storage.write(lambda tx, before=before: tx.write(before))  # type: ignore[misc]


def test_listeners_that_are_added_one_by_one_stand_in_that_order(engine: Engine) -> None:
    engine.acceptor.create_load_balancer(wish(1), Asked())
    engine.settle()
    ports = [9000 + number * 7 % 100 for number in range(MANY)]
    for port in ports:
        engine.acceptor.create_listener(
            engine.load_balancer().id, NewListener(protocol="HTTP", protocol_port=port), Asked()
        )
        engine.settle()
    assert [one.protocol_port for one in engine.load_balancer().listeners] == [8000, *ports]


def test_ids_of_one_wish_ascend_however_many_there_are_and_few_look_alike() -> None:
    next_id = ascending_ids()
    found = [next_id() for _ in range(60_000)]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert {len(one) for one in found} == {36}
    assert {one[14] for one in found} == {"4"}
    begin = [one[:8] for one in found]
    assert len(set(begin[:100])) == 100
    assert len(set(begin[:1000])) >= 997, "a pair that begins alike comes once in some hundred runs"
