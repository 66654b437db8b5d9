"""Existing amphora, spare or new one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.vocabulary import Topology
from octavia_core.policy.placement import Candidate, Decision, Demand, Source, place

PAIR = Topology.ACTIVE_STANDBY
names = st.sampled_from(["red", "blue"])
optional = names | st.none()
groups = st.frozensets(names)
demands = st.builds(
    Demand,
    topology=st.sampled_from(list(Topology)),
    flavor=optional,
    zone=st.none(),
    image=st.none(),
    apolocation=groups,
    colocation=groups,
    capacity=st.integers(1, 3),
    anti_affinity=st.booleans(),
)


def candidates(prefix: str, loads: st.SearchStrategy[int], carried: st.SearchStrategy[frozenset[str]]):
    parts = st.tuples(loads, optional, carried, optional)
    return st.lists(parts, max_size=5).map(
        lambda rows: [
            Candidate(amphora_id=f"{prefix}{n}", load_balancers=load, flavor=flavor, groups=some, domain=domain)
            for n, (load, flavor, some, domain) in enumerate(rows)
        ]
    )


existing = candidates("a", st.integers(1, 3), groups)
spare = candidates("s", st.just(0), st.just(frozenset()))


def on(id: str, count: int, *groups: str, **more: str) -> Candidate:
    return Candidate(amphora_id=id, load_balancers=count, groups=frozenset(groups), **more)


def chosen(decisions: tuple[Decision, ...]) -> list[tuple[Source, str | None]]:
    return [(decision.source, decision.amphora_id) for decision in decisions]


def test_one_load_balancer_per_amphora_takes_a_spare_and_then_a_new_one() -> None:
    assert chosen(place(Demand(), [on("a", 1)], [Candidate(amphora_id="s")])) == [(Source.SPARE, "s")]
    assert chosen(place(Demand(), [on("a", 1)], [])) == [(Source.NEW, None)]


def test_with_room_the_amphora_with_the_fewest_load_balancers_is_shared() -> None:
    hosts = [on("a", 3), on("b", 1), on("c", 2)]

    assert chosen(place(Demand(capacity=3), hosts, [Candidate(amphora_id="s")])) == [(Source.EXISTING, "b")]


def test_apolocation_keeps_load_balancers_apart() -> None:
    demand = Demand(capacity=9, apolocation=frozenset({"shop"}))

    assert chosen(place(demand, [on("a", 1, "shop"), on("b", 5, "mail")], [])) == [(Source.EXISTING, "b")]
    assert chosen(place(demand, [on("a", 1, "shop")], [])) == [(Source.NEW, None)]


def test_colocation_is_preferred_but_never_leaves_without_a_place() -> None:
    demand = Demand(capacity=4, colocation=frozenset({"shop"}))

    assert chosen(place(demand, [on("a", 1), on("b", 3, "shop")], [])) == [(Source.EXISTING, "b")]
    assert chosen(place(demand, [on("a", 1), on("b", 4, "shop")], [])) == [(Source.EXISTING, "a")]
    assert chosen(place(demand, [], [])) == [(Source.NEW, None)]


def test_flavor_zone_and_image_are_exactly_those_asked_for() -> None:
    demand = Demand(flavor="big", zone="z1", image="i2")
    spares = [
        Candidate(amphora_id="s1", flavor="small", zone="z1", image="i2"),
        Candidate(amphora_id="s2", flavor="big", zone="z2", image="i2"),
        Candidate(amphora_id="s3", flavor="big", zone="z1", image="i1"),
        Candidate(amphora_id="s4", flavor="big", zone="z1", image="i2"),
    ]

    assert chosen(place(demand, [], spares)) == [(Source.SPARE, "s4")]
    assert chosen(place(Demand(), [], spares)) == [(Source.NEW, None)]


def test_a_pair_gets_two_different_amphorae() -> None:
    assert chosen(place(Demand(topology=PAIR, capacity=2), [on("a", 1)], [Candidate(amphora_id="s")])) == [
        (Source.EXISTING, "a"),
        (Source.SPARE, "s"),
    ]


def test_half_a_pair_is_completed_beside_the_other_half() -> None:
    spares = [Candidate(amphora_id="s1", domain="rack1"), Candidate(amphora_id="s2", domain="rack2")]
    demand = Demand(topology=PAIR, anti_affinity=True)

    assert chosen(place(demand, [], spares, beside=[on("a", 1, domain="rack1")])) == [(Source.SPARE, "s2")]
    assert chosen(place(demand, [], spares, beside=[on("a", 1)])) == [(Source.NEW, None)], "where does a stand?"
    assert place(demand, [], spares, beside=spares) == ()


def test_with_anti_affinity_an_unknown_domain_is_no_assurance() -> None:
    spares = [Candidate(amphora_id="s1", domain="rack1"), Candidate(amphora_id="s2"), Candidate(amphora_id="s3")]
    demand = Demand(topology=PAIR, anti_affinity=True)

    assert [d.source for d in place(demand, [], spares)] == [Source.NEW, Source.NEW], (
        "a server group holds both or none"
    )
    assert [d.source for d in place(Demand(topology=PAIR), [], spares)] == [Source.SPARE, Source.SPARE]
    spares.append(Candidate(amphora_id="s4", domain="rack2"))
    assert chosen(place(demand, [], spares)) == [(Source.SPARE, "s1"), (Source.SPARE, "s4")]


@given(demands, existing, spare)
def test_no_rule_is_ever_broken(demand: Demand, hosts: list[Candidate], spares: list[Candidate]) -> None:
    decisions = place(demand, hosts, spares)
    known = {candidate.amphora_id: candidate for candidate in [*hosts, *spares]}
    picked = [known[decision.amphora_id] for decision in decisions if decision.amphora_id]

    assert len(decisions) == (2 if demand.topology is PAIR else 1)
    assert len({host.amphora_id for host in picked}) == len(picked)
    for decision in decisions:
        assert (decision.source is Source.NEW) == (decision.amphora_id is None)
        assert decision.reason
    for host in picked:
        assert host.flavor == demand.flavor
        assert not host.groups & demand.apolocation
        assert host.load_balancers < demand.capacity
    if demand.anti_affinity and picked:
        assert len({host.domain for host in picked} - {None}) == len(decisions)


@given(demands, existing, spare, st.randoms(use_true_random=False))
def test_which_existing_amphora_does_not_depend_on_their_order(
    demand: Demand, hosts: list[Candidate], spares: list[Candidate], random
) -> None:
    shuffled = list(hosts)
    random.shuffle(shuffled)

    assert place(demand, shuffled, spares) == place(demand, hosts, spares)


@given(demands, existing, spare)
def test_a_new_amphora_is_built_only_when_nothing_fits(
    demand: Demand, hosts: list[Candidate], spares: list[Candidate]
) -> None:
    first = place(demand, hosts, spares)[0]

    if first.source is Source.NEW and not demand.anti_affinity:
        assert not [host for host in spares if host.flavor == demand.flavor]
