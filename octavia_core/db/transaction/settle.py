"""Statuses: moved by the tables of `octavia_core.lifecycle` alone, each by a compare-and-set."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Table,
    Update,
    bindparam,
    case,
    exists,
    literal,
    select,
    union_all,
    update,
)

from octavia_core.db.clock import db_now, db_utcnow
from octavia_core.db.prepared import Prepared
from octavia_core.db.tables import TABLE_OF
from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.tables.listener import l7policy, l7rule, listener
from octavia_core.db.tables.own import oc_liveness
from octavia_core.db.tables.pool import health_monitor, member, pool
from octavia_core.db.transaction.amphorae import amphora_changes
from octavia_core.db.transaction.change import Change
from octavia_core.db.transaction.session import chunks
from octavia_core.domain.operation import Subject
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Operating, Provisioning
from octavia_core.errors import NotFound, TransientError
from octavia_core.lifecycle import amphora as amphora_life
from octavia_core.lifecycle import provisioning
from octavia_core.lifecycle.provisioning import Event

__all__ = ["Settle"]

_CHILDREN = (Kind.L7RULE, Kind.L7POLICY, Kind.MEMBER, Kind.HEALTH_MONITOR, Kind.LISTENER, Kind.POOL)
_ROUNDS = 100
"""Each further round means that somebody else moved the same row meanwhile."""

_SHOWN = frozenset({Kind.HEALTH_MONITOR, Kind.L7POLICY, Kind.L7RULE})
"""No heartbeat speaks about these, so they are ONLINE when they are in place and enabled."""


class Settle(Change):
    """Statuses of load balancers, children and amphorae."""

    def settle(self, kind: Kind, id: str, event: Event) -> Provisioning:
        """Move one provisioning status; see the port."""
        table = TABLE_OF[kind]
        for _ in range(_ROUNDS):
            found = self.value(_status(table, "provisioning_status"), id=id)
            if found is None:
                raise NotFound(kind.words, id)
            status = Provisioning(found)
            target = provisioning.after(kind, status, event, id=id)
            if target is Provisioning.DELETED and kind is not Kind.LOAD_BALANCER:
                self.delete(kind, id)
                return target
            if self._move(kind, [id], status, target):
                if target is Provisioning.DELETED:
                    self.count_down(id, {Kind.LOAD_BALANCER: 1})
                return target
        raise TransientError(f"{kind.words} {id}: others move its status all the time")

    def provisioning(self, subjects: Collection[Subject]) -> Mapping[Subject, Provisioning]:
        """The statuses of several rows, in one query for each few hundred of them."""
        by_kind: dict[Kind, list[str]] = {}
        for subject in subjects:
            by_kind.setdefault(subject.kind, []).append(subject.id)
        queries = [
            select(literal(str(kind)).label("kind"), TABLE_OF[kind].c.id, TABLE_OF[kind].c.provisioning_status).where(
                TABLE_OF[kind].c.id.in_(some)
            )
            for kind, ids in by_kind.items()
            for some in chunks(sorted(ids))
        ]
        found = self.rows(union_all(*queries)) if queries else []
        return {Subject(Kind(row.kind), row.id): Provisioning(row.provisioning_status) for row in found}

    def _move(self, kind: Kind, ids: Collection[str], status: Provisioning, target: Provisioning) -> int:
        if len(ids) == 1:
            return self.write(_move_one(kind, status, target), {"b_id": next(iter(ids))})
        table = TABLE_OF[kind]
        moved = 0
        for some in chunks(ids):
            moved += self.write(_moving(kind, status, target).where(table.c.id.in_(some)))
        return moved

    def settle_tree(self, load_balancer_id: str, *, failed: Collection[Subject] = (), succeeded: bool) -> None:
        """End a wish: children first, the load balancer last; see the port.

        A child that is among `failed` although the wish succeeded becomes ERROR (a listener whose certificate is
        gone). Which status follows which is decided by `lifecycle.provisioning.ending` and its tables.
        """
        root, pending = self._pending(load_balancer_id)
        if root is None:
            raise NotFound(Kind.LOAD_BALANCER.words, load_balancer_id)
        status = root
        blamed = set(failed)
        final = (
            self._ended(Kind.LOAD_BALANCER, load_balancer_id, status, blamed, succeeded) if status.pending else status
        )
        doomed: dict[Kind, list[str]] = {}
        moves: dict[tuple[Kind, Provisioning, Provisioning], list[str]] = {}
        for kind, id, child in pending:
            target = self._ended(kind, id, child, blamed, succeeded)
            if target is Provisioning.DELETED:
                doomed.setdefault(kind, []).append(id)
            else:
                moves.setdefault((kind, child, target), []).append(id)
        if final is Provisioning.DELETED:
            doomed, moves = self.children_of(load_balancer_id), {}
        self.remove(load_balancer_id, doomed)
        for (kind, child, target), ids in moves.items():
            self._move(kind, ids, child, target)
        if final is not status:
            self._move(Kind.LOAD_BALANCER, [load_balancer_id], status, final)
        if final is Provisioning.DELETED and status.pending:
            self.count_down(load_balancer_id, {Kind.LOAD_BALANCER: 1})

    @staticmethod
    def _ended(kind: Kind, id: str, status: Provisioning, blamed: Collection[Subject], succeeded: bool) -> Provisioning:
        asked_for = Subject(kind, id) in blamed
        event = provisioning.ending(status, succeeded=succeeded and not asked_for, asked_for=asked_for)
        return provisioning.after(kind, status, event, id=id)

    def _pending(self, load_balancer_id: str) -> tuple[Provisioning | None, list[tuple[Kind, str, Provisioning]]]:
        """The status of the load balancer (None: there is none), and every pending child, in one query when it has any."""
        row = self.row(_ROOT, lb=load_balancer_id)
        if row is None:
            return None, []
        root = Provisioning(row.provisioning_status)
        found = self.rows(_pending_query(), lb=load_balancer_id) if row.has_listeners or row.has_pools else []
        return root, [(Kind(each.kind), each.id, Provisioning(each.provisioning_status)) for each in found]

    def settle_amphora(self, id: str, event: amphora_life.AmphoraEvent, **values: Any) -> AmphoraStatus:
        """Move an amphora's status; see the port. BOOT starts the time within which it must be heard."""
        changes = amphora_changes(id, values)
        targets = {(status, after) for (status, listed), after in amphora_life.TRANSITIONS.items() if listed is event}
        if len({after for _, after in targets}) == 1:  # wherever it comes from: one statement decides and moves
            ((_, target), *_) = targets
            allowed = [str(status) for status, _ in targets]
            if self._move_amphora(id, allowed, target, event, changes):
                return target
        for _ in range(_ROUNDS):
            found = self.value(_status(amphora, "status"), id=id)
            if found is None:
                raise NotFound(Kind.AMPHORA.words, id)
            status = AmphoraStatus(found)
            target = amphora_life.after(status, event, id=id)
            if self._move_amphora(id, [str(status)], target, event, changes):
                return target
        raise TransientError(f"amphora {id}: others move its status all the time")

    def _move_amphora(
        self,
        id: str,
        sources: Collection[str],
        target: AmphoraStatus,
        event: amphora_life.AmphoraEvent,
        changes: Mapping[str, Any],
    ) -> bool:
        given = {"b_id": id, "b_status": str(target), **{f"b_{name}": value for name, value in changes.items()}}
        if not self.write(_move_amphora(tuple(changes), tuple(sorted(sources))), given):
            return False
        if event is amphora_life.AmphoraEvent.BOOT:
            self.write(_SINCE_NOW, {"b_id": id})
        return True

    def set_operating(self, statuses: Mapping[tuple[Kind, str], Operating]) -> int:
        """Write operating statuses that differ from the rows; how many did."""
        groups: dict[tuple[Kind, Operating], list[str]] = {}
        for (kind, id), status in statuses.items():
            groups.setdefault((kind, status), []).append(id)
        changed = 0
        for (kind, status), ids in sorted(groups.items(), key=lambda item: (_DEPTH[item[0][0]], str(item[0][1]))):
            table = TABLE_OF[kind]
            for some in chunks(sorted(ids)):
                which = (table.c.id.in_(some), table.c.operating_status != str(status))
                changed += self.write(
                    update(table).where(*which).values(operating_status=str(status), updated_at=db_utcnow())
                )
        return changed


