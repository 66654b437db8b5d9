"""An amphora with more members than a datagram takes says it in turns, and what changes first."""

from __future__ import annotations

import random
import uuid
from typing import Any

from octavia_core.domain.heartbeat import LARGEST_DATAGRAM, Heartbeat, decode, encode
from octavia_core.domain.skim import Skimmer
from octavia_local.agent.portions import Portions

KEY = "a-key"
WORDS = ("UP", "DOWN", "no check")


def document(members: int, pools: int = 1, listeners: int = 1) -> dict[str, Any]:
    dice = random.Random(members)  # noqa: S311 - no secret

    def new() -> str:
        return str(uuid.UUID(int=dice.getrandbits(128)))

    def counted() -> int:
        return dice.randrange(10**9)

    stats = [{"tx": counted(), "rx": counted(), "conns": 3, "totconns": counted(), "ereq": 0} for _ in range(listeners)]
    return {
        "id": new(),
        "seq": 7,
        "listeners": {new(): {"status": "OPEN", "stats": each} for each in stats},
        "pools": {
            f"{new()}:{new()}": {
                "status": "UP",
                "members": {new(): dice.choice(WORDS) for _ in range(members // pools)},
            }
            for _ in range(pools)
        },
        "ver": 3,
    }


def members_of(beat: Heartbeat) -> dict[tuple[str, str], str]:
    return {(key, id): word for key, pool in beat.pools.items() for id, word in pool.members.items()}


def everything(said: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(key, id): word for key, pool in said["pools"].items() for id, word in pool["members"].items()}


def packed(portions: Portions, said: dict[str, Any], to: int = 1, urgent: Any = ()) -> Heartbeat:
    packet = portions.pack(said, KEY, to, urgent)
    assert packet is not None
    assert len(packet) <= LARGEST_DATAGRAM
    return decode(packet, [KEY])


def test_what_fits_is_sent_as_it_is() -> None:
    said = document(2000)

    assert Portions().pack(said, KEY, 1, ()) == encode(said, KEY)
    assert not packed(Portions(), said).partial


def test_everybody_has_a_turn_and_listeners_always() -> None:
    for members, pools, listeners, beats in ((4000, 1, 1, 2), (12_000, 60, 40, 6), (3000, 1, 1000, 5)):
        said, portions, heard = document(members, pools, listeners), Portions(), {}
        for _ in range(beats):
            beat = packed(portions, said)
            assert beat.partial
            assert list(beat.listeners) == list(said["listeners"])
            heard |= members_of(beat)
        assert heard == everything(said)


def test_each_controller_hears_of_everybody() -> None:
    said, portions = document(4000), Portions()
    heard: tuple[dict[Any, str], dict[Any, str]] = ({}, {})
    for beat in range(4):
        heard[beat % 2].update(members_of(packed(portions, said, to=beat % 2)))
    assert heard[0] == heard[1] == everything(said)


def test_what_changed_does_not_wait_for_its_turn() -> None:
    said, portions = document(9000), Portions()
    key, last = list(everything(said))[-1]

    assert (key, last) not in members_of(packed(portions, said))
    assert (key, last) in members_of(packed(portions, said, urgent={(key, last)}))


def test_what_became_less_is_whole_again() -> None:
    said, portions = document(4000), Portions()
    assert packed(portions, said).partial
    assert not packed(portions, document(1000)).partial


def test_pools_without_members_have_their_turn() -> None:
    said = document(3000, pools=1) | {"seq": 8}
    said["pools"]["empty:l"] = {"status": "UP", "members": {}}
    portions = Portions()
    seen = {key for _ in range(3) for key in packed(portions, said).pools}
    assert seen == set(said["pools"])


def test_more_listeners_than_fit_are_not_sent() -> None:
    assert Portions().pack(document(0, listeners=3000), KEY, 1, ()) is None


def test_a_glance_never_takes_a_part_for_the_whole() -> None:
    said = document(20)
    skimmer = Skimmer([KEY])
    whole = skimmer.skim(encode(said, KEY))
    part = skimmer.skim(encode(said | {"seq": 9, "partial": True}, KEY))
    assert whole.words != part.words
    again = skimmer.skim(encode(said | {"seq": 10, "partial": True}, KEY))
    assert (again.words, again.listeners) == (part.words, None)
    assert [each.statuses().partial for each in (whole, part, again)] == [False, True, True]
    assert [each.heartbeat().partial for each in (whole, part, again)] == [False, True, True]
