"""A pair whose two amphorae report: judged together, on a real database; time is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.pairs import Pairs, from_words, words
from octavia_core.controller.health.write import Pace, Writer
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.heartbeat import Heartbeat, ListenerReport, PoolReport, decode, encode
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import (
    AmphoraStatus,
    Kind,
    ListenerProtocol,
    Operating,
    PoolProtocol,
    Role,
    Topology,
)
from octavia_core.ports.hearts import LastReport
from tests.db.values import new_id
from tests.health.rig import KEY, Rig

FRESH, PATIENCE = 3.0, 2.0


class PairRig:
    """A pair with a listener and a pool of one member."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, 0)
        self.rig.writer.pairs = Pairs(self.rig.memory, fresh=FRESH, patience=PATIENCE)
        self.hosts = [(self.rig.memory, self.rig.writer), self.one_more_host("elsewhere")]
        self.member = Member(id=new_id(), address="192.0.2.1", protocol_port=80)
        self.pool = Pool(id=new_id(), protocol=PoolProtocol.HTTP, members=(self.member,))
        self.listener = Listener(
            id=new_id(), protocol=ListenerProtocol.HTTP, protocol_port=80, default_pool_id=self.pool.id
        )
        self.lb = LoadBalancer(
            id=new_id(), topology=Topology.ACTIVE_STANDBY, listeners=(self.listener,), pools=(self.pool,)
        )
        self.master, self.backup = (
            Amphora(id=new_id(), status=AmphoraStatus.ALLOCATED, load_balancer_id=self.lb.id, role=role)
            for role in (Role.MASTER, Role.BACKUP)
        )
        self.rig.storage.transaction(lambda tx: [tx.insert(each) for each in (self.lb, self.master, self.backup)])

    def one_more_host(self, name: str) -> tuple[Memory, Writer]:
        """Another health manager on the same database, which knows its clock as well as the first: here time stands still."""
        memory = Memory(reapply=300.0)
        writer = Writer(self.rig.storage, memory, self.rig.wall, name, Pace(timeout=FRESH))
        writer.pairs = Pairs(memory, fresh=FRESH, patience=PATIENCE)
        return memory, writer

    def says(
        self,
        amphora: Amphora,
        member: str,
        *,
        host: int = 0,
        listener: bool = True,
        after: float = 0.1,
        flush: bool = True,
        **stats: int,
    ) -> None:
        """A report comes so many seconds later, and is written unless another is to be written with it."""
        self.rig.clock.advance(after)
        self.rig.sequence += 1
        listeners = {self.listener.id: {"status": "OPEN", "stats": stats}} if listener else {}
        pool = {"status": "UP" if member.startswith("UP") else "DOWN", "members": {self.member.id: member}}
        document: dict[str, Any] = {
            "id": amphora.id,
            "seq": self.rig.sequence,
            "ver": 3,
            "listeners": listeners,
            "pools": {f"{self.pool.id}:{self.listener.id}": pool},
        }
        memory, writer = self.hosts[host]
        memory.keep([decode(encode(document, KEY), [KEY])], self.rig.clock.monotonic())
        if flush:
            writer.flush(self.rig.clock)
            writer.count()

    def statuses(self) -> dict[Kind, Operating]:
        tree = self.rig.storage.read(lambda tx: tx.tree(self.lb.id))
        assert tree is not None
        found = {kind: node.operating_status for kind, node in tree.nodes()}
        return found | {Kind.LOAD_BALANCER: tree.operating_status}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[PairRig]:
    made = PairRig(tmp_path)
    yield made
    made.rig.close()


def test_what_one_reaches_works_whoever_reports_last(pair: PairRig) -> None:
    for amphora, word in ((pair.master, "UP"), (pair.backup, "DOWN"), (pair.master, "UP"), (pair.backup, "DOWN")):
        pair.says(amphora, word)
        assert pair.statuses()[Kind.MEMBER] is Operating.ONLINE
    pair.says(pair.master, "DOWN")
    assert pair.statuses()[Kind.MEMBER] is Operating.ERROR
    assert pair.statuses()[Kind.LOAD_BALANCER] is Operating.ERROR
    pair.says(pair.backup, "UP")
    assert pair.statuses() == dict.fromkeys(
        (Kind.MEMBER, Kind.POOL, Kind.LISTENER, Kind.LOAD_BALANCER), Operating.ONLINE
    )


