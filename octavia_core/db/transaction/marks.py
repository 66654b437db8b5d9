"""What agents have of that which can be rotated, and what all of them are to have."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import and_, delete, or_, select

from octavia_core.db.clock import db_now
from octavia_core.db.dialects import incoming, insert_into, on_conflict
from octavia_core.db.tables.own import oc_mark, oc_rotation
from octavia_core.db.transaction.session import Session, chunks, fit

__all__ = ["Marks"]

_OF = oc_mark.c


class Marks(Session):
    """Rows of oc_mark and oc_rotation; see `octavia_core.ports.marks.Marks`."""

    def give_marks(self, amphora_ids: Collection[str], marks: Mapping[str, str]) -> None:
        """One statement for some hundred of them."""
        for ids in chunks(sorted(set(amphora_ids))):
            rows = [
                {**fit(oc_mark, {"amphora_id": id, "what": what, "mark": mark}), "given_at": db_now()}
                for id in ids
                for what, mark in sorted(marks.items())
            ]
            if rows:
                statement = insert_into(self.dialect, oc_mark).values(rows)
                new = incoming(self.dialect, statement)
                changes = {"mark": new.mark, "given_at": new.given_at}
                self.write(on_conflict(self.dialect, statement, ["amphora_id", "what"], changes))

    def doubt_marks(self, amphora_ids: Collection[str], marks: Mapping[str, str]) -> None:
        """What is the same stays."""
        if not marks:
            return
        other = or_(*(and_(_OF.what == what, _OF.mark != mark) for what, mark in sorted(marks.items())))
        for ids in chunks(sorted(set(amphora_ids))):
            self.write(delete(oc_mark).where(_OF.amphora_id.in_(ids), other))

    def marked(self, what: str) -> Mapping[str, str]:
        """All rows of it."""
        return {row.amphora_id: row.mark for row in self.rows(select(_OF.amphora_id, _OF.mark).where(_OF.what == what))}

    def is_had(self, what: str, mark: str) -> bool:
        """The first row of it ends the search."""
        return self.row(select(_OF.amphora_id).where(_OF.what == what, _OF.mark == mark).limit(1)) is not None

    def set_rotation(self, what: str, mark: str) -> None:
        """Insert or replace."""
        statement = insert_into(self.dialect, oc_rotation)
        new = incoming(self.dialect, statement)
        values = fit(oc_rotation, {"what": what, "mark": mark})
        changes = {"mark": new.mark, "begun_at": new.begun_at}
        self.write(on_conflict(self.dialect, statement.values(**values, begun_at=db_now()), ["what"], changes))

    def rotations(self) -> Mapping[str, str]:
        """All rows."""
        return {row.what: row.mark for row in self.rows(select(oc_rotation.c.what, oc_rotation.c.mark))}
