"""What fits into one heartbeat, by the real packet of an agent."""

from __future__ import annotations

import random
import uuid

import pytest

from octavia_core.domain.heartbeat import LARGEST_DATAGRAM, encode
from octavia_core.domain.reportable import excess, excess_of
from octavia_core.domain.tree import L7Policy, Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import L7Action, ListenerProtocol, PoolProtocol, Provisioning

DICE = random.Random(1)  # noqa: S311 - no secret


def new() -> str:
    return str(uuid.UUID(int=DICE.getrandbits(128)))


@pytest.mark.parametrize(
    ("members", "pools", "listeners"), [(3000, 1, 1), (4000, 50, 20), (12_000, 1, 1), (1400, 9, 900)]
)
def test_as_many_as_it_says_fit(members: int, pools: int, listeners: int) -> None:
    ids = [new() for _ in range(listeners)]
    keys = [f"{new()}:{new()}" for _ in range(pools)]
    found = excess(ids, {key: [new() for _ in range(members // pools)] for key in keys})
    assert found is not None
    assert str(found.members) in str(found)
    assert str(LARGEST_DATAGRAM) in str(found)
    each = found.limit // pools
    stats = {"tx": 10**9, "rx": 10**9, "conns": 7, "totconns": 10**6, "ereq": 0}
    document = {
        "id": new(),
        "seq": 1,
        "listeners": {id: {"status": "OPEN", "stats": stats} for id in ids},
        "pools": {key: {"status": "UP", "members": {new(): "UP" for _ in range(each)}} for key in keys},
        "ver": 3,
    }
    assert len(encode(document, "k")) <= LARGEST_DATAGRAM


def test_few_members_are_not_reckoned() -> None:
    assert excess([new()], {new(): [new() for _ in range(2500)]}) is None
    assert excess([], {}) is None


def test_a_pool_counts_for_each_listener_that_uses_it_and_what_is_off_or_gone_does_not() -> None:
    def member(status: Provisioning = Provisioning.ACTIVE) -> Member:
        return Member(id=new(), address="192.0.2.1", protocol_port=80, provisioning_status=status)

    def listener(name: str, **more: object) -> Listener:
        return Listener(id=name, protocol=ListenerProtocol.HTTP, protocol_port=80, **more)  # type: ignore[arg-type]

    def tree(*listeners: Listener, enabled: bool = True) -> LoadBalancer:
        return LoadBalancer(id=new(), listeners=listeners, pools=(pool,), enabled=enabled)

    gone = [member(Provisioning.PENDING_DELETE) for _ in range(4000)]
    pool = Pool(id="p", protocol=PoolProtocol.HTTP, members=tuple([member() for _ in range(2000)] + gone))
    policy = L7Policy(id=new(), action=L7Action.REDIRECT_TO_POOL, redirect_pool_id="p")
    one, two = listener("a", default_pool_id="p"), listener("b", l7policies=(policy,))
    assert excess_of(tree(one)) is None
    found = excess_of(tree(one, two))
    assert found is not None
    assert (found.members, found.listeners) == (4000, 2)
    assert excess_of(tree(one, two, enabled=False)) is None
    assert excess_of(tree(one, listener("b", default_pool_id="p", enabled=False))) is None
