"""Changing attributes of rows: domain names in, columns and rows of companion tables out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, delete, select, update

from octavia_core.db.clock import db_utcnow
from octavia_core.db.tables import TABLE_OF
from octavia_core.db.tables.balancer import additional_vip, load_balancer, vip, vip_security_group
from octavia_core.db.tables.listener import l7policy, listener_cidr, sni
from octavia_core.db.tables.pool import session_persistence
from octavia_core.db.transaction import rows
from octavia_core.db.transaction.positions import place
from octavia_core.db.transaction.removal import Removal
from octavia_core.db.transaction.session import fit
from octavia_core.db.transaction.tree import sni_rows
from octavia_core.domain.tree import AdditionalVip, SessionPersistence, Vip
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import BadRequest, NotFound

__all__ = ["Change"]

_FIXED = frozenset({"id", "provisioning_status", "operating_status"})
_COMPANIONS: Mapping[Kind, frozenset[str]] = {
    Kind.LOAD_BALANCER: frozenset({"vip", "additional_vips"}),
    Kind.LISTENER: frozenset({"sni_container_ids", "allowed_cidrs"}),
    Kind.POOL: frozenset({"session_persistence"}),
}


class Change(Removal):
    """New values for what is there."""

    def change(self, kind: Kind, id: str, values: Mapping[str, Any]) -> None:
        """Set attributes and `updated_at`.

        Raises:
            BadRequest: an attribute that the kind does not have, or that is not set this way.
            NotFound: there is no such row.
        """
        columns = rows.COLUMNS.get(kind, {})
        companions = _COMPANIONS.get(kind, frozenset())
        unknown = [name for name in values if name in _FIXED or (name not in columns and name not in companions)]
        if unknown:
            raise BadRequest(f"{kind.words} {id}: {', '.join(sorted(unknown))} cannot be set")
        table = TABLE_OF[kind]
        own = {
            columns[name]: rows.column_value(name, value)
            for name, value in values.items()
            if name in columns and name != "position"
        }
        statement = update(table).where(table.c.id == id).values({**fit(table, own), "updated_at": db_utcnow()})
        if self.write(statement) == 0:
            raise NotFound(kind.words, id)
        if kind is Kind.L7POLICY and "position" in values:
            listener_id = self.value(select(l7policy.c.listener_id).where(l7policy.c.id == id))
            place(self, listener_id, id, values["position"])
        for name in companions & set(values):
            self._change_companion(name, id, values[name])

    def set_vip(self, load_balancer_id: str, vip: Vip, additional_vips: Sequence[AdditionalVip] = ()) -> None:
        """Store what the network gave; additional VIPs stay when none are given."""
        if self.value(select(load_balancer.c.id).where(load_balancer.c.id == load_balancer_id)) is None:
            raise NotFound(Kind.LOAD_BALANCER.words, load_balancer_id)
        self._store_vip(load_balancer_id, vip)
        if additional_vips:
            self._replace_additional(load_balancer_id, additional_vips)

    def _change_companion(self, name: str, id: str, value: Any) -> None:
        match name:
            case "vip":
                self._store_vip(id, value)
            case "additional_vips":
                self._replace_additional(id, value)
            case "sni_container_ids":
                self._replace(sni, id, sni_rows(id, value))
            case "allowed_cidrs":
                self._replace(listener_cidr, id, [{"listener_id": id, "cidr": cidr} for cidr in dict.fromkeys(value)])
            case "session_persistence":
                self._store_persistence(id, value)

    def _replace(self, table: Table, listener_id: str, wanted: list[dict[str, Any]]) -> None:
        self.write(delete(table).where(table.c.listener_id == listener_id))
        self.add_rows(table, wanted)

    def _store_persistence(self, pool_id: str, value: SessionPersistence | None) -> None:
        self.write(delete(session_persistence).where(session_persistence.c.pool_id == pool_id))
        if value is not None:
            self.add_rows(session_persistence, [rows.persistence_row(pool_id, value)])

    def _store_vip(self, load_balancer_id: str, value: Vip) -> None:
        # Upstream's security groups refer to the vip row, so the row is changed, not replaced.
        row = fit(vip, rows.vip_row(load_balancer_id, value))
        if self.write(update(vip).where(vip.c.load_balancer_id == load_balancer_id).values(row)) == 0:
            self.add_rows(vip, [row])
        self.write(delete(vip_security_group).where(vip_security_group.c.load_balancer_id == load_balancer_id))
        groups = [{"load_balancer_id": load_balancer_id, "sg_id": group} for group in dict.fromkeys(value.sg_ids)]
        self.add_rows(vip_security_group, groups)

    def _replace_additional(self, load_balancer_id: str, several: Sequence[AdditionalVip]) -> None:
        self.write(delete(additional_vip).where(additional_vip.c.load_balancer_id == load_balancer_id))
        self.add_rows(additional_vip, rows.additional_vip_rows(load_balancer_id, several))
