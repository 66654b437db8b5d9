"""The load balancers that heartbeats are held against: many at once, with what statuses need and nothing more."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, BindParameter, DateTime, Row, bindparam, or_, select, union

from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.tables.listener import listener
from octavia_core.db.tables.own import oc_event
from octavia_core.db.tables.pool import member, pool
from octavia_core.db.transaction.amphorae import naive_utc
from octavia_core.db.transaction.session import Session, chunks, is_plain
from octavia_core.domain.calm import MARKS, digest
from octavia_core.domain.outline import ListenerOutline, MemberOutline, Outline, PoolOutline
from octavia_core.domain.vocabulary import AmphoraStatus, ListenerProtocol, Operating, Provisioning, Topology

__all__ = ["Reports"]

_AT_ONCE = 500
"""Amphorae of one statement; from 1000 on MariaDB would make a table of them."""
_GONE = frozenset((str(AmphoraStatus.DELETED), str(AmphoraStatus.PENDING_DELETE)))
"""Amphorae in these say nothing of a load balancer: it goes too, or another serves it in their place."""
_OPERATING = {str(each): each for each in Operating}
_PROVISIONING = {str(each): each for each in Provisioning}
_PROTOCOL = {str(each): each for each in ListenerProtocol}
_read = json.JSONDecoder(strict=False).decode


_SINCE: BindParameter[datetime] = bindparam("since", type_=DateTime())
_OWNERS = union(
    select(load_balancer.c.id.label("owner")).where(
        or_(load_balancer.c.updated_at >= _SINCE, load_balancer.c.created_at >= _SINCE)
    ),
    select(oc_event.c.load_balancer_id).where(oc_event.c.sequence > bindparam("after", type_=BigInteger())),
).subquery()
"""Of the big tables only load balancers are looked through: nobody changes what is below one without the one above, but health
managers, who say so by an event.
"""
_CHANGED = (
    select(amphora.c.id)
    .join(_OWNERS, _OWNERS.c.owner == amphora.c.load_balancer_id)
    .where(amphora.c.status.not_in(sorted(_GONE)))
)

_LB: BindParameter[str] = bindparam("lb")
_HEADS = select(
    amphora.c.id,
    amphora.c.status,
    load_balancer.c.id,
    load_balancer.c.name,
    load_balancer.c.enabled,
    load_balancer.c.topology,
    load_balancer.c.provisioning_status,
    load_balancer.c.operating_status,
).outerjoin(load_balancer, load_balancer.c.id == amphora.c.load_balancer_id)
_LISTENERS = select(
    listener.c.id,
    listener.c.name,
    listener.c.enabled,
    listener.c.protocol,
    listener.c.default_pool_id,
    listener.c.provisioning_status,
    listener.c.operating_status,
).where(listener.c.load_balancer_id == _LB)
_POOLS = select(pool.c.id, pool.c.name, pool.c.operating_status).where(pool.c.load_balancer_id == _LB)
_MEMBERS = (
    select(member.c.pool_id, member.c.id, member.c.name, member.c.enabled, member.c.operating_status)
    .join(pool, pool.c.id == member.c.pool_id)
    .where(pool.c.load_balancer_id == _LB)
)


class Reports(Session):
    """What heartbeats are held against; see `octavia_core.ports.hearts.Hearts`."""

    def changed_under(self, since: int, after: int) -> Collection[str]:
        """See `octavia_core.ports.hearts.Hearts.changed_under`."""
        return {row.id for row in self.rows(_CHANGED, since=naive_utc(since / 1_000_000), after=after)}

    def reported_on(self, amphora_ids: Collection[str]) -> Mapping[str, Outline | None]:
        """See `octavia_core.ports.storage.Transaction.reported_on`."""
        found: dict[str, Outline | None] = {}
        made: dict[str, Outline] = {}
        for ids in chunks(sorted(set(amphora_ids)), _AT_ONCE):
            whole = True
            for (text,) in self._texts(_words(self.dialect), ids):
                try:
                    head, *below = _read(text)
                except (TypeError, ValueError):  # MariaDB cuts what is longer than it sends (16 MiB), or says NULL
                    whole = False
                else:
                    self._put(found, made, head, below)
            if not whole:
                self._read_long([id for id in ids if id not in found], found, made)
        return found

    @staticmethod
    def _put(
        found: dict[str, Outline | None], made: dict[str, Outline], head: Sequence[Any], below: Sequence[Any]
    ) -> None:
        amphora_id, status, owner = head[:3]
        if owner is None or status in _GONE or head[6] == Provisioning.DELETED:
            found[amphora_id] = None
            return
        if owner not in made:  # the two of a pair have one
            made[owner] = _outline(head[2:], *below)
        found[amphora_id] = made[owner]

    def _read_long(self, ids: Sequence[str], found: dict[str, Outline | None], made: dict[str, Outline]) -> None:
        """The same by rows, for load balancers that are too big for one text."""
        for row in self.rows(_HEADS.where(amphora.c.id.in_(ids))):
            head: Sequence[Any] = tuple(row)
            self._put(found, made, head, [self.rows(part, lb=head[2]) for part in (_LISTENERS, _POOLS, _MEMBERS)])

    def calm(self, amphora_ids: Collection[str]) -> Mapping[str, bytes]:
        """See `octavia_core.ports.hearts.Hearts.calm`."""
        found: dict[str, bytes] = {}
        for ids in chunks(sorted(set(amphora_ids)), _AT_ONCE):
            for (text,) in self._texts(_calm_words(self.dialect), ids):
                if text is not None:  # too long for MariaDB, which is as good as not calm
                    amphora_id, *tokens = text.split(",")
                    found[amphora_id] = digest(tokens)
        return found

    def _texts(self, words: str, ids: list[str]) -> Sequence[Row[Any]]:
        """Ids are data: plain ones stand in MariaDB's statement, since its driver takes a microsecond to quote each."""
        parameters: tuple[Any, ...] = ()
        match self.dialect:
            case "mysql" if is_plain(ids):
                words = words.replace("(?)", "('" + "','".join(ids) + "')")
            case "mysql":
                words, parameters = words.replace("(?)", f"({','.join(['%s'] * len(ids))})"), tuple(ids)
            case "postgresql":
                parameters = (ids,)
            case _:
                parameters = (json.dumps(ids),)
        self._wire.sent += 1
        return self._connection.exec_driver_sql(words, parameters).all()


