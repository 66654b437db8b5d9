"""Rows of amphorae. What upstream's table has no column for (the agent's port) is in a row of ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import attrs
from sqlalchemy import Row, Select, bindparam, delete, func, select, update

from octavia_core.db.clock import db_now, db_utcnow
from octavia_core.db.prepared import Prepared
from octavia_core.db.tables.amphora import amphora
from octavia_core.db.tables.own import oc_amphora, oc_liveness
from octavia_core.db.transaction.session import Session, fit
from octavia_core.domain.amphora import DEFAULT_AGENT_PORT, Amphora
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Role
from octavia_core.errors import BadRequest, NotFound

__all__ = ["Amphorae", "amphora_changes", "naive_utc", "seconds"]

_SAME = (
    "id",
    "compute_id",
    "load_balancer_id",
    "lb_network_ip",
    "vrrp_ip",
    "ha_ip",
    "vrrp_port_id",
    "ha_port_id",
    "cert_busy",
    "vrrp_interface",
    "vrrp_id",
    "vrrp_priority",
    "cached_zone",
    "image_id",
    "compute_flavor",
)
_NAMES: Mapping[str, str] = MappingProxyType({name: name for name in (*_SAME, "role", "cert_expiration")})


def naive_utc(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as upstream's DATETIME columns hold them: UTC without a zone, whole seconds."""
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC).replace(tzinfo=None)


def seconds(moment: datetime | None) -> int | None:
    """The reverse of `naive_utc`."""
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp())


class Amphorae(Session):
    """Amphorae in and out."""

    no_spares: bool
    """See `octavia_core.db.transaction.tree.TreeReading`."""

    def insert_amphora(self, value: Amphora) -> None:
        """Store it; the same id with the same values is success. From now it counts as never heard from."""
        row = {name: getattr(value, name) for name in _SAME}
        row |= {"role": value.role, "cert_expiration": naive_utc(value.cert_expiration), "status": value.status}
        if not self.add_row(amphora, row, created_at=db_utcnow()):
            stored = self.amphora(value.id)
            if stored is None or attrs.evolve(stored, status=value.status) != value:
                raise BadRequest(f"amphora {value.id} exists already, with other values")
            return
        self.add_rows(oc_liveness, [{"amphora_id": value.id}], since=db_now())
        self._set_port(value.id, value.agent_port, known_absent=True)

    def amphora(self, amphora_id: str) -> Amphora | None:
        """The row as a value, or None."""
        found = self.row(_BY_ID, id=amphora_id)
        return None if found is None else _value(found)

    def amphorae(self, load_balancer_id: str | None = None, *, with_deleted: bool = False) -> Sequence[Amphora]:
        """Those of one load balancer, or all, by creation."""
        query = _several(load_balancer_id is not None, with_deleted)
        return [_value(row) for row in self.rows(query, lb=load_balancer_id)]

    def spares(self) -> Sequence[Amphora]:
        """Those that are READY for anybody, by creation. No query where a tree was read before and saw none."""
        return () if self.no_spares else [_value(row) for row in self.rows(_SPARES)]

    def change_amphora(self, amphora_id: str, **values: Any) -> None:
        """Set attributes and `updated_at`.

        Raises:
            BadRequest: an attribute that is not there, or the status.
            NotFound: there is no such row.
        """
        port = values.pop("agent_port", None)
        changes = amphora_changes(amphora_id, values)
        given = {"b_id": amphora_id, **{f"b_{name}": value for name, value in changes.items()}}
        if self.write(_change(tuple(changes)), given) == 0:
            raise NotFound(Kind.AMPHORA.words, amphora_id)
        if port is not None:
            self._set_port(amphora_id, port)

    def _set_port(self, amphora_id: str, port: int, *, known_absent: bool = False) -> None:
        if not known_absent:
            self.write(delete(oc_amphora).where(oc_amphora.c.amphora_id == amphora_id))
        if port != DEFAULT_AGENT_PORT:
            self.add_rows(oc_amphora, [{"amphora_id": amphora_id, "agent_port": port}])


def amphora_changes(amphora_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns to set for these attributes.

    Raises:
        BadRequest: an attribute that is not there, or the status.
    """
    unknown = set(values) - set(_NAMES) | {"id"} & set(values)
    if unknown:
        raise BadRequest(f"amphora {amphora_id}: {', '.join(sorted(unknown))} cannot be set")
    columns = dict(values)
    if "cert_expiration" in columns:
        columns["cert_expiration"] = naive_utc(columns["cert_expiration"])
    return fit(amphora, columns)


def _query() -> Select[Any]:
    columns = [amphora.c[name] for name in (*_SAME, "role", "status", "cert_expiration")]
    port = func.coalesce(oc_amphora.c.agent_port, DEFAULT_AGENT_PORT).label("agent_port")
    return select(*columns, port).outerjoin(oc_amphora, oc_amphora.c.amphora_id == amphora.c.id)


_BY_ID = Prepared(_query().where(amphora.c.id == bindparam("id")))

_SPARES = Prepared(
    _query()
    .outerjoin(oc_liveness, oc_liveness.c.amphora_id == amphora.c.id)
    .where(
        amphora.c.status == str(AmphoraStatus.READY),
        amphora.c.load_balancer_id.is_(None),
        oc_liveness.c.declared_dead.is_(None),
    )
    .order_by(amphora.c.created_at, amphora.c.id)
)


@functools.cache
def _change(columns: tuple[str, ...]) -> Prepared:
    """New values of these columns."""
    changes: dict[str, Any] = {name: bindparam(f"b_{name}", type_=amphora.c[name].type) for name in columns}
    which = amphora.c.id == bindparam("b_id")
    return Prepared(update(amphora).where(which).values(**changes, updated_at=db_utcnow()))


@functools.cache
def _several(of_one: bool, with_deleted: bool) -> Prepared:
    """All, by creation; by parameter `lb` when of one load balancer."""
    query = _query().order_by(amphora.c.created_at, amphora.c.id)
    if of_one:
        query = query.where(amphora.c.load_balancer_id == bindparam("lb"))
    return Prepared(query if with_deleted else query.where(amphora.c.status != str(AmphoraStatus.DELETED)))


def _value(row: Row[Any]) -> Amphora:
    values = dict(row._mapping)
    values["status"] = AmphoraStatus(values["status"])
    values["role"] = Role(values["role"]) if values["role"] else None
    values["cert_expiration"] = seconds(values["cert_expiration"])
    return Amphora(**values)
