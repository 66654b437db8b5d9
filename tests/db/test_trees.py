"""What is kept of trees that were stored or read lately, and how their texts are put together."""

from __future__ import annotations

import json
from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings

from octavia_core.db.text import to_text
from octavia_core.db.trees import Members, Trees, text_of
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import ListenerProtocol, PoolProtocol
from octavia_core.policy.last_good import resolve
from tests.support.strategies import load_balancers

MEMBER = Member(id="m", address="192.0.2.1", protocol_port=80)


def tree(**headers: Any) -> LoadBalancer:
    listener = Listener(id="l", protocol=ListenerProtocol.HTTP, protocol_port=80, insert_headers=headers)
    members = (MEMBER, attrs.evolve(MEMBER, id="n", name='"members":[]'))
    pools = tuple(Pool(id=id, protocol=PoolProtocol.HTTP, members=members, name='"pools":[]') for id in ("p", "q"))
    return LoadBalancer(id="lb", listeners=(listener,), pools=pools)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(load_balancer=load_balancers())
def test_a_tree_is_written_letter_for_letter_as_by_the_codec(load_balancer: LoadBalancer) -> None:
    for one in (load_balancer, resolve(load_balancer, None)):
        assert text_of(one) == to_text(one)


def test_names_that_look_like_fields_are_no_fields() -> None:
    for one in (tree(), tree(pools=[]), LoadBalancer(id="lb")):  # another program may have stored it
        assert text_of(one) == to_text(one)


def test_trees_are_kept_by_their_texts_and_the_oldest_make_room() -> None:
    texts = [text_of(attrs.evolve(tree(), id=id)) for id in "abc"]
    trees = Trees(room=2 * len(texts[0]))
    made = [trees.of(text) for text in texts]
    assert [one.id for one in made] == ["a", "b", "c"]
    assert trees.of(texts[2]) is made[2]
    assert trees.of(texts[1]) is made[1]
    assert trees.of(texts[0]) == made[0]
    assert trees.of(texts[0]) is not made[0]
    assert json.loads(texts[0])["pools"][1]["members"][1]["id"] == "n"


def test_a_member_is_read_again_only_when_its_row_is_another() -> None:
    members = Members()
    rows = [("m", 1), ("m", 1), ("m", 2)]
    first, again, changed = (members.of(row, lambda row: attrs.evolve(MEMBER, weight=row[1])) for row in rows)
    assert first is again
    assert (again.weight, changed.weight) == (1, 2)
