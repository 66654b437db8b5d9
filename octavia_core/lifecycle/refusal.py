"""The one error of the status tables."""

from __future__ import annotations

from collections.abc import Collection

from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import Refused

__all__ = ["TransitionRefused"]


class TransitionRefused(Refused):
    """The status table has no such move.

    Attributes:
        kind: what it is; `id`: which one, empty when the caller did not say.
        status: where it stands.
        event: what was about to happen.
        needs: the statuses from which that may happen, sorted.
    """

    def __init__(self, kind: Kind, id: str, status: str, event: str, needs: Collection[str]) -> None:
        self.kind, self.id, self.status, self.event = kind, id, status, event
        self.needs = tuple(sorted(needs))
        subject = f"{kind.words} {id}".rstrip()
        super().__init__(
            f"{subject} is {status}; '{event}' needs {' or '.join(self.needs) or 'another kind of thing'}"
            + (f"; to see what it waits for, run: octavia-admin why {id}" if id else "")
        )
