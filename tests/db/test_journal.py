"""Journals, revisions and the outbox."""

from __future__ import annotations

import threading

import attrs
import pytest

from octavia_core.domain.operation import EntryKind, Event, JournalEntry, Outcome
from octavia_core.errors import BadRequest, NotFound
from tests.db.values import balancer, full, new_id, normal


def entry(operation_id, path, outcome=Outcome.DONE, **more):
    return JournalEntry(
        **{"operation_id": operation_id, "path": path, "kind": EntryKind.STEP, "outcome": outcome, **more}
    )


def write(storage, *entries):
    storage.transaction(lambda tx: [tx.write_journal(each) for each in entries])


def journal(storage, id):
    return storage.read(lambda tx: tx.journal(id))


def test_an_intent_becomes_a_result_at_its_place(storage):
    id = new_id()
    write(storage, entry(id, "b", Outcome.INTENT, key={"name": "n"}))
    write(storage, entry(id, "a", Outcome.INTENT))
    intent = journal(storage, id)[0]
    assert (intent.outcome, intent.finished_at, intent.result) == (Outcome.INTENT, None, None)
    write(storage, entry(id, "b", key={"name": "n"}, result=[1, "x", None], attempts=2))
    done, other = journal(storage, id)
    assert (done.path, other.path) == ("b", "a"), "the order in which they were first written"
    assert (done.sequence, other.sequence) == (1, 2)
    assert (done.key, done.result, done.attempts, done.outcome) == ({"name": "n"}, [1, "x", None], 2, Outcome.DONE)
    assert done.started_at == intent.started_at <= done.finished_at <= storage.now()
    write(storage, entry(id, "b", Outcome.FAILED, error={"type": "X", "text": "no"}))
    assert journal(storage, id)[0].error == {"type": "X", "text": "no"}


def test_journals_do_not_mix(storage):
    one, two = new_id(), new_id()
    write(storage, entry(one, "a"), entry(two, "a"), entry(one, "b"))
    assert [(e.path, e.sequence) for e in journal(storage, one)] == [("a", 1), ("b", 2)]
    assert [(e.path, e.sequence) for e in journal(storage, two)] == [("a", 1)]
    assert journal(storage, new_id()) == []


def test_paths_differ_in_each_letter_and_have_a_limit(storage):
    id = new_id()
    write(storage, entry(id, "pair/Boot"), entry(id, "pair/boot"))
    assert len(journal(storage, id)) == 2
    with pytest.raises(BadRequest, match="255 characters"):
        write(storage, entry(id, "x" * 256))


def test_a_large_result_comes_back(storage):
    id, result = new_id(), {"text": "ü\0\ud800" * 20_000}
    write(storage, entry(id, "a", result=result))
    assert journal(storage, id)[0].result == result


# -- revisions -----------------------------------------------------------------------------------------------------------


def store(storage, tree, operation_id=None):
    return storage.transaction(lambda tx: tx.store_revision(tree.id, tree, operation_id))


def test_revisions_are_numbered_and_come_back_as_trees(storage):
    tree = normal(full())
    assert [store(storage, attrs.evolve(tree, name=f"r{n}")) for n in (1, 2)] == [1, 2]
    assert store(storage, balancer()) == 1
    found = storage.read(lambda tx: tx.revisions(tree.id))
    assert [(each.number, each.tree.name, each.good) for each in found] == [(2, "r2", False), (1, "r1", False)]
    assert found[0].tree == attrs.evolve(tree, name="r2")
    assert storage.read(lambda tx: tx.revision(tree.id, 1)) == found[1]
    assert storage.read(lambda tx: (tx.revision(tree.id, 3), tx.last_good(tree.id))) == (None, None)


def test_the_same_operation_stores_one_revision(storage):
    tree, id = balancer(), new_id()
    assert store(storage, tree, id) == store(storage, tree, id) == 1
    assert store(storage, tree, new_id()) == 2


def test_the_last_good_one_is_the_newest_that_was_accepted(storage):
    tree = balancer()
    for _ in range(3):
        store(storage, tree)
    for number in (2, 1):
        storage.transaction(lambda tx, n=number: tx.mark_good(tree.id, n))
    assert storage.read(lambda tx: tx.last_good(tree.id)).number == 2
    with pytest.raises(NotFound):
        storage.transaction(lambda tx: tx.mark_good(tree.id, 9))


