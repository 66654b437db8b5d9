"""Datagrams that were damaged or made up, by the million: each is refused, nothing is known afterwards that was not before,
and no memory is lost. Those that somebody signs who has the key are read as decoding reads them.
"""

from __future__ import annotations

import hmac
import multiprocessing
import os
import random
import zlib
from collections import Counter

import pytest

from octavia_core.controller.health.memory import Memory
from octavia_core.domain.heartbeat import BadPacket, decode
from octavia_core.domain.skim import Skimmer, skimmed
from tests.heartbeat.vectors import A_BINARY, A_HEX, B_HEX, C_HEX, KEY, KEY_C

GOOD = (A_HEX, B_HEX, C_HEX, A_BINARY)
KEYS = (KEY, KEY_C)
SIGNED_EVERY = 20
"""One of so many is damaged inside and signed again."""
ROOM = 16 * 1024 * 1024
"""Bytes that a process may grow by, once it has seen everything once."""


def damaged(chance: random.Random, packet: bytes) -> bytes:
    """The same with some bits, bytes or lengths changed; now and then something made up."""
    found = bytearray(packet)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 30))):
        place = chance.randrange(len(found)) if found else 0
        match chance.randrange(6):
            case 0 | 1 if found:
                found[place] ^= 1 << chance.randrange(8)
            case 2:
                found[place : place + chance.randrange(9)] = chance.randbytes(chance.randrange(9))
            case 3:
                del found[place:]
            case 4:
                found += chance.randbytes(chance.randrange(80))
            case 5:
                start = chance.randrange(len(found)) if found else 0
                found[place:place] = found[start : start + 40]
    return bytes(found)


def signed(chance: random.Random) -> bytes:
    """A heartbeat whose text, or whose stream, was damaged before it was signed."""
    body = chance.choice((A_HEX, B_HEX))[:-64]
    inside = chance.randrange(2)
    body = zlib.compress(damaged(chance, zlib.decompress(body)), 1) if inside else damaged(chance, body)
    return body + hmac.digest(KEY.encode(), body, "sha256").hex().encode()


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def storm(seed: int, count: int) -> Counter[str]:
    """So many of them, at a skimmer and a memory that know some amphorae; what became of them."""
    chance, skimmer, memory = random.Random(seed), Skimmer(KEYS), Memory(reapply=1e9)
    memory.keep([skimmer.skim(packet) for packet in GOOD[:3]], 1.0)
    known = {id: (one.said, one.seq, list(one.sums)) for id, one in memory._known.items()}
    fate, before = Counter[str](), 0
    for number in range(count):
        if number == count // 5:
            before = resident()
        made_up = number % SIGNED_EVERY == 0
        packet = signed(chance) if made_up else damaged(chance, chance.choice(GOOD))
        try:
            said = skimmer.skim(packet)
        except BadPacket as refused:
            fate[str(refused.reason)] += 1
            if not made_up:
                continue
            with pytest.raises(BadPacket) as caught:
                decode(packet, KEYS)
            assert caught.value.reason is refused.reason, packet.hex()
            continue
        if made_up:
            whole = skimmed(decode(packet, KEYS))
            assert (said.amphora_id, said.seq, said.counters) == (whole.amphora_id, whole.seq, whole.counters), (
                packet.hex()
            )
            fate["signed by who may"] += 1
        else:
            assert packet in GOOD, packet.hex()
            fate["not damaged"] += 1
            memory.keep([said], 2.0)
    assert {id: (one.said, one.seq, list(one.sums)) for id, one in memory._known.items()} == known
    assert resident() - before < ROOM, "it leaks"
    return fate


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(10_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_damaged_datagrams_change_nothing_and_leak_nothing(count: int) -> None:
    if count <= 20_000:
        fates = [storm(1, count)]
    else:
        share, many = count // 50, max(2, os.cpu_count() or 2)
        with multiprocessing.get_context("spawn").Pool(many, maxtasksperchild=5) as pool:
            fates = pool.starmap(storm, [(seed, share) for seed in range(50)], chunksize=1)
    total = sum(fates, Counter[str]())
    assert sum(total.values()) == count
    assert total["bad_digest"] > count / 2
    assert {"too_short", "not_zlib", "not_json", "malformed", "signed by who may"} <= set(total)