def test_what_both_report_in_one_moment_is_told_once(pair: PairRig) -> None:
    for word in ("UP", "DOWN"):
        pair.says(pair.master, word, flush=False)
        pair.says(pair.backup, word)
    names = [event.name for event in pair.rig.storage.read(lambda tx: tx.events(limit=100))]
    assert {
        name: names.count(name) for name in ("member.online", "member.error", "pool.error", "load_balancer.error")
    } == {
        "member.online": 1,
        "member.error": 1,
        "pool.error": 1,
        "load_balancer.error": 1,
    }


def test_each_of_the_two_may_be_heard_by_another_host(pair: PairRig) -> None:
    for seq in range(4):
        pair.says(pair.master, "UP" if seq % 2 else "UP 1/2", host=0)
        pair.says(pair.backup, "DOWN" if seq % 2 else "DOWN 1/2", host=1)
        assert pair.statuses()[Kind.MEMBER] is Operating.ONLINE
    pair.says(pair.master, "DOWN", host=0)
    assert pair.statuses()[Kind.MEMBER] is Operating.ERROR
    pair.says(pair.backup, "UP", host=1)
    assert pair.statuses()[Kind.MEMBER] is Operating.ONLINE
    pair.says(pair.backup, "UP", host=1, listener=False)
    pair.says(pair.master, "UP", host=0)
    assert pair.statuses()[Kind.LISTENER] is Operating.DEGRADED
    pair.rig.clock.advance(2 * FRESH)  # the other one is silent, whoever used to hear it
    pair.says(pair.master, "DOWN", host=0)
    assert pair.statuses()[Kind.MEMBER] is Operating.ERROR
    assert pair.statuses()[Kind.LISTENER] is Operating.ONLINE


def test_a_host_that_begins_anew_knows_what_the_other_amphora_said_last(pair: PairRig) -> None:
    pair.says(pair.master, "UP", host=0)
    pair.says(pair.backup, "DOWN", host=1)
    pair.hosts[1] = pair.one_more_host("elsewhere, anew")
    pair.says(pair.backup, "DOWN 1/2", host=1)
    assert pair.statuses()[Kind.MEMBER] is Operating.ONLINE


def test_differing_for_long_is_said_once_with_both_names_until_it_is_over(pair: PairRig) -> None:
    for _ in range(2):
        pair.says(pair.master, "UP")
        pair.says(pair.backup, "DOWN", after=0.4)
    assert pair.statuses()[Kind.POOL] is Operating.ONLINE
    assert pair.rig.events("pool.disputed") == []
    for _ in range(4):  # nothing new is said, and still it is noticed
        pair.says(pair.master, "UP")
        pair.says(pair.backup, "DOWN", after=0.8)
    assert pair.statuses()[Kind.POOL] is Operating.DEGRADED
    assert pair.statuses()[Kind.MEMBER] is Operating.ONLINE
    assert pair.rig.events("pool.disputed") == [
        {"id": pair.pool.id, "member_id": pair.member.id, "up": pair.master.id, "down": pair.backup.id}
    ]
    pair.says(pair.backup, "UP")
    assert pair.statuses()[Kind.POOL] is Operating.ONLINE
    assert pair.statuses()[Kind.LOAD_BALANCER] is Operating.ONLINE


def test_a_dispute_that_two_hosts_hear_of_is_said_once_each_time(pair: PairRig) -> None:
    def differ() -> None:
        for turn in range(10):  # each amphora sends to both hosts in turn
            pair.says(pair.master, "UP", host=turn % 2, after=0.5)
            pair.says(pair.backup, "DOWN", host=(turn + 1) % 2, after=0.5)

    differ()
    said = {"id": pair.pool.id, "member_id": pair.member.id, "up": pair.master.id, "down": pair.backup.id}
    assert pair.statuses()[Kind.POOL] is Operating.DEGRADED
    assert pair.rig.events("pool.disputed") == [said]
    for turn in range(4):
        pair.says(pair.master, "UP", host=turn % 2, after=0.5)
        pair.says(pair.backup, "UP", host=(turn + 1) % 2, after=0.5)
    assert pair.statuses()[Kind.POOL] is Operating.ONLINE
    differ()
    assert pair.rig.events("pool.disputed") == [said, said], "another dispute is said again, once"


