"""The load balancers that heartbeats are held against: many at once, with what statuses need and nothing more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, DateTime, Row, Table, bindparam, or_, select, union

from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.tables.listener import listener
from octavia_core.db.tables.pool import member, pool
from octavia_core.db.transaction.amphorae import naive_utc
from octavia_core.db.transaction.session import Session, chunks
from octavia_core.domain.tree import Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import (
    AmphoraStatus,
    ListenerProtocol,
    Operating,
    PoolProtocol,
    Provisioning,
    Topology,
)

__all__ = ["Reports"]

Grouped = Mapping[str, Sequence[Row[Any]]]

_BALANCER = select(
    load_balancer.c.id,
    load_balancer.c.name,
    load_balancer.c.enabled,
    load_balancer.c.topology,
    load_balancer.c.provisioning_status,
    load_balancer.c.operating_status,
)
_LISTENER = select(
    listener.c.id,
    listener.c.load_balancer_id,
    listener.c.name,
    listener.c.protocol,
    listener.c.protocol_port,
    listener.c.default_pool_id,
    listener.c.enabled,
    listener.c.provisioning_status,
    listener.c.operating_status,
)
_POOL = select(pool.c.id, pool.c.load_balancer_id, pool.c.name, pool.c.protocol, pool.c.operating_status)
_MEMBER = select(
    member.c.id,
    member.c.pool_id,
    member.c.name,
    member.c.ip_address,
    member.c.protocol_port,
    member.c.enabled,
    member.c.operating_status,
).join(pool, pool.c.id == member.c.pool_id)


def _since(table: Table) -> ColumnElement[bool]:
    since: BindParameter[datetime] = bindparam("since", type_=DateTime())
    return or_(table.c.updated_at >= since, table.c.created_at >= since)


_OWNERS = union(
    select(load_balancer.c.id.label("owner")).where(_since(load_balancer)),
    select(listener.c.load_balancer_id).where(_since(listener)),
    select(pool.c.load_balancer_id).where(_since(pool)),
    select(pool.c.load_balancer_id).join(member, member.c.pool_id == pool.c.id).where(_since(member)),
).subquery()
_CHANGED = (
    select(amphora.c.id)
    .join(_OWNERS, _OWNERS.c.owner == amphora.c.load_balancer_id)
    .where(amphora.c.status == str(AmphoraStatus.ALLOCATED))
)


class Reports(Session):
    """Two methods of the port."""

    def changed_under(self, since: int) -> Collection[str]:
        """See `octavia_core.ports.storage.Transaction.changed_under`."""
        at = naive_utc(since / 1_000_000)
        return {row.id for row in self.rows(_CHANGED, since=at)}

    def reported_on(self, amphora_ids: Collection[str]) -> Mapping[str, LoadBalancer | None]:
        """See `octavia_core.ports.storage.Transaction.reported_on`."""
        owners = {
            row.id: row.load_balancer_id if row.status == AmphoraStatus.ALLOCATED else None
            for ids in chunks(sorted(set(amphora_ids)))
            for row in self.rows(
                select(amphora.c.id, amphora.c.load_balancer_id, amphora.c.status).where(amphora.c.id.in_(ids))
            )
        }
        trees: dict[str, LoadBalancer] = {}
        for ids in chunks(sorted({owner for owner in owners.values() if owner})):
            trees |= self._trees(ids)
        return {id: trees.get(owner) if owner else None for id, owner in owners.items()}

    def _trees(self, ids: Sequence[str]) -> dict[str, LoadBalancer]:
        balancers = self.rows(_BALANCER.where(load_balancer.c.id.in_(ids)))
        listeners = _by("load_balancer_id", self.rows(_LISTENER.where(listener.c.load_balancer_id.in_(ids))))
        pools = _by("load_balancer_id", self.rows(_POOL.where(pool.c.load_balancer_id.in_(ids))))
        members = _by("pool_id", self.rows(_MEMBER.where(pool.c.load_balancer_id.in_(ids))))
        return {row.id: _tree(row, listeners[row.id], pools[row.id], members) for row in balancers}


def _by(name: str, rows: Iterable[Row[Any]]) -> Grouped:
    grouped: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        grouped[getattr(row, name)].append(row)
    return grouped


def _tree(row: Row[Any], listeners: Sequence[Row[Any]], pools: Sequence[Row[Any]], members: Grouped) -> LoadBalancer:
    return LoadBalancer(
        id=row.id,
        name=row.name,
        enabled=bool(row.enabled),
        topology=Topology(row.topology or Topology.SINGLE),
        provisioning_status=Provisioning(row.provisioning_status),
        operating_status=Operating(row.operating_status),
        listeners=tuple(_listener(each) for each in listeners),
        pools=tuple(_pool(each, members[each.id]) for each in pools),
    )


def _listener(row: Row[Any]) -> Listener:
    return Listener(
        id=row.id,
        name=row.name,
        protocol=ListenerProtocol(row.protocol),
        protocol_port=row.protocol_port,
        default_pool_id=row.default_pool_id,
        enabled=bool(row.enabled),
        provisioning_status=Provisioning(row.provisioning_status),
        operating_status=Operating(row.operating_status),
    )


def _pool(row: Row[Any], members: Sequence[Row[Any]]) -> Pool:
    return Pool(
        id=row.id,
        name=row.name,
        protocol=PoolProtocol(row.protocol),
        operating_status=Operating(row.operating_status),
        members=tuple(
            Member(
                id=each.id,
                name=each.name,
                address=each.ip_address,
                protocol_port=each.protocol_port,
                enabled=bool(each.enabled),
                operating_status=Operating(each.operating_status),
            )
            for each in members
        ),
    )