def _moving(kind: Kind, status: Provisioning, target: Provisioning) -> Update:
    """From one status to another, and what is seen of it at once."""
    table = TABLE_OF[kind]
    changes: dict[str, Any] = {"provisioning_status": str(target), "updated_at": db_utcnow()}
    if target is Provisioning.ACTIVE and kind in _SHOWN:
        changes["operating_status"] = case((table.c.enabled, str(Operating.ONLINE)), else_=str(Operating.OFFLINE))
    return update(table).where(table.c.provisioning_status == str(status)).values(changes)


@functools.cache
def _move_one(kind: Kind, status: Provisioning, target: Provisioning) -> Prepared:
    return Prepared(_moving(kind, status, target).where(TABLE_OF[kind].c.id == bindparam("b_id")))


@functools.cache
def _status(table: Table, column: str) -> Prepared:
    return Prepared(select(table.c[column]).where(table.c.id == bindparam("id")))


@functools.cache
def _move_amphora(columns: tuple[str, ...], sources: tuple[str, ...]) -> Prepared:
    """An amphora to `b_status` from one of these, with new values of these columns."""
    of = amphora.c
    changes: dict[str, Any] = {name: bindparam(f"b_{name}", type_=of[name].type) for name in columns}
    changes |= {"status": bindparam("b_status"), "updated_at": db_utcnow()}
    return Prepared(update(amphora).where(of.id == bindparam("b_id"), of.status.in_(sources)).values(changes))


