"""Positions of L7 policies: 1 to n without gaps, per listener; upstream's API and HAProxy's rules rely on the order."""

from __future__ import annotations

from sqlalchemy import select, update

from octavia_core.db.clock import db_utcnow
from octavia_core.db.tables.listener import l7policy
from octavia_core.db.transaction.session import Session

__all__ = ["place", "renumber"]


def place(session: Session, listener_id: str, policy_id: str, position: int) -> None:
    """Move one policy to a position (1 or less: first; beyond the end: last) and its siblings around it."""
    ids = [id for id, _ in _present(session, listener_id) if id != policy_id]
    ids.insert(max(position - 1, 0), policy_id)
    _number(session, listener_id, ids)


def renumber(session: Session, listener_id: str) -> None:
    """Close the gaps that removed policies left."""
    _number(session, listener_id, [id for id, _ in _present(session, listener_id)])


def _present(session: Session, listener_id: str) -> list[tuple[str, int]]:
    query = (
        select(l7policy.c.id, l7policy.c.position)
        .where(l7policy.c.listener_id == listener_id)
        .order_by(l7policy.c.position, l7policy.c.id)
    )
    return [(row.id, row.position) for row in session.rows(query)]


def _number(session: Session, listener_id: str, ids: list[str]) -> None:
    present = dict(_present(session, listener_id))
    for number, id in enumerate(ids, 1):
        if present[id] != number:
            session.write(update(l7policy).where(l7policy.c.id == id).values(position=number, updated_at=db_utcnow()))
