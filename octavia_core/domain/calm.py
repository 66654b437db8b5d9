"""Calm: a heartbeat that names nothing but what works, and rows that say the same; two digests tell whether they agree.

When a health manager begins, nearly all that it hears is calm, and so are the rows. Both are written as the same tokens, one
for each listener, pool and member, and only a digest of them is kept and compared: no tree is made, and no table of rules is
asked. Equal digests mean that `lifecycle.operating.roll_up` would find nothing to change and the right number of listeners; a
test holds one against the other. Different ones mean nothing: then the tables are asked.

    listener   its id              reported OPEN; in the rows enabled and ONLINE (disabled and OFFLINE ones have no token)
    pool       its id and a colon  reported UP; in the rows ONLINE (those that are OFFLINE, and their members, have none)
    member     `pool:member` and a mark, see `MARKS`
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from octavia_core.domain.heartbeat import FLAT_POOLS_SINCE, Heartbeat
from octavia_core.domain.vocabulary import Operating

__all__ = ["MARKS", "SIZE", "calm_of", "digest"]

SIZE = 16
"""Bytes of a digest."""


MARKS: Mapping[str, tuple[str, Operating]] = {
    "UP": ("", Operating.ONLINE),
    "no check": (":n", Operating.NO_MONITOR),
    "DRAIN": (":d", Operating.DRAINING),
    "MAINT": (":m", Operating.OFFLINE),
}
"""What agents say of a member that spoils nothing above it -> the end of its token, and what the rows say of it then."""
_MARK = {word: mark for word, (mark, _) in MARKS.items()}


def calm_of(heartbeat: Heartbeat) -> bytes:
    """The digest of one that is calm, b"" for others. Forms that do not list pools by themselves, and partial ones, are not."""
    if heartbeat.version < FLAT_POOLS_SINCE or heartbeat.partial:
        return b""
    tokens = list(heartbeat.listeners)
    ids = tokens.copy()
    for report in heartbeat.listeners.values():
        if report.status != "OPEN":
            return b""
    for pool, said in heartbeat.reports_by_pool().items():
        if said.status != "UP":
            return b""
        ids.append(pool)
        ids += said.members
        tokens.append(f"{pool}:")
        for member, word in said.members.items():
            if word == "UP":
                tokens.append(f"{pool}:{member}")
            elif word in _MARK:
                tokens.append(f"{pool}:{member}{_MARK[word]}")
            else:
                return b""
    plain = "".join(ids).replace("-", "")  # only such ids: no other token could be mistaken for one of theirs
    return digest(tokens) if plain.isalnum() or not ids else b""


def digest(tokens: Iterable[str]) -> bytes:
    """Of tokens in any order; empty ones do not count."""
    text = ",".join(sorted(filter(None, tokens)))
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:SIZE]