_ARRAY = {"mysql": "JSON_ARRAY({})", "postgresql": "CAST(json_build_array({}) AS text)", "sqlite": "json_array({})"}
_GATHERED = {"mysql": "GROUP_CONCAT({})", "postgresql": "string_agg({}, ',')", "sqlite": "group_concat({})"}
_SOME = {
    "mysql": "amphora a {} WHERE a.id IN (?)",
    # joined, since a plan that PostgreSQL keeps for any array would compare each row with each of it
    "postgresql": "unnest(CAST(%s AS text[])) AS wanted(id) JOIN amphora a ON a.id = wanted.id {}",
    "sqlite": "amphora a {} WHERE a.id IN (SELECT value FROM json_each(?))",
}


@functools.cache
def _words(dialect: str) -> str:
    """Of outlines: one row for each amphora with one text, `[[amphora, load balancer], [listeners], [pools], [members]]`, each of them an
    array: a driver takes longer over nine rows of seven columns than all the rest does.
    """
    array, gathered = _ARRAY[dialect].format, _GATHERED[dialect].format

    def below(columns: str, tables: str) -> str:
        return f"COALESCE((SELECT {gathered(array(columns))} FROM {tables}.load_balancer_id = b.id), '')"  # noqa: S608 - our own words

    head = "a.id, a.status, b.id, b.name, b.enabled, b.topology, b.provisioning_status, b.operating_status"
    of_listener = "l.id, l.name, l.enabled, l.protocol, l.default_pool_id, l.provisioning_status, l.operating_status"
    parts = (
        "'['",
        array(head),
        "',['",
        below(of_listener, "listener l WHERE l"),
        "'],['",
        below("p.id, p.name, p.operating_status", "pool p WHERE p"),
        "'],['",
        below(
            "m.pool_id, m.id, m.name, m.enabled, m.operating_status", "pool p JOIN member m ON m.pool_id = p.id WHERE p"
        ),
        "']]'",
    )
    text = f"CONCAT({', '.join(parts)})" if dialect == "mysql" else " || ".join(parts)
    tables = _SOME[dialect].format("LEFT JOIN load_balancer b ON b.id = a.load_balancer_id")
    return f"SELECT {text} FROM {tables}"  # noqa: S608 - our own words


