"""Usage counters of projects: kept only where upstream's API keeps a row of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from sqlalchemy import ColumnElement, Integer, bindparam, case, func, select, update

from octavia_core.db.prepared import Prepared
from octavia_core.db.tables.balancer import load_balancer
from octavia_core.db.tables.tenancy import quotas
from octavia_core.db.transaction.session import Session
from octavia_core.domain.vocabulary import Kind

__all__ = ["Quotas"]


class Quotas(Session):
    """Counting up on insert, down on removal, on the project of the load balancer. Never below 0; no row, no count."""

    def count_up(self, load_balancer_id: str | None, counts: Mapping[Kind, int]) -> None:
        """So many rows of these kinds were added to a load balancer."""
        self._count(load_balancer_id, counts, up=True)

    def count_down(self, load_balancer_id: str | None, counts: Mapping[Kind, int]) -> None:
        """So many rows of these kinds are gone from a load balancer, whose own row is still there."""
        self._count(load_balancer_id, counts, up=False)

    def _count(self, load_balancer_id: str | None, counts: Mapping[Kind, int], *, up: bool) -> None:
        several = {kind: n for kind, n in counts.items() if n}
        if load_balancer_id is None or not several:
            return
        by = {f"by_{kind}": n for kind, n in several.items()}
        self.write(_counting(tuple(sorted(several)), up), {"lb": load_balancer_id, **by})


@functools.cache
def _counting(kinds: tuple[Kind, ...], up: bool) -> Prepared:
    project = select(load_balancer.c.project_id).where(load_balancer.c.id == bindparam("lb")).scalar_subquery()
    changes: dict[str, ColumnElement[int]] = {}
    for kind in kinds:
        by = bindparam(f"by_{kind}", type_=Integer())
        changes[_in_use(kind)] = _used(kind) + by if up else case((_used(kind) > by, _used(kind) - by), else_=0)
    return Prepared(update(quotas).where(quotas.c.project_id == project).values(changes))


def _in_use(kind: Kind) -> str:
    return f"in_use_{kind}"


def _used(kind: Kind) -> ColumnElement[int]:
    return func.coalesce(quotas.c[_in_use(kind)], 0)
