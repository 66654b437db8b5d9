"""What agents have of that which can be rotated, amphora by amphora, and what all are to have."""

from __future__ import annotations

from octavia_core.db.storage import SqlStorage
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Kind
from tests.db.values import amphora, new_id

KEY, PLACES = "heartbeat-key", "controllers"


def test_what_an_agent_is_given_replaces_what_it_had_of_that(storage: SqlStorage) -> None:
    one, two = new_id(), new_id()
    for mark in ("a", "a", "b"):
        storage.transaction(lambda tx, mark=mark: tx.give_marks([one], {KEY: mark}))  # type: ignore[misc]
    storage.transaction(lambda tx: (tx.give_marks([one, two], {PLACES: "c"}), tx.give_marks([two], {})))
    storage.transaction(lambda tx: tx.give_marks([], {KEY: "a"}))
    assert storage.read(lambda tx: (tx.marked(KEY), tx.marked(PLACES))) == ({one: "b"}, {one: "c", two: "c"})


def test_who_is_about_to_be_given_something_else_may_have_anything(storage: SqlStorage) -> None:
    one, two = new_id(), new_id()
    storage.transaction(lambda tx: tx.give_marks([one, two], {KEY: "a", PLACES: "c"}))
    storage.transaction(lambda tx: (tx.doubt_marks([one], {KEY: "b", PLACES: "c"}), tx.doubt_marks([two], {})))
    assert storage.read(lambda tx: (tx.marked(KEY), tx.marked(PLACES))) == ({two: "a"}, {one: "c", two: "c"})


def test_they_end_with_the_amphora(storage: SqlStorage) -> None:
    tree = LoadBalancer(id=new_id())
    box = amphora(tree.id)
    storage.transaction(lambda tx: (tx.insert(tree), tx.insert(box), tx.give_marks([box.id], {KEY: "a"})))
    storage.transaction(lambda tx: tx.forget_health(box.id))
    assert storage.read(lambda tx: tx.marked(KEY)) == {}, "as soon as it is not to be heard any more"
    storage.transaction(lambda tx: tx.give_marks([box.id], {KEY: "a"}))
    storage.transaction(lambda tx: tx.delete(Kind.AMPHORA, box.id))
    assert storage.read(lambda tx: tx.marked(KEY)) == {}


def test_what_all_are_to_have_is_what_was_rotated_last(storage: SqlStorage) -> None:
    assert storage.read(lambda tx: tx.rotations()) == {}
    for mark in ("a", "b", "b"):
        storage.transaction(lambda tx, mark=mark: tx.set_rotation(KEY, mark))  # type: ignore[misc]
    assert storage.read(lambda tx: tx.rotations()) == {KEY: "b"}
