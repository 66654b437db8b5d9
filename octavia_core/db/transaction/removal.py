"""Removing rows with what hangs below them, in the order that foreign keys and upstream's readers need.

Upstream's schema has no ON DELETE, so every child goes by its own statement. Tags have no foreign key at all and go
with the row they are about; listener_statistics stay, since upstream's totals count on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update

from octavia_core.db.clock import db_utcnow
from octavia_core.db.tables import TABLE_OF
from octavia_core.db.tables.amphora import amphora, amphora_health, amphora_member_port
from octavia_core.db.tables.balancer import additional_vip, load_balancer, vip, vip_security_group, vrrp_group
from octavia_core.db.tables.listener import l7policy, l7rule, listener, listener_cidr, sni
from octavia_core.db.tables.own import oc_amphora, oc_liveness, oc_mark, oc_revision
from octavia_core.db.tables.pool import health_monitor, member, pool, session_persistence
from octavia_core.db.tables.tenancy import tags
from octavia_core.db.transaction.positions import renumber
from octavia_core.db.transaction.session import chunks
from octavia_core.db.transaction.tree import TreeStoring
from octavia_core.domain.vocabulary import Kind, Operating, Provisioning

__all__ = ["Removal"]


class Removal(TreeStoring):
    """The end of rows."""

    def delete(self, kind: Kind, id: str) -> None:
        """Remove a row with all below it; absent is success."""
        if kind is Kind.AMPHORA:
            self._remove_amphora(id)
        elif kind is Kind.LOAD_BALANCER:
            self._remove_load_balancer(id)
        else:
            self.remove(self.owner(kind, id), {kind: [id]})

    def remove(self, load_balancer_id: str | None, doomed: dict[Kind, list[str]]) -> None:
        """Remove children of one load balancer, several kinds at once, and lower its project's counters."""
        gone: Counter[Kind] = Counter()
        for kind in (Kind.L7RULE, Kind.L7POLICY, Kind.MEMBER, Kind.HEALTH_MONITOR, Kind.LISTENER, Kind.POOL):
            for ids in chunks(doomed.get(kind, ())):
                self._remove(kind, ids, gone)
        self.count_down(load_balancer_id, gone)

    def children_of(self, load_balancer_id: str) -> dict[Kind, list[str]]:
        """The listeners and pools of a load balancer: removing them removes everything below it."""
        return {
            kind: [row.id for row in self.rows(select(table.c.id).where(table.c.load_balancer_id == load_balancer_id))]
            for kind, table in ((Kind.LISTENER, listener), (Kind.POOL, pool))
        }

    def _remove(self, kind: Kind, ids: Collection[str], gone: Counter[Kind]) -> None:
        match kind:
            case Kind.MEMBER | Kind.L7RULE:
                self._remove_rows(kind, TABLE_OF[kind].c.id.in_(ids), gone)
            case Kind.HEALTH_MONITOR:
                self._remove_monitors(health_monitor.c.id.in_(ids), gone)
            case Kind.L7POLICY:
                query = select(l7policy.c.listener_id).where(l7policy.c.id.in_(ids)).distinct()
                listeners = [row.listener_id for row in self.rows(query)]
                self._remove_policies(l7policy.c.id.in_(ids), gone)
                for each in listeners:
                    renumber(self, each)
            case Kind.LISTENER:
                self._remove_policies(l7policy.c.listener_id.in_(ids), gone)
                self.write(delete(sni).where(sni.c.listener_id.in_(ids)))
                self.write(delete(listener_cidr).where(listener_cidr.c.listener_id.in_(ids)))
                self._remove_rows(Kind.LISTENER, listener.c.id.in_(ids), gone)
            case Kind.POOL:
                self._remove_pools(ids, gone)

    def _remove_rows(self, kind: Kind, which: ColumnElement[bool], gone: Counter[Kind]) -> None:
        table = TABLE_OF[kind]
        self.write(delete(tags).where(tags.c.resource_id.in_(select(table.c.id).where(which))))
        gone[kind] += self.write(delete(table).where(which))

    def _remove_policies(self, which: ColumnElement[bool], gone: Counter[Kind]) -> None:
        self._remove_rows(Kind.L7RULE, l7rule.c.l7policy_id.in_(select(l7policy.c.id).where(which)), gone)
        self._remove_rows(Kind.L7POLICY, which, gone)

    def _remove_monitors(self, which: ColumnElement[bool], gone: Counter[Kind]) -> None:
        unwatched = member.c.pool_id.in_(select(health_monitor.c.pool_id).where(which))
        blind = str(Operating.NO_MONITOR)
        self.write(
            update(member)
            .where(unwatched, member.c.operating_status != blind)
            .values(operating_status=blind, updated_at=db_utcnow())
        )
        self._remove_rows(Kind.HEALTH_MONITOR, which, gone)

    def _remove_pools(self, ids: Collection[str], gone: Counter[Kind]) -> None:
        for column in (listener.c.default_pool_id, l7policy.c.redirect_pool_id):
            changes: dict[Any, Any] = {column: None, column.table.c.updated_at: db_utcnow()}
            self.write(update(column.table).where(column.in_(ids)).values(changes))
        self._remove_rows(Kind.MEMBER, member.c.pool_id.in_(ids), gone)
        self._remove_rows(Kind.HEALTH_MONITOR, health_monitor.c.pool_id.in_(ids), gone)
        self.write(delete(session_persistence).where(session_persistence.c.pool_id.in_(ids)))
        self._remove_rows(Kind.POOL, pool.c.id.in_(ids), gone)

    def _remove_load_balancer(self, id: str) -> None:
        status = self.value(select(load_balancer.c.provisioning_status).where(load_balancer.c.id == id))
        if status is None:
            return
        self.remove(id, self.children_of(id))
        if status != Provisioning.DELETED:  # counted down when it became DELETED
            self.count_down(id, {Kind.LOAD_BALANCER: 1})
        self.write(
            update(amphora)
            .where(amphora.c.load_balancer_id == id)
            .values(load_balancer_id=None, updated_at=db_utcnow())
        )
        for table in (additional_vip, vrrp_group, vip_security_group, vip, oc_revision):
            self.write(delete(table).where(table.c.load_balancer_id == id))
        self._remove_rows(Kind.LOAD_BALANCER, load_balancer.c.id == id, Counter())

    def _remove_amphora(self, id: str) -> None:
        for table in (amphora_member_port, oc_amphora, oc_liveness, oc_mark, amphora_health):
            self.write(delete(table).where(table.c.amphora_id == id))
        self.write(delete(amphora).where(amphora.c.id == id))
