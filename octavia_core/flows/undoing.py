"""Taking a failed operation back: its undos, last first, each a recorded step."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from octavia_core.domain.operation import CANCELLED_PATH, EntryKind, JournalEntry, Outcome
from octavia_core.errors import TransientError
from octavia_core.flows.ledger import Ledger
from octavia_core.flows.signals import Parked, Undo
from octavia_core.ports.storage import FenceLost, Transaction

__all__ = ["Undoing"]


class Undoing(Ledger):
    """The part of a run that undoes; for the runner."""

    @property
    def cancelled(self) -> bool:
        """True when somebody wanted it undone before it failed by itself."""
        return CANCELLED_PATH in self._shared.journal

    def undos(self) -> list[Undo]:
        """What is to be undone, last first."""
        return sorted(self._shared.undos.values(), key=lambda u: u.sequence, reverse=True)

    def undo_step(self, undo: Undo, give_up: Callable[[Transaction, Undo, str], None]) -> None:
        """Take one step back, recorded at `undo/<path>`; one that cannot finish is handed to `give_up`."""
        shared, path = self._shared, f"undo/{undo.path}"
        entry = shared.journal.get(path)
        if entry is not None and entry.outcome is Outcome.DONE:
            return
        if undo.record is not None:
            record = undo.record
            fresh = entry or self._entry(path, EntryKind.UNDO)

            def work(tx: Transaction) -> JournalEntry:
                record(tx)
                return attrs.evolve(fresh, outcome=Outcome.DONE)

            shared.probe("before", path)
            self._commit(None, work)
            shared.probe("entry", path)
            return
        if entry is None:
            entry = self._entry(path, EntryKind.UNDO)
            self._commit(entry)
        shared.probe("before", path)
        self._outlive(undo.limit)
        done = attrs.evolve(entry, outcome=Outcome.DONE)
        try:
            if undo.work is not None:
                undo.work()
        except FenceLost:
            raise
        except Exception as error:  # an undo that raises anything is retried, then left to a cleanup operation
            attempts, kind, message = entry.attempts + 1, type(error).__name__, str(error)
            if isinstance(error, TransientError) and attempts < shared.world.settings.engine.undo_attempts:
                tried = attrs.evolve(entry, attempts=attempts, error={"type": kind, "message": message})
                raise Parked(shared.patience.otherwise.delay(attempts), None, str(error), tried) from error

            def hand_over(tx: Transaction) -> JournalEntry:
                give_up(tx, undo, f"{kind}: {message}")
                return attrs.evolve(done, error={"type": kind, "message": message})

            self._commit(None, hand_over)
            return
        shared.probe("effect", path)
        shared.journal[path] = done
        self._pending.append(done)

    def commit(self, work: Callable[[Transaction], None]) -> None:
        """Commit pending results with something of the runner's own."""

        def run(tx: Transaction) -> None:
            work(tx)

        self._commit(None, run)