def test_twenty_revisions_are_kept_and_the_last_good_one_whatever_its_age(storage):
    tree = balancer()
    for _ in range(5):
        store(storage, tree)
    storage.transaction(lambda tx: tx.mark_good(tree.id, 3))
    for _ in range(25):
        store(storage, tree)
    storage.transaction(lambda tx: tx.mark_good(tree.id, 3))
    assert [each.number for each in storage.read(lambda tx: tx.revisions(tree.id))] == [*range(30, 10, -1), 3]
    storage.transaction(lambda tx: tx.mark_good(tree.id, 30))
    assert [each.number for each in storage.read(lambda tx: tx.revisions(tree.id))] == [*range(30, 10, -1)]


# -- events --------------------------------------------------------------------------------------------------------------


def emit(storage, *names, **more):
    storage.transaction(lambda tx: [tx.emit(Event(name=name, text=name.upper(), **more)) for name in names])


def newest(storage):
    return storage.read(lambda tx: tx.delivered(f"nobody-{new_id()}"))


def test_events_come_in_the_order_they_were_emitted(storage):
    start = newest(storage)
    emit(storage, "a", "b", load_balancer_id="lb", data={"x": [1]})
    emit(storage, "c", operation_id="op")
    found = storage.read(lambda tx: tx.events(after=start))
    assert [(e.name, e.sequence) for e in found] == [("a", start + 1), ("b", start + 2), ("c", start + 3)]
    assert (found[0].data, found[0].text, found[0].load_balancer_id) == ({"x": [1]}, "A", "lb")
    assert 0 < found[0].at <= storage.now()
    assert [e.name for e in storage.read(lambda tx: tx.events(after=start + 1, limit=1))] == ["b"]
    assert [e.name for e in storage.read(lambda tx: tx.events(after=start, load_balancer_id="lb"))] == ["a", "b"]
    assert [e.name for e in storage.read(lambda tx: tx.events(after=start, operation_id="op"))] == ["c"]


def test_a_transaction_sees_its_own_events_and_a_failed_one_leaves_none(storage):
    start = newest(storage)

    def work(tx):
        tx.emit(Event(name="a", text="A"))
        assert [e.name for e in tx.events(after=start)] == ["a"]
        tx.emit(Event(name="b", text="B"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        storage.transaction(work)
    assert storage.read(lambda tx: tx.events(after=start)) == []
    assert newest(storage) == start


def test_cursors_begin_at_the_newest_event_and_never_move_back(storage):
    emit(storage, "before")
    start = newest(storage)
    assert storage.read(lambda tx: tx.delivered("plugin")) == start
    for sequence in (start, start + 5, start + 2):
        storage.transaction(lambda tx, s=sequence: tx.set_delivered("plugin", s))
    assert storage.read(lambda tx: tx.delivered("plugin")) == start + 5
    assert newest(storage) == start


def test_a_plugin_is_given_what_is_beyond_its_cursor(storage):
    start = newest(storage)
    emit(storage, "a", "b", data={"x": [1]})
    assert storage.read(lambda tx: tx.undelivered("plugin")) == []  # not seen before
    storage.transaction(lambda tx: tx.set_delivered("plugin", start))
    found = storage.read(lambda tx: tx.undelivered("plugin"))
    assert found == storage.read(lambda tx: tx.events(after=start))
    assert [e.name for e in storage.read(lambda tx: tx.undelivered("plugin", limit=1))] == ["a"]
    storage.transaction(lambda tx: tx.set_delivered("plugin", start + 1))
    assert [e.name for e in storage.read(lambda tx: tx.undelivered("plugin"))] == ["b"]


def test_whoever_saw_an_event_never_misses_an_earlier_one(storage):
    """The sequence is taken last and held to the commit, so sequences become visible in their own order."""
    start, rounds, writers = newest(storage), 25, 3

    def write_some():
        for _ in range(rounds):
            emit(storage, "x")

    threads = [threading.Thread(target=write_some) for _ in range(writers)]
    for thread in threads:
        thread.start()
    seen, after = [], start
    writing = True
    while writing:
        writing = any(thread.is_alive() for thread in threads)  # if not, this look is the last one
        for event in storage.read(lambda tx, a=after: tx.events(after=a)):
            seen.append(event.sequence)
            after = event.sequence
    for thread in threads:
        thread.join()
    assert seen == list(range(start + 1, start + 1 + rounds * writers))
