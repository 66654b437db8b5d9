"""Which workers live, by their own word: rows of oc_meta whose number says until when the word holds.

`worker/<holder>` is one worker, `flow/<version>/<name>` a flow that at least one of them knows. Nothing is decided by
these rows; they let people be told that nobody is there, or nobody who knows a flow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import ColumnElement, case, delete, or_, select

from octavia_core.db.clock import db_now
from octavia_core.db.dialects import incoming, insert_into, on_conflict
from octavia_core.db.tables.own import oc_meta
from octavia_core.db.transaction.session import Session, fit
from octavia_core.ports.storage import Attendance

__all__ = ["Workers"]

_OF = oc_meta.c
_WORKER, _FLOW = "worker/", "flow/"
_FORGOTTEN = 24 * 3600 * 1_000_000
"""Microseconds after which a worker that never came back is no news any more."""


class Workers(Session):
    """Signs of life."""

    def attend(self, holder: str, flows: Mapping[str, Collection[int]], *, seconds: float) -> None:
        """Say that this worker lives, for so long from now; see the port."""
        now = int(self.value(select(db_now())))
        names = [f"{_FLOW}{version}/{name}" for name, versions in flows.items() for version in versions]
        until = now + round(seconds * 1_000_000)
        rows = [fit(oc_meta, {"name": name, "number": until}) for name in [_WORKER + holder, *sorted(names)]]
        statement = insert_into(self.dialect, oc_meta).values(rows)
        new = incoming(self.dialect, statement).number
        longer = case((_OF.number < new, new), else_=_OF.number)  # who knows a flow for longer has the last word
        self.write(on_conflict(self.dialect, statement, ["name"], {"number": longer}))
        self.write(delete(oc_meta).where(_OF.name.like(f"{_WORKER}%"), _OF.number < now - _FORGOTTEN))

    def leave(self, *, holder: str | None = None, but: str | None = None) -> None:
        """Take back the word of one worker, or of all but one; see the port."""
        which: list[ColumnElement[bool]] = [_OF.name.like(f"{_WORKER}%")]
        if holder is not None:
            which.append(_OF.name == _WORKER + holder)
        if but is not None:
            which.append(_OF.name != _WORKER + but)
        self.write(delete(oc_meta).where(*which))

    def turned(self, name: str) -> int | None:
        """When somebody last had that turn; see the port."""
        found = self.value(select(_OF.number).where(_OF.name == name))
        return None if found is None else int(found)

    def attendance(self) -> Attendance:
        """Who says that they live; see the port."""
        workers: dict[str, int] = {}
        flows: dict[tuple[str, int], int] = {}
        mine = or_(_OF.name.like(f"{_WORKER}%"), _OF.name.like(f"{_FLOW}%"))
        for row in self.rows(select(_OF.name, _OF.number).where(mine)):
            kind, _, rest = str(row.name).partition("/")
            if kind == "worker":
                workers[rest] = int(row.number)
                continue
            version, _, name = rest.partition("/")
            flows[name, int(version)] = int(row.number)
        return Attendance(workers=workers, flows=flows)
