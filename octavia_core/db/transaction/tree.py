"""The load balancer tree: read in a fixed number of queries, found by name, stored whole."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from sqlalchemy import BindParameter, ColumnElement, Select, Table, bindparam, case, exists, or_, select

from octavia_core.db.clock import db_utcnow
from octavia_core.db.prepared import Prepared
from octavia_core.db.tables import TABLE_OF
from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import additional_vip, load_balancer, vip, vip_security_group
from octavia_core.db.tables.listener import l7policy, l7rule, listener, listener_cidr, sni
from octavia_core.db.tables.pool import health_monitor, member, pool, session_persistence
from octavia_core.db.transaction import rows
from octavia_core.db.transaction.positions import place
from octavia_core.db.transaction.quotas import Quotas
from octavia_core.db.transaction.session import Session, fit
from octavia_core.domain.tree import (
    HealthMonitor,
    L7Policy,
    L7Rule,
    Listener,
    LoadBalancer,
    Member,
    Node,
    Pool,
    Vip,
)
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating, Provisioning
from octavia_core.errors import BadRequest, NotFound
from octavia_core.ports.storage import Summary

__all__ = ["TreeReading", "TreeStoring", "require", "sni_rows"]

Rows = Sequence[Mapping[str, Any]]


def _selected(kind: Kind) -> list[Any]:
    table = TABLE_OF[kind]
    return [table.c[column].label(name) for name, column in rows.COLUMNS[kind].items()]


_LB: BindParameter[str] = bindparam("lb")
_OF_LB = listener.c.load_balancer_id == _LB

_OF_POOLS = pool.c.load_balancer_id == _LB
_THERE: Mapping[str, tuple[ColumnElement[bool], ...]] = {
    "groups": (vip_security_group.c.load_balancer_id == _LB,),
    "additional": (additional_vip.c.load_balancer_id == _LB,),
    "listeners": (_OF_LB,),
    "sni": (sni.c.listener_id == listener.c.id, _OF_LB),
    "cidrs": (listener_cidr.c.listener_id == listener.c.id, _OF_LB),
    "policies": (l7policy.c.listener_id == listener.c.id, _OF_LB),
    "pools": (_OF_POOLS,),
    "persistence": (session_persistence.c.pool_id == pool.c.id, _OF_POOLS),
    "monitors": (health_monitor.c.pool_id == pool.c.id, _OF_POOLS),
    "members": (member.c.pool_id == pool.c.id, _OF_POOLS),
}
"""What is asked for only where there is some of it."""

_SELECTS: Mapping[str, Select[Any]] = {
    "balancer": select(
        *_selected(Kind.LOAD_BALANCER),
        vip.c.load_balancer_id.label("has_vip"),
        *(vip.c[name].label(f"vip_{name}") for name in rows.VIP_COLUMNS),
        *(
            # as a number: MariaDB 10.11 takes EXISTS among the arguments of a function for true
            case((exists().where(*which), 1), else_=0).label(f"has_{name}")
            for name, which in _THERE.items()
        ),
        # so that who asks for spares next in this transaction needs no query of his own where there are none
        case((exists().where(amphora.c.status == str(AmphoraStatus.READY)), 1), else_=0).label("has_spares"),
    )
    .outerjoin(vip, vip.c.load_balancer_id == load_balancer.c.id)
    .where(load_balancer.c.id == _LB),
    "groups": select(vip_security_group.c.sg_id)
    .where(vip_security_group.c.load_balancer_id == _LB)
    .order_by(vip_security_group.c.sg_id),
    "additional": select(*(c for c in additional_vip.c if c.name != "load_balancer_id"))
    .where(additional_vip.c.load_balancer_id == _LB)
    .order_by(additional_vip.c.subnet_id),
    # every new listener of a load balancer has a greater peer port, upstream's too
    "listeners": select(*_selected(Kind.LISTENER))
    .where(_OF_LB)
    .order_by(listener.c.created_at, listener.c.peer_port, listener.c.id),
    "sni": select(sni.c.listener_id, sni.c.tls_container_id)
    .join(listener, listener.c.id == sni.c.listener_id)
    .where(_OF_LB)
    .order_by(sni.c.position, sni.c.tls_container_id),
    "cidrs": select(listener_cidr.c.listener_id, listener_cidr.c.cidr)
    .join(listener, listener.c.id == listener_cidr.c.listener_id)
    .where(_OF_LB)
    .order_by(listener_cidr.c.cidr),
    "policies": select(*_selected(Kind.L7POLICY))
    .join(listener, listener.c.id == l7policy.c.listener_id)
    .where(_OF_LB)
    .order_by(l7policy.c.position, l7policy.c.id),
    "rules": select(*_selected(Kind.L7RULE))
    .join(l7policy, l7policy.c.id == l7rule.c.l7policy_id)
    .join(listener, listener.c.id == l7policy.c.listener_id)
    .where(_OF_LB)
    .order_by(l7rule.c.created_at, l7rule.c.id),
    "pools": select(*_selected(Kind.POOL)).where(pool.c.load_balancer_id == _LB).order_by(pool.c.created_at, pool.c.id),
    "persistence": select(session_persistence)
    .join(pool, pool.c.id == session_persistence.c.pool_id)
    .where(pool.c.load_balancer_id == _LB),
    "monitors": select(*_selected(Kind.HEALTH_MONITOR))
    .join(pool, pool.c.id == health_monitor.c.pool_id)
    .where(pool.c.load_balancer_id == _LB),
    "members": select(*_selected(Kind.MEMBER))
    .join(pool, pool.c.id == member.c.pool_id)
    .where(pool.c.load_balancer_id == _LB)
    .order_by(member.c.created_at, member.c.id),
}
_QUERIES: Mapping[str, Prepared] = {name: Prepared(query) for name, query in _SELECTS.items()}
"""All of one tree, whatever its size. Children come by creation, then id; policies by position."""


@functools.cache
def _owner_query(kind: Kind) -> Prepared:
    """The load balancer of one row, by parameter `id`."""
    return Prepared(_owner_select(kind))


def _owner_select(kind: Kind) -> Select[Any]:
    wanted = TABLE_OF[kind].c.id == bindparam("id")
    match kind:
        case Kind.LOAD_BALANCER:
            return select(load_balancer.c.id).where(wanted)
        case Kind.AMPHORA:
            return select(amphora.c.load_balancer_id).where(wanted)
        case Kind.LISTENER | Kind.POOL:
            return select(TABLE_OF[kind].c.load_balancer_id).where(wanted)
        case Kind.MEMBER:
            return select(pool.c.load_balancer_id).join(member, member.c.pool_id == pool.c.id).where(wanted)
        case Kind.HEALTH_MONITOR:
            joined = select(pool.c.load_balancer_id).join(health_monitor, health_monitor.c.pool_id == pool.c.id)
            return joined.where(wanted)
        case Kind.L7POLICY:
            joined = select(listener.c.load_balancer_id).join(l7policy, l7policy.c.listener_id == listener.c.id)
            return joined.where(wanted)
    return (
        select(listener.c.load_balancer_id)
        .join(l7policy, l7policy.c.listener_id == listener.c.id)
        .join(l7rule, l7rule.c.l7policy_id == l7policy.c.id)
        .where(wanted)
    )


class TreeReading(Session):
    """What can be asked of the tree."""

    no_spares = False
    """True once a tree was read while no amphora was READY."""

    def tree(self, load_balancer_id: str) -> LoadBalancer | None:
        """The whole load balancer, or None."""
        found = self.row(_QUERIES["balancer"], lb=load_balancer_id)
        if found is None:
            return None
        first = dict(found._mapping)
        self.no_spares = not first.pop("has_spares")
        # what is not there is not asked for: most load balancers have but a part of all this
        has = {name: first.pop(f"has_{name}") for name in ("vip", *_THERE)}

        def mappings(query: str) -> Rows:
            some = has["policies" if query == "rules" else query]
            return [row._asdict() for row in self.rows(_QUERIES[query], lb=load_balancer_id)] if some else ()

        address = {name: first.pop(f"vip_{name}") for name in rows.VIP_COLUMNS}
        groups = tuple(row["sg_id"] for row in mappings("groups"))
        return rows.load_balancer(
            first,
            vip=rows.vip(address, groups) if has["vip"] is not None else Vip(sg_ids=groups),
            additional_vips=tuple(rows.additional_vip(row) for row in mappings("additional")),
            listeners=_listeners(mappings) if has["listeners"] else (),
            pools=self._pools(load_balancer_id, mappings, members=has["members"]) if has["pools"] else (),
        )

    def _pools(self, load_balancer_id: str, mappings: Callable[[str], Rows], *, members: bool) -> tuple[Pool, ...]:
        kept = {
            row["pool_id"]: rows.session_persistence({k: v for k, v in row.items() if k != "pool_id"})
            for row in mappings("persistence")
        }
        monitors = {row["pool_id"]: rows.health_monitor(row) for row in mappings("monitors")}
        of_pool: defaultdict[str, list[Member]] = defaultdict(list)
        for found in self.rows(_QUERIES["members"], lb=load_balancer_id) if members else ():
            one = self._wire.members.of(found, _member)
            of_pool[one.pool_id].append(one)
        return tuple(
            rows.pool(
                row,
                members=tuple(of_pool[row["id"]]),
                health_monitor=monitors.get(row["id"]),
                session_persistence=kept.get(row["id"]),
            )
            for row in mappings("pools")
        )

    def owner(self, kind: Kind, id: str) -> str | None:
        """The load balancer that a row belongs to, or None."""
        found = self.value(_owner_query(kind), id=id)
        return None if found is None else str(found)

    def find(self, kind: Kind, name_or_id: str) -> tuple[str, ...]:
        """Ids of rows with that id or name, by creation; DELETED load balancers and amphorae are left out."""
        table = TABLE_OF[kind]
        named = or_(table.c.id == name_or_id, table.c.name == name_or_id) if "name" in table.c else None
        query = select(table.c.id).where(table.c.id == name_or_id if named is None else named)
        if kind is Kind.LOAD_BALANCER:
            query = query.where(table.c.provisioning_status != str(Provisioning.DELETED))
        elif kind is Kind.AMPHORA:
            query = query.where(table.c.status != str(AmphoraStatus.DELETED))
        return tuple(row.id for row in self.rows(query.order_by(table.c.created_at, table.c.id)))

    def load_balancers(self) -> Sequence[Summary]:
        """All that are not DELETED, by creation."""
        of = load_balancer.c
        query = (
            select(of.id, of.name, of.project_id, of.provisioning_status, of.operating_status, of.provider)
            .add_columns(vip.c.ip_address)
            .outerjoin(vip, vip.c.load_balancer_id == of.id)
            .where(of.provisioning_status != str(Provisioning.DELETED))
            .order_by(of.created_at, of.id)
        )
        return [
            Summary(
                id=row.id,
                name=row.name,
                project_id=row.project_id,
                vip_address=row.ip_address,
                provisioning_status=Provisioning(row.provisioning_status),
                operating_status=Operating(row.operating_status),
                provider=row.provider,
            )
            for row in self.rows(query)
        ]


def _member(row: Any) -> Member:
    return rows.member(row._asdict())


def _listeners(mappings: Callable[[str], Rows]) -> tuple[Listener, ...]:
    snis = _by(mappings("sni"), "listener_id", lambda row: row["tls_container_id"])
    cidrs = _by(mappings("cidrs"), "listener_id", lambda row: row["cidr"])
    rules = _by(mappings("rules"), "l7policy_id", rows.l7rule)
    policies = _by(
        mappings("policies"),
        "listener_id",
        lambda row: rows.l7policy(row, rules=tuple(rules[row["id"]])),
    )
    return tuple(
        rows.listener(
            row,
            sni_container_ids=tuple(snis[row["id"]]),
            allowed_cidrs=tuple(cidrs[row["id"]]),
            l7policies=tuple(policies[row["id"]]),
        )
        for row in mappings("listeners")
    )


def _by(found: Rows, key: str, value: Callable[[Any], Any]) -> defaultdict[str, list[Any]]:
    grouped: defaultdict[str, list[Any]] = defaultdict(list)
    for row in found:
        grouped[row[key]].append(value(row))
    return grouped


class TreeStoring(TreeReading, Quotas):
    """Storing values with everything below them."""

    def insert_node(self, node: LoadBalancer | Node) -> None:
        """Store it; the same value twice is success.

        Raises:
            BadRequest: a different row has that id, or what it belongs to is not there.
        """
        kind = rows.KIND_OF[type(node)]
        table = TABLE_OF[kind]
        bundle = _Bundle()
        bundle.add(node)
        dated = sum(len(several) for stored_in, several in bundle.rows.items() if "created_at" in stored_in.c)
        # one moment for all rows, which are read back in the order of it
        now = db_utcnow() if dated < 2 else self.value(_UTCNOW)
        if not self.add_row(table, bundle.rows[table][0], created_at=now):
            stored = self.row(select(*_selected(kind)).where(table.c.id == node.id))
            if stored is None or not _same(node, rows.row_of(node), dict(stored._mapping), kind):
                raise BadRequest(f"{kind.words} {node.id} exists already, with other values")
            return
        for stored_in, several in bundle.rows.items():
            born = {"created_at": now} if "created_at" in stored_in.c else {}
            if several and stored_in is not table:
                self.add_rows(stored_in, several, **born)
        if isinstance(node, L7Policy):
            place(self, node.listener_id, node.id, node.position)
        self.count_up(node.id if isinstance(node, LoadBalancer) else self.owner(kind, node.id), bundle.counts())


_UTCNOW = Prepared(select(db_utcnow().label("now")))


def _same(node: Any, row: Mapping[str, Any], stored: Mapping[str, Any], kind: Kind) -> bool:
    """Equal in everything that was asked; statuses and places may have moved on."""
    columns = rows.COLUMNS[kind]
    moving = {"provisioning_status", "operating_status", "position"}
    wanted = fit(TABLE_OF[kind], row)
    for name, column in columns.items():
        if name in moving:
            continue
        found = stored[name]
        if name == "insert_headers":
            found, expected = found or None, wanted[column]
        else:
            expected = wanted[column]
        if name == "http_version" and found is not None:
            found = round(found, 3)
        if found != expected:
            return False
    return True


class _Bundle:
    """The rows of one value and of all below it, by table, referred-to tables first."""

    def __init__(self) -> None:
        order: tuple[Table, ...] = (
            load_balancer,
            vip,
            vip_security_group,
            additional_vip,
            pool,
            session_persistence,
            health_monitor,
            member,
            listener,
            sni,
            listener_cidr,
            l7policy,
            l7rule,
        )
        self.rows: dict[Table, list[dict[str, Any]]] = {table: [] for table in order}

    def counts(self) -> dict[Kind, int]:
        """How many rows of each kind that quotas count."""
        return {kind: len(self.rows.get(TABLE_OF[kind], ())) for kind in Kind if kind is not Kind.AMPHORA}

    def add(self, node: LoadBalancer | Node) -> None:
        """Take up a value whose parent ids are filled in, or a load balancer, which fills them in below it."""
        table = TABLE_OF[rows.KIND_OF[type(node)]]
        self.rows[table].append(rows.row_of(node))
        match node:
            case LoadBalancer():
                self._add_vips(node)
                project = node.project_id
                for each in node.pools:
                    self.add(attrs.evolve(each, load_balancer_id=node.id, project_id=each.project_id or project))
                for each_listener in node.listeners:
                    self.add(
                        attrs.evolve(
                            each_listener, load_balancer_id=node.id, project_id=each_listener.project_id or project
                        )
                    )
            case Pool():
                self._add_pool(node)
            case Listener():
                self._add_listener(node)
            case L7Policy():
                for rule in node.rules:
                    self.add(attrs.evolve(rule, l7policy_id=node.id, project_id=rule.project_id or node.project_id))
            case Member() | HealthMonitor() | L7Rule():
                pass

    def _add_vips(self, node: LoadBalancer) -> None:
        self.rows[vip].append(rows.vip_row(node.id, node.vip))
        self.rows[vip_security_group].extend(
            {"load_balancer_id": node.id, "sg_id": group} for group in dict.fromkeys(node.vip.sg_ids)
        )
        self.rows[additional_vip].extend(rows.additional_vip_rows(node.id, node.additional_vips))

    def _add_pool(self, node: Pool) -> None:
        if node.session_persistence is not None:
            self.rows[session_persistence].append(rows.persistence_row(node.id, node.session_persistence))
        if node.health_monitor is not None:
            project = node.health_monitor.project_id or node.project_id
            self.add(attrs.evolve(node.health_monitor, pool_id=node.id, project_id=project))
        for each in node.members:
            self.add(attrs.evolve(each, pool_id=node.id, project_id=each.project_id or node.project_id))

    def _add_listener(self, node: Listener) -> None:
        self.rows[sni].extend(sni_rows(node.id, node.sni_container_ids))
        self.rows[listener_cidr].extend(
            {"listener_id": node.id, "cidr": cidr} for cidr in dict.fromkeys(node.allowed_cidrs)
        )
        for policy in node.l7policies:
            self.add(attrs.evolve(policy, listener_id=node.id, project_id=policy.project_id or node.project_id))


def sni_rows(listener_id: str, refs: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of upstream's sni table, in the order given, without repeats."""
    return [
        {"listener_id": listener_id, "tls_container_id": ref, "position": place}
        for place, ref in enumerate(dict.fromkeys(refs))
    ]


def require(found: Any, kind: Kind, id: str) -> Any:
    """What was found, or NotFound."""
    if found is None:
        raise NotFound(kind.words, id)
    return found
