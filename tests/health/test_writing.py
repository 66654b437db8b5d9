"""From memory to rows: what is written when, and what a trouble of one part leaves of the others."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from sqlalchemy import event, func, select

from octavia_core.controller.health import memory as memory_module
from octavia_core.controller.health.memory import Memory
from octavia_core.controller.health.write import PORTION, Pace, Writer
from octavia_core.db.tables.listener import listener_statistics
from octavia_core.domain.heartbeat import Heartbeat, decode, encode
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Kind, Operating, PoolProtocol
from octavia_core.errors import TransientError
from octavia_core.lifecycle.amphora import AmphoraEvent
from octavia_core.ports.storage import Transaction
from tests.db.values import new_id
from tests.health.rig import KEY, Rig, due


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    here = Rig(tmp_path, 3, heartbeat_timeout=60.0, heartbeat_interval=10.0)
    yield here
    here.close()


def status(here: Rig, id: str) -> Operating:
    owner = here.storage.read(lambda tx: tx.owner(Kind.AMPHORA, id))
    tree = here.storage.read(lambda tx: tx.tree(str(owner)))
    assert tree is not None
    return tree.listeners[0].operating_status


def test_a_status_that_somebody_else_wrote_is_put_right_by_the_next_report_though_it_says_nothing_new(rig: Rig) -> None:
    id = rig.ids[0]
    for _ in range(3):
        rig.clock.advance(11.0)
        rig.heard(id)
        rig.writer.flush(rig.clock)
    assert status(rig, id) is Operating.ONLINE
    listener = rig.listeners[id]
    rig.storage.transaction(lambda tx: tx.set_operating({(Kind.LISTENER, listener): Operating.ERROR}))
    rig.clock.advance(11.0)
    rig.heard(id)
    rig.writer.flush(rig.clock)
    assert status(rig, id) is Operating.ONLINE


def test_a_report_that_was_held_up_changes_nothing_that_somebody_has_heard_about_since(rig: Rig) -> None:
    """Two health managers; the first has a report of a full listener, and stands still with it while the second hears better."""
    id, listener = rig.ids[0], rig.listeners[rig.ids[0]]
    pace = Pace(traffic=0.0, timeout=60.0)
    others = Memory(2.0)
    other = Writer(rig.storage, others, rig.wall, "other", pace)

    def report(word: str) -> Heartbeat:
        rig.sequence += 1
        listeners = {listener: {"status": word, "stats": {}}}
        return decode(
            encode({"id": id, "seq": rig.sequence, "ver": 3, "listeners": listeners, "pools": {}}, KEY), [KEY]
        )

    def degraded() -> list[str]:
        return [each["id"] for each in rig.events("listener.degraded")]

    rig.clock.advance(10.0)
    rig.memory.keep([report("FULL")], rig.clock.monotonic())
    rig.clock.advance(3.0)
    others.keep([report("OPEN")], rig.clock.monotonic())
    other.flush(rig.clock)
    rig.clock.advance(1.0)
    rig.writer.flush(rig.clock)
    assert status(rig, id) is Operating.ONLINE, "the newest observation says so"
    assert degraded() == []
    assert rig.memory.counters["overtaken"] == 1
    rig.clock.advance(10.0)
    rig.memory.keep([report("FULL")], rig.clock.monotonic())
    rig.writer.flush(rig.clock)
    assert status(rig, id) is Operating.DEGRADED, "the same words count when they are news"
    assert degraded() == [listener]


def test_words_that_nobody_knows_are_a_warning_once_and_change_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    id, listener = rig.ids[0], rig.listeners[rig.ids[0]]
    for seq, word in enumerate(["OPEN", "ST\nOP", "ST\nOP", "OPEN", "ST\nOP"], 100):
        rig.clock.advance(3.0)
        document = {"id": id, "seq": seq, "listeners": {listener: {"status": word, "stats": {}}}, "pools": {}, "ver": 3}
        rig.memory.keep([decode(encode(document, KEY), [KEY])], rig.clock.monotonic())
        rig.writer.flush(rig.clock)
        assert status(rig, id) is Operating.ONLINE
    said = [record for record in caplog.records if record.levelname == "WARNING"]
    words = [record.message for record in said if record.message.startswith("what amphora")]
    assert (
        words
        == [f"what amphora {id} reports 'ST\\nOP' of listener {listener}, which says nothing about its status"] * 2
    )


def test_a_steady_batch_reads_no_load_balancer_and_changes_no_status(rig: Rig) -> None:
    rig.writer.changes.look(rig.storage, rig.memory, rig.wall, rig.clock.monotonic(), 10.0)
    rig.clock.advance(1.0)
    rig.heard(*rig.ids)
    sent: list[str] = []
    listen = lambda connection, cursor, statement, *rest: sent.append(statement)  # noqa: E731
    event.listen(rig.storage._engine, "before_cursor_execute", listen)
    try:
        assert rig.writer.flush(rig.clock) == 3
    finally:
        event.remove(rig.storage._engine, "before_cursor_execute", listen)
    assert not [statement for statement in sent if "FROM load_balancer" in statement or "UPDATE listener" in statement]


def test_a_load_balancer_that_cannot_be_judged_holds_up_nobody_else_and_is_named_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    bad, *others = rig.ids
    file = rig.storage._engine.url.database
    with contextlib.closing(sqlite3.connect(str(file))) as connection:  # which asks for no foreign key
        connection.execute("UPDATE listener SET operating_status = 'NOBODY KNOWS' WHERE id = ?", (rig.listeners[bad],))
        connection.commit()
    wrong = {(Kind.LISTENER, rig.listeners[id]): Operating.ERROR for id in others}
    rig.storage.transaction(lambda tx: tx.set_operating(wrong))
    before = {each.amphora_id: each.last_heard for each in rig.storage.read(lambda tx: tx.liveness())}
    for _ in range(3):
        rig.clock.advance(3.0)
        rig.heard(*rig.ids)
        rig.writer.flush(rig.clock)
    assert {status(rig, id) for id in others} == {Operating.ONLINE}
    after = {each.amphora_id: each.last_heard for each in rig.storage.read(lambda tx: tx.liveness())}
    assert all((after[id] or 0) > (before[id] or 0) for id in rig.ids), "it is heard all the same"
    assert [record.args[0] for record in caplog.records if "changes no status" in record.message] == [bad]  # type: ignore[index]


def test_traffic_that_cannot_be_written_holds_up_nobodys_liveness_and_is_not_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = rig.ids[0]
    rig.clock.advance(1.0)
    before = rig.storage.read(lambda tx: tx.liveness([id]))[0].last_heard
    rig.memory.keep([rig.beat(id, rx=7)], rig.clock.monotonic())
    transaction = rig.storage.transaction

    def failing(work, **more):  # type: ignore[no-untyped-def]
        def guarded(tx: Transaction) -> object:
            if "add_traffic" in work.__code__.co_names:
                raise TransientError("the database has no room for figures")
            return work(tx)

        return transaction(guarded, **more)

    monkeypatch.setattr(rig.storage, "transaction", failing)
    rig.writer.flush(rig.clock)
    with pytest.raises(TransientError):
        rig.writer.count()
    monkeypatch.undo()
    after = rig.storage.read(lambda tx: tx.liveness([id]))[0].last_heard
    assert before is not None
    assert after is not None
    assert after > before
    rig.written()
    total = rig.storage.look(lambda tx: tx.value(select(func.sum(listener_statistics.c.bytes_in))))
    assert total == 7


def beat(id: str, seq: int, *listeners: str, ver: int = 3, **stats: int) -> Heartbeat:
    reports = {each: {"status": "OPEN", "stats": stats} for each in listeners or ("l",)}
    return decode(encode({"id": id, "seq": seq, "ver": ver, "listeners": reports, "pools": {}}, "k"), ["k"])


def applied(memory: Memory, now: float, traffic: float) -> int:
    return sum(delta.bytes_in for delta in due(memory, now, traffic))


def test_traffic_of_each_amphora_is_written_after_its_own_half_minute() -> None:
    memory = Memory(reapply=1000.0)
    ids = [f"a{n}" for n in range(300)]
    seconds, written = 0, []
    for seconds in range(91):
        memory.keep([beat(id, seconds, rx=1) for id in ids[seconds % 10 :: 10]], float(seconds))
        written.append(applied(memory, float(seconds), 30.0))
    assert sum(written[:10]) == 300, "the first heartbeat makes the row"
    assert max(written[10:]) < 300, "never all at once"
    assert sum(written) + applied(memory, 91.0, 0.0) == 30 * 91


def test_what_a_listener_counted_is_kept_when_the_amphora_has_others() -> None:
    memory = Memory(reapply=1000.0)
    memory.keep([beat("a", 1, "l", rx=1)], 0.0)
    applied(memory, 0.0, 0.0)
    memory.keep([beat("a", 2, "l", rx=5), beat("a", 3, "m", rx=6), beat("a", 4, "l", "m", rx=7)], 1.0)
    sums = Counter[str]()
    for delta in due(memory, 1.0):
        sums[delta.listener_id] += delta.bytes_in
    assert sums == {"l": 12, "m": 13}


def test_those_who_went_silent_have_their_traffic_written_too() -> None:
    memory = Memory(reapply=1000.0)
    memory.keep([beat("a", 1, rx=1)], 0.0)
    applied(memory, 0.0, 30.0)
    memory.keep([beat("a", 2, rx=5)], 1.0)
    assert applied(memory, 1.0, 30.0) == 0
    assert sum(applied(memory, float(now), 30.0) for now in range(2, 200)) == 5
    memory.keep([beat("a", 3, rx=9)], 200.0)
    memory.forget_others((), 300.0)
    assert applied(memory, 300.0, 30.0) == 9


def test_more_news_than_a_batch_takes_come_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "AT_ONCE", 2)
    memory = Memory(reapply=1000.0)
    memory.keep([beat(f"a{n}", 1) for n in range(5)], 0.0)
    found = [set(memory.take(0.0, traffic=None).beats) for _ in range(3)]
    assert [len(some) for some in found] == [2, 2, 1]
    assert set.union(*found) == {f"a{n}" for n in range(5)}
    assert PORTION > 0


def test_what_is_taken_back_while_it_is_written_is_held_against_the_rows_at_once() -> None:
    memory, now = Memory(reapply=1000.0), 0.0

    def said(seq: int, word: str) -> Heartbeat:
        document = {"id": "a", "seq": seq, "ver": 3, "listeners": {"l": {"status": word, "stats": {}}}, "pools": {}}
        return decode(encode(document, KEY), [KEY])

    memory.keep([said(1, "OPEN")], now)
    memory.written(memory.take(now, traffic=None), {"a": True}, now)
    memory.keep([said(2, "FULL")], now)
    written = memory.take(now, traffic=None)
    assert set(written.beats) == {"a"}
    memory.keep([said(3, "OPEN")], now)
    memory.written(written, {"a": True}, now)
    batches = [memory.take(now, traffic=None) for _ in range(2)]
    assert [beat.heartbeat.listeners["l"].status for batch in batches for beat in batch.beats.values()] == ["OPEN"]
    assert not memory.more


def test_counters_of_a_liar_stop_at_what_a_column_holds() -> None:
    memory = Memory(reapply=1000.0)
    memory.keep([beat("a", n, rx=2**62) for n in range(5)], 0.0)
    (delta,) = due(memory, 0.0)
    assert delta.bytes_in == 2**63 - 1


def test_a_first_report_that_says_what_the_rows_say_changes_when_it_was_heard_and_nothing_else(rig: Rig) -> None:
    rig.written()
    rig.clock.advance(5.0)
    memory = Memory(reapply=1000.0)  # of a health manager that begins
    writer = Writer(rig.storage, memory, rig.wall, "another", Pace(timeout=60.0))
    memory.keep([rig.beat(id) for id in rig.ids], rig.clock.monotonic())
    sent: list[str] = []
    listen = lambda connection, cursor, statement, *rest: sent.append(statement)  # noqa: E731
    event.listen(rig.storage._engine, "before_cursor_execute", listen)
    try:
        writer.flush(rig.clock)
    finally:
        event.remove(rig.storage._engine, "before_cursor_execute", listen)
    written = {
        statement.split()[2 if statement.startswith("INSERT") else 1] for statement in sent if statement[:6] in _WRITES
    }
    assert written <= {"oc_liveness", "amphora_health", "listener_statistics", "oc_commit"}
    assert len([statement for statement in sent if "FROM listener" in statement]) == 1, "all are read together"
    found = rig.storage.read(lambda tx: tx.liveness())
    assert {heart.observer for heart in found} == {"another"}
    assert all(status(rig, id) is Operating.ONLINE for id in rig.ids)


_WRITES = ("INSERT", "UPDATE", "DELETE")


def test_traffic_of_listeners_that_are_not_of_the_amphoras_load_balancer_is_not_stored(rig: Rig) -> None:
    one, two, gone = rig.ids
    rig.storage.transaction(lambda tx: tx.settle_amphora(gone, AmphoraEvent.DELETE))
    rig.storage.transaction(lambda tx: tx.settle_amphora(gone, AmphoraEvent.DELETED))
    for _ in range(3):
        rig.clock.advance(11.0)
        now = rig.clock.monotonic()
        rig.memory.keep([rig.beat(one, [rig.listeners[one], rig.listeners[two]], rx=7)], now)
        rig.memory.keep([rig.beat(two, rx=5), rig.beat(gone, rx=3), rig.beat("invented", ["nobodys"], rx=9)], now)
        rig.writer.flush(rig.clock)
    rig.memory.forget_others(rig.ids, rig.clock.monotonic() + 1.0)
    rig.written()
    columns = listener_statistics.c
    with rig.storage._engine.connect() as connection:
        query = select(columns.amphora_id, columns.listener_id, columns.bytes_in).where(columns.bytes_in > 0)
        found = {tuple(row) for row in connection.execute(query)}
    assert found == {(one, rig.listeners[one], 21), (two, rig.listeners[two], 15)}
    assert rig.memory.counters["traffic of foreign listeners"] == 9


class Large(Rig):
    """Its load balancer has more members than a heartbeat takes."""

    def balancer(self, listener: Listener) -> LoadBalancer:
        pool = new_id()
        members = tuple(
            Member(id=new_id(), pool_id=pool, address="192.0.2.1", protocol_port=port) for port in range(1, 3001)
        )
        self.pool = Pool(id=pool, protocol=PoolProtocol.HTTP, members=members)
        served = attrs.evolve(listener, default_pool_id=pool)
        return LoadBalancer(id=new_id(), listeners=(served,), pools=(self.pool,))

    def says(self, first: int, last: int, **words: str) -> None:
        """A heartbeat that names these members, and what else is said of some."""
        self.sequence += 1
        ids = [member.id for member in self.pool.members[first:last]]
        pools = {self.pool.id: {"status": "UP", "members": dict.fromkeys(ids, "UP") | words}} if ids else {}
        listeners = {self.listener: {"status": "OPEN", "stats": {}}}
        document = {"id": self.ids[0], "seq": self.sequence, "ver": 3, "listeners": listeners, "pools": pools}
        if len(ids) < len(self.pool.members):
            document["partial"] = True
        self.memory.keep([decode(encode(document, KEY), [KEY])], self.clock.monotonic())
        self.writer.flush(self.clock)


def test_a_large_load_balancer_whose_heartbeats_take_turns_is_not_read_each_time(tmp_path: Path) -> None:
    here = Large(tmp_path, 1, heartbeat_timeout=60.0, heartbeat_interval=10.0)
    sent: list[str] = []
    listen = lambda connection, cursor, statement, *rest: sent.append(statement)  # noqa: E731

    def reads() -> int:
        return sum("m.operating_status" in statement for statement in sent)

    def member(place: int) -> Operating:
        tree = here.storage.read(lambda tx: tx.tree(str(here.amphorae[0].load_balancer_id)))
        assert tree is not None
        found = {each.id: each.operating_status for each in tree.pools[0].members}
        return found[here.pool.members[place].id]

    try:
        here.says(0, 3000)
        turns = [(0, 0), (0, 2000), (0, 0), (1000, 3000)]
        for first, last in turns:
            here.says(first, last)
        event.listen(here.storage._engine, "before_cursor_execute", listen)
        here.clock.advance(0.05)
        for first, last in turns * 10:
            here.clock.advance(0.01)
            here.says(first, last)
        assert reads() <= 2
        here.says(0, 2000, **{here.pool.members[7].id: "DOWN"})
        assert member(7) is Operating.ERROR
        here.says(0, 0)
        here.says(1000, 3000)
        assert member(7) is Operating.ERROR, "nobody has said otherwise"
        here.says(0, 2000)
        assert member(7) is Operating.ONLINE, "though it has said all that before"
        sent.clear()
        for first, last in turns * 10:
            here.clock.advance(0.2)
            here.says(first, last)
        assert 4 <= reads() <= 20, "now and then they are held against the rows all the same"
    finally:
        here.close()