_SINCE_NOW = Prepared(update(oc_liveness).where(oc_liveness.c.amphora_id == bindparam("b_id")).values(since=db_now()))


@functools.cache
def _pending_query() -> Prepared:
    """What is pending below the load balancer of parameter `lb`; building it takes longer than running it."""
    root: BindParameter[str] = bindparam("lb")
    listeners = select(listener.c.id).where(listener.c.load_balancer_id == root)
    pools = select(pool.c.id).where(pool.c.load_balancer_id == root)
    policies = select(l7policy.c.id).where(l7policy.c.listener_id.in_(listeners))
    below: dict[Kind, ColumnElement[bool]] = {
        Kind.L7RULE: l7rule.c.l7policy_id.in_(policies),
        Kind.L7POLICY: l7policy.c.listener_id.in_(listeners),
        Kind.MEMBER: member.c.pool_id.in_(pools),
        Kind.HEALTH_MONITOR: health_monitor.c.pool_id.in_(pools),
        Kind.LISTENER: listener.c.load_balancer_id == root,
        Kind.POOL: pool.c.load_balancer_id == root,
    }
    pending = [str(status) for status in Provisioning if status.pending]

    def of(kind: Kind, *which: ColumnElement[bool]) -> Any:
        table = TABLE_OF[kind]
        return select(literal(str(kind)).label("kind"), table.c.id, table.c.provisioning_status).where(*which)

    children = [of(kind, TABLE_OF[kind].c.provisioning_status.in_(pending), below[kind]) for kind in _CHILDREN]
    return Prepared(union_all(*children))


def _any(table: Table) -> ColumnElement[int]:
    return case((exists().where(table.c.load_balancer_id == load_balancer.c.id), 1), else_=0)


_ROOT = Prepared(
    select(
        load_balancer.c.provisioning_status, _any(listener).label("has_listeners"), _any(pool).label("has_pools")
    ).where(load_balancer.c.id == bindparam("lb"))
)
"""Its status, and whether there can be anything below it."""

_DEPTH: Mapping[Kind, int] = {kind: place for place, kind in enumerate((*_CHILDREN, Kind.LOAD_BALANCER, Kind.AMPHORA))}
"""Children first, the load balancer last: readers see no parent that is better than its children."""