_BAD, _COLON = "'!'", "':'"
"""The first: a token that no heartbeat has."""


@functools.cache
def _calm_words(dialect: str) -> str:
    """One row for each amphora of a calm load balancer with one text: its id, then tokens (`domain.calm`), commas in between."""
    gathered = _GATHERED[dialect].format

    def joined(*parts: str) -> str:
        return f"CONCAT({', '.join(parts)})" if dialect == "mysql" else f"({' || '.join(parts)})"

    def below(token: str, tables: str) -> str:
        return f"COALESCE((SELECT {gathered(token)} FROM {tables}.load_balancer_id = b.id), '')"  # noqa: S608 - our own words

    of_listener = (
        f"CASE WHEN l.enabled THEN CASE WHEN l.operating_status = '{Operating.ONLINE}'"
        f" AND l.provisioning_status <> '{Provisioning.ERROR}' THEN l.id ELSE {_BAD} END"
        f" WHEN l.operating_status <> '{Operating.OFFLINE}' THEN {_BAD} END"
    )
    of_pool = (
        f"CASE p.operating_status WHEN '{Operating.ONLINE}' THEN {joined('p.id', _COLON)}"
        f" WHEN '{Operating.OFFLINE}' THEN NULL ELSE {_BAD} END"
    )
    marks = " ".join(f"WHEN '{status}' THEN '{mark}'" for mark, status in MARKS.values())
    of_member = joined("m.pool_id", _COLON, "m.id", f"CASE m.operating_status {marks} ELSE {_BAD} END")
    text = joined(
        "a.id",
        "','",
        below(of_listener, "listener l WHERE l"),
        "','",
        below(of_pool, "pool p WHERE p"),
        "','",
        below(
            of_member,
            f"pool p JOIN member m ON m.pool_id = p.id WHERE p.operating_status <> '{Operating.OFFLINE}' AND p",
        ),
    )
    tables = _SOME[dialect].format("JOIN load_balancer b ON b.id = a.load_balancer_id")
    gone = ", ".join(f"'{status}'" for status in sorted(_GONE))
    calm = (
        f"a.status NOT IN ({gone}) AND b.enabled AND b.operating_status = '{Operating.ONLINE}'"
        f" AND b.provisioning_status <> '{Provisioning.DELETED}'"
        f" AND (b.topology IS NULL OR b.topology <> '{Topology.ACTIVE_STANDBY}')"
    )
    return f"SELECT {text} FROM {tables} {'WHERE' if dialect == 'postgresql' else 'AND'} {calm}"  # noqa: S608 - our own words


def _outline(head: Sequence[Any], listeners: Any, pools: Any, members: Any) -> Outline:
    grouped: dict[str, list[MemberOutline]] = {}
    for pool_id, id, name, enabled, operating in members:
        grouped.setdefault(pool_id, []).append(MemberOutline(id, name, bool(enabled), _OPERATING[operating]))
    id, name, enabled, topology, provisioning, operating = head
    return Outline(
        id,
        name,
        bool(enabled),
        Topology(topology or Topology.SINGLE),
        _PROVISIONING[provisioning],
        _OPERATING[operating],
        tuple([_listener(*row) for row in listeners]),
        tuple([PoolOutline(id, name, _OPERATING[status], tuple(grouped.get(id, ()))) for id, name, status in pools]),
    )


def _listener(
    id: str, name: str | None, enabled: Any, protocol: str, pool_id: str | None, provisioning: str, operating: str
) -> ListenerOutline:
    return ListenerOutline(
        id, name, bool(enabled), _PROTOCOL[protocol], pool_id, _PROVISIONING[provisioning], _OPERATING[operating]
    )
