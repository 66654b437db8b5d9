"""Laws of the roll-up, for any load balancer and any heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.heartbeat import Heartbeat, ListenerReport, PoolReport
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, Operating, PoolProtocol, Provisioning
from octavia_core.lifecycle.operating import roll_up
from tests.support.outlines import outline

SEVERITY = {Operating.OFFLINE: 0, Operating.ONLINE: 0, Operating.DEGRADED: 1, Operating.ERROR: 2}
operating = st.sampled_from(list(Operating))
provisioning = st.sampled_from(list(Provisioning))
LISTENERS, POOLS, MEMBERS = ("l1", "l2", "l3"), ("p1", "p2", "p3"), ("m1", "m2", "m3")
listener_words = st.sampled_from(["OPEN", "FULL", "STOP"])
pool_words = st.sampled_from(["UP", "DOWN", "?"])
member_words = st.sampled_from(["UP", "UP 1/3", "DOWN", "DOWN 2/3", "DRAIN", "MAINT", "no check", "RESTARTING", "?"])


@st.composite
def load_balancers(draw: st.DrawFn) -> LoadBalancer:
    listeners = [
        Listener(
            id=id,
            protocol=draw(st.sampled_from([ListenerProtocol.HTTP, ListenerProtocol.UDP])),
            protocol_port=80,
            enabled=draw(st.booleans()),
            provisioning_status=draw(provisioning),
            operating_status=draw(operating),
        )
        for id in draw(st.sets(st.sampled_from(LISTENERS)))
    ]
    pools = [
        Pool(
            id=id,
            protocol=PoolProtocol.HTTP,
            operating_status=draw(operating),
            members=tuple(
                Member(id=f"{id}-{name}", address="192.0.2.1", protocol_port=80, operating_status=draw(operating))
                for name in draw(st.sets(st.sampled_from(MEMBERS)))
            ),
        )
        for id in draw(st.sets(st.sampled_from(POOLS)))
    ]
    return LoadBalancer(
        id="lb",
        enabled=draw(st.booleans()),
        listeners=tuple(listeners),
        pools=tuple(pools),
        provisioning_status=draw(provisioning),
        operating_status=draw(operating),
    )


@st.composite
def heartbeats(draw: st.DrawFn) -> Heartbeat:
    listeners = {id: ListenerReport(draw(listener_words)) for id in draw(st.sets(st.sampled_from(LISTENERS)))}
    pools = {
        f"{id}:l1": PoolReport(
            draw(pool_words), {f"{id}-{name}": draw(member_words) for name in draw(st.sets(st.sampled_from(MEMBERS)))}
        )
        for id in draw(st.sets(st.sampled_from(POOLS)))
    }
    return Heartbeat("a", 0, draw(st.sampled_from([0, 2, 3])), listeners, pools)


def applied(tree: LoadBalancer, statuses: Mapping[tuple[Kind, str], Operating]) -> LoadBalancer:
    def now(kind: Kind, thing: Any, **more: Any) -> Any:
        return attrs.evolve(thing, operating_status=statuses.get((kind, thing.id), thing.operating_status), **more)

    after: LoadBalancer = now(
        Kind.LOAD_BALANCER,
        tree,
        listeners=tuple(now(Kind.LISTENER, listener) for listener in tree.listeners),
        pools=tuple(
            now(Kind.POOL, pool, members=tuple(now(Kind.MEMBER, member) for member in pool.members))
            for pool in tree.pools
        ),
    )
    return after


def status_of(tree: LoadBalancer, kind: Kind, id: str) -> Operating:
    things: dict[tuple[Kind, str], Any] = {(below, node.id): node for below, node in tree.nodes()}
    return Operating((things | {(Kind.LOAD_BALANCER, tree.id): tree})[kind, id].operating_status)


@given(load_balancers(), heartbeats())
def test_only_changes_of_known_things_are_told_and_applying_them_twice_changes_nothing(
    tree: LoadBalancer, heartbeat: Heartbeat
) -> None:
    first = roll_up(tree, heartbeat)
    for (kind, id), status in first.statuses.items():
        assert status_of(tree, kind, id) is not status

    again = roll_up(applied(tree, first.statuses), heartbeat)
    assert again.statuses == {}
    assert (again.counts_match, again.warnings) == (first.counts_match, first.warnings)


@given(load_balancers(), heartbeats(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_reports_does_not_matter(tree: LoadBalancer, heartbeat: Heartbeat, random: Any) -> None:
    def shuffled(things: Any) -> list[Any]:
        some = list(things)
        random.shuffle(some)
        return some

    verdict = roll_up(tree, heartbeat)
    other = roll_up(
        attrs.evolve(
            tree,
            listeners=tuple(shuffled(tree.listeners)),
            pools=tuple(attrs.evolve(pool, members=tuple(shuffled(pool.members))) for pool in shuffled(tree.pools)),
        ),
        attrs.evolve(
            heartbeat,
            listeners=dict(shuffled(heartbeat.listeners.items())),
            pools=dict(shuffled(heartbeat.pools.items())),
        ),
    )
    assert (other.counts_match, other.statuses) == (verdict.counts_match, verdict.statuses)
    assert sorted(other.warnings) == sorted(verdict.warnings)


@given(load_balancers(), heartbeats(), st.sampled_from(MEMBERS))
def test_one_more_failing_part_never_makes_anything_above_it_better(
    tree: LoadBalancer, heartbeat: Heartbeat, name: str
) -> None:
    worse = attrs.evolve(
        heartbeat,
        pools={
            key: attrs.evolve(report, members=dict(report.members) | {f"{key.split(':')[0]}-{name}": "DOWN"})
            for key, report in heartbeat.pools.items()
        },
        listeners={id: attrs.evolve(r, status="FULL") for id, r in heartbeat.listeners.items()},
    )
    before = applied(tree, roll_up(tree, heartbeat).statuses)
    after = applied(tree, roll_up(tree, worse).statuses)

    assert SEVERITY[after.operating_status] >= SEVERITY[before.operating_status]
    for pool in before.pools:
        report = heartbeat.reports_by_pool().get(pool.id)
        if report and report.status in ("UP", "DOWN"):
            assert SEVERITY[status_of(after, Kind.POOL, pool.id)] >= SEVERITY[pool.operating_status]


@given(load_balancers(), heartbeats())
def test_the_load_balancer_tells_of_its_worst_reported_part(tree: LoadBalancer, heartbeat: Heartbeat) -> None:
    now = applied(tree, roll_up(tree, heartbeat).statuses)
    reports = heartbeat.reports_by_pool()
    judged = [pool for pool in now.pools if pool.id in reports and reports[pool.id].status != "?"]
    down = any(pool.operating_status is Operating.ERROR for pool in judged)
    full = any(
        listener.id in heartbeat.listeners and heartbeat.listeners[listener.id].status == "FULL"
        for listener in now.listeners
    )
    some = full or any(pool.operating_status is Operating.DEGRADED for pool in judged)
    if down:
        assert now.operating_status is Operating.ERROR
    elif not tree.enabled:
        assert now.operating_status is Operating.OFFLINE
    else:
        assert now.operating_status is (Operating.DEGRADED if some else Operating.ONLINE)


@given(load_balancers(), heartbeats(), st.booleans())
def test_an_outline_is_judged_as_its_tree_is(tree: LoadBalancer, heartbeat: Heartbeat, settled: bool) -> None:
    if settled:  # so that all may be well already
        tree = applied(tree, roll_up(tree, heartbeat).statuses)
    judged, whole = roll_up(outline(tree), heartbeat), roll_up(tree, heartbeat)
    assert (judged.statuses, judged.counts_match) == (whole.statuses, whole.counts_match)
    assert sorted(judged.warnings) == sorted(whole.warnings)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("worse", ["nothing", "listener", "count", "pool", "member", "row", "disabled", "error"])
def test_what_is_well_is_told_from_what_nearly_is(worse: str, version: int) -> None:
    listener = Listener(id="l", protocol=ListenerProtocol.HTTP, protocol_port=80, operating_status=Operating.ONLINE)
    member = Member(id="m", address="192.0.2.1", protocol_port=80, operating_status=Operating.ONLINE)
    pool = Pool(id="p", protocol=PoolProtocol.HTTP, members=(member,), operating_status=Operating.ONLINE)
    tree = LoadBalancer(id="lb", listeners=(listener,), pools=(pool,), operating_status=Operating.ONLINE)
    if worse == "row":
        tree = attrs.evolve(tree, operating_status=Operating.DEGRADED)
    if worse == "disabled":
        tree = attrs.evolve(tree, listeners=(attrs.evolve(listener, enabled=False),))
    if worse == "error":
        tree = attrs.evolve(tree, listeners=(attrs.evolve(listener, provisioning_status=Provisioning.ERROR),))
    listeners = {"l": ListenerReport("FULL" if worse == "listener" else "OPEN")}
    if worse == "count":
        listeners["other"] = ListenerReport("OPEN")
    said = {"m": "DOWN" if worse == "member" else "UP"}
    pools = {"p:l": PoolReport("DOWN" if worse == "pool" else "UP", said)}
    heartbeat = Heartbeat("a", 1, version, listeners, pools)
    judged, whole = roll_up(outline(tree), heartbeat), roll_up(tree, heartbeat)
    assert (judged.statuses, judged.counts_match) == (whole.statuses, whole.counts_match)
    if worse == "nothing":
        assert (judged.statuses, judged.counts_match) == ({}, True)