def test_a_listener_that_the_other_one_lacks_is_degraded_while_that_one_is_heard(pair: PairRig) -> None:
    pair.says(pair.master, "UP")
    pair.says(pair.backup, "UP", listener=False)
    assert pair.statuses()[Kind.LISTENER] is Operating.DEGRADED
    assert pair.rig.memory.miscounted(pair.backup.id), "its own count is judged by its own report"
    assert not pair.rig.memory.miscounted(pair.master.id)
    pair.rig.clock.advance(FRESH)
    pair.says(pair.master, "UP 1/2")
    assert pair.statuses()[Kind.LISTENER] is Operating.ONLINE


def test_one_that_was_replaced_has_no_word_any_more(pair: PairRig) -> None:
    from octavia_core.lifecycle.amphora import AmphoraEvent

    pair.says(pair.master, "UP")
    pair.says(pair.backup, "DOWN")
    assert pair.statuses()[Kind.MEMBER] is Operating.ONLINE
    pair.rig.storage.transaction(lambda tx: tx.settle_amphora(pair.master.id, AmphoraEvent.DELETE))
    pair.says(pair.backup, "DOWN 1/2")
    assert pair.statuses()[Kind.MEMBER] is Operating.ERROR


def test_traffic_of_both_is_kept_apart_and_can_be_summed(pair: PairRig) -> None:
    from sqlalchemy import text

    pair.says(pair.master, "UP", rx=5, tx=7, conns=1, totconns=2)
    pair.says(pair.backup, "UP", rx=50, tx=70, conns=10, totconns=20)
    pair.rig.written()
    query = "SELECT SUM(bytes_in), SUM(bytes_out), SUM(active_connections), COUNT(*) FROM listener_statistics"
    with pair.rig.storage._engine.connect() as connection:
        assert tuple(connection.execute(text(query)).one()) == (55, 77, 11, 2)


def test_the_agent_of_a_pair_is_told_its_topology_again(pair: PairRig) -> None:
    """An agent behaves as one of a pair, or not, by its settings alone: a refresh must not change that."""
    single = Amphora(id="x", status=AmphoraStatus.ALLOCATED, role=Role.STANDALONE)
    assert (pair.master.topology, single.topology) == (Topology.ACTIVE_STANDBY, Topology.SINGLE)


def test_words_that_are_kept_are_read_as_they_were_and_foreign_ones_are_nobodys() -> None:
    document = {
        "id": "a",
        "ver": 3,
        "listeners": {"l": {"status": "OPEN", "stats": {"rx": 5}}},
        "pools": {"p:l": {"status": "UP", "members": {"m": "no check"}}},
    }
    beat = decode(encode(document, KEY), [KEY])

    def kept(text: str) -> LastReport:
        return LastReport(amphora_id="a", load_balancer_id="b", at=1, last_heard=None, words=text)

    again = from_words(kept(words(beat)))
    assert again is not None
    assert again.reports_by_pool() == beat.reports_by_pool()
    assert {id: each.status for id, each in again.listeners.items()} == {"l": "OPEN"}
    for text in ("", "null", "{}", "[1, 2]", '[{}, {"p": 3}]', "[{}, {}, {}]", '[{"l": null}, []]'):
        assert from_words(kept(text)) is None, text


def test_what_is_stored_of_a_partial_report_is_partial() -> None:
    pools = {"p:l": PoolReport("UP", {"m": "UP"})}
    for partial in (False, True):
        beat = Heartbeat("a", None, 3, {"l": ListenerReport("OPEN")}, pools, partial)
        stored = LastReport(amphora_id="a", load_balancer_id="lb", at=1, last_heard=None, words=words(beat))
        assert from_words(stored) == beat
