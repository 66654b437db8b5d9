"""Rows that say of everything that it works, told by a digest: equal ones mean that the table of statuses would change nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping

import attrs

from octavia_core.domain.calm import MARKS, calm_of
from octavia_core.domain.heartbeat import Heartbeat, ListenerReport, PoolReport
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating, Provisioning, Topology
from octavia_core.lifecycle.operating import MEMBER_WORDS, Verdict, roll_up
from tests.db.values import amphora, balancer, full, listener, member, new_id, pool

ONLINE = Operating.ONLINE
SAID = {status: word for word, (_, status) in MARKS.items()}
MANY = 150


def well(tree: LoadBalancer) -> LoadBalancer:
    """The same with everything ONLINE."""
    return attrs.evolve(
        tree,
        operating_status=ONLINE,
        listeners=tuple(attrs.evolve(each, operating_status=ONLINE) for each in tree.listeners),
        pools=tuple(
            attrs.evolve(
                each,
                operating_status=ONLINE,
                members=tuple(attrs.evolve(one, operating_status=ONLINE) for one in each.members),
            )
            for each in tree.pools
        ),
    )


def beat(
    id: str, tree: LoadBalancer, version: int = 3, partial: bool = False, words: Mapping[str, str] = {}
) -> Heartbeat:
    """What an agent says that has all of it, and nothing is wrong but for these words; "" is not said at all."""

    def said(id: str, word: str) -> str:
        return words.get(id, word)

    pools = {
        f"{each.id}:l": PoolReport(
            said(each.id, "UP"),
            {one.id: word for one in each.members if (word := said(one.id, SAID.get(one.operating_status, "UP")))},
        )
        for each in tree.pools
        if said(each.id, "" if each.operating_status is Operating.OFFLINE else "UP")
    }
    listeners = {
        each.id: ListenerReport(word)
        for each in tree.listeners
        if (word := said(each.id, "OPEN" if each.enabled else ""))
    }
    return Heartbeat(id, 1, version, listeners, pools, partial)


def odd(dice: random.Random) -> tuple[LoadBalancer, dict[str, str]]:
    """A load balancer, in which little differs from one that is well, and what its agent says otherwise."""

    def mostly(usual: Operating) -> Operating:
        return dice.choice([usual] * 30 + list(Operating))

    pools = tuple(
        pool(
            *(member(n, operating_status=mostly(dice.choice([*SAID, ONLINE]))) for n in range(dice.randrange(3))),
            operating_status=mostly(dice.choice([ONLINE, ONLINE, Operating.OFFLINE])),
        )
        for _ in range(dice.randrange(3))
    )
    listeners = []
    for place in range(dice.randrange(3)):
        enabled = dice.random() < 0.8
        status = dice.choice([Provisioning.ACTIVE] * 9 + [Provisioning.ERROR, Provisioning.PENDING_UPDATE])
        listeners.append(
            listener(
                port=80 + place,
                enabled=enabled,
                provisioning_status=status,
                operating_status=mostly(ONLINE if enabled else Operating.OFFLINE),
            )
        )
    tree = balancer(
        listeners=tuple(listeners),
        pools=pools,
        enabled=dice.random() < 0.95,
        topology=dice.choice([Topology.SINGLE] * 9 + [Topology.ACTIVE_STANDBY]),
        provisioning_status=dice.choice([Provisioning.ACTIVE] * 9 + [Provisioning.PENDING_UPDATE, Provisioning.ERROR]),
        operating_status=mostly(ONLINE),
    )
    things = [*tree.listeners, *tree.pools, *(one for each in tree.pools for one in each.members)]
    words = ["", "UP", "DOWN", "no check", "MAINT", "DRAIN", "OPEN", "FULL", "UP 1/3", "odd"]
    return tree, {each.id: dice.choice(words) for each in things if dice.random() < 0.05}


def test_equal_digests_mean_that_there_is_nothing_to_change(storage):
    dice = random.Random(6)
    made = []
    for _ in range(MANY):
        tree, words = odd(dice)
        box = amphora(tree.id, status=AmphoraStatus.ALLOCATED)
        made.append((box.id, beat(box.id, tree, dice.choice([3, 3, 3, 2, 0]), dice.random() < 0.05, words)))
        storage.transaction(lambda tx, tree=tree, box=box: (tx.insert(tree), tx.insert(box)))
    ids = [id for id, _ in made]
    digests = storage.read(lambda tx: tx.calm(ids))
    outlines = storage.read(lambda tx: tx.reported_on(ids))
    equal = [(id, said) for id, said in made if digests.get(id) == calm_of(said)]
    assert len(equal) > MANY / 5, "most that are well are seen to be"
    assert len(equal) < len(digests) < MANY
    for id, said in equal:
        assert roll_up(outlines[id], said) == Verdict(True, {})


def test_whatever_is_well_is_seen_to_be_in_any_order(storage):
    tree = well(full())
    box = amphora(tree.id, status=AmphoraStatus.ALLOCATED)
    storage.transaction(lambda tx: (tx.insert(tree), tx.insert(box)))
    said = beat(box.id, tree)
    turned = attrs.evolve(
        said, listeners=dict(reversed(said.listeners.items())), pools=dict(reversed(said.pools.items()))
    )
    asked = [box.id, new_id(), "a' OR '1'='1", "%s", "?", "é"]
    assert storage.read(lambda tx: tx.calm(asked)) == {box.id: calm_of(said)} == {box.id: calm_of(turned)}
    strange = attrs.evolve(said, listeners={**said.listeners, new_id(): ListenerReport("OPEN")})
    assert calm_of(strange) not in (b"", calm_of(said))
    storage.transaction(lambda tx: tx.set_operating({(Kind.MEMBER, tree.pools[0].members[0].id): Operating.ERROR}))
    assert storage.read(lambda tx: tx.calm(asked))[box.id] != calm_of(said)


def test_a_pair_and_whoever_serves_nobody_have_no_digest(storage):
    pair, lone = well(full(topology=Topology.ACTIVE_STANDBY)), well(full())
    boxes = [
        amphora(pair.id, status=AmphoraStatus.ALLOCATED),
        amphora(lone.id, status=AmphoraStatus.PENDING_DELETE),
        amphora(status=AmphoraStatus.READY),
    ]
    storage.transaction(lambda tx: [tx.insert(each) for each in (pair, lone, *boxes)])
    assert storage.read(lambda tx: tx.calm([each.id for each in boxes])) == {}


def test_every_word_that_leaves_a_report_calm_spoils_nothing_above_it():
    for word, (_, status) in MARKS.items():
        rule = next(one for one in MEMBER_WORDS if one.fits(word))
        assert (rule.becomes, rule.pool, rule.load_balancer) == (status, None, None)


def test_ids_that_no_row_has_are_not_calm():
    for id in ("a:b", "a,b", "!"):
        assert calm_of(Heartbeat("a", 1, 3, {id: ListenerReport("OPEN")}, {})) == b""
        assert calm_of(Heartbeat("a", 1, 3, {}, {"p:l": PoolReport("UP", {id: "UP"})})) == b""
