"""What is known when no health manager has written lately: it ended, it cannot write, or it may live and be cut off."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import attrs

from octavia_core.controller.holder import PLACE, has_ended, living, place_of_processes
from octavia_core.controller.words import holder_words
from octavia_core.ports.fleet import Observer
from octavia_core.ports.storage import Storage, Transaction

__all__ = ["Unheard", "unheard"]


@attrs.frozen
class Unheard:
    """What is known, for a person; `start`: whether starting one is what helps."""

    words: str
    start: bool


def unheard(storage: Storage, *, running: bool | None) -> Unheard | None:
    """What is known of health managers where none works by its row; None when one does.

    Args:
        storage: where they write. It is asked to store something, where none of them did lately.
        running: whether a controller runs on the state directory, which hears by itself; None when that cannot be known.

    Raises:
        TransientError: the database does not answer.
    """

    def look(tx: Transaction) -> tuple[int, Sequence[Observer]]:
        return tx.governing().now, tx.observers()

    now, rows = storage.read(look)
    if any(living(one, now) for one in rows):
        return None
    nobody = "nobody notices when an amphora dies"
    last = max(rows, key=lambda row: row.written_at, default=None)
    refused = storage.unwritable()
    if refused is not None:
        return Unheard(
            f"none can write, and whether one lives is not to be seen until that is mended: {refused}", False
        )
    ago = "" if last is None else f"has written nothing for {(now - last.written_at) / 1_000_000:.0f} s"
    if running:
        return Unheard(f"the controller of this state directory {ago or 'has written nothing yet'}; see its log", False)
    if last is None or running is False:
        return Unheard(f"none that has written lately, so {nobody}", True)
    name = holder_words(last.name)
    if has_ended(last):
        return Unheard(f"none: the last one, {name}, has ended, so {nobody}", True)
    if _is_here(last):
        return Unheard(f"{name} lives and {ago}; see its log", False)
    return Unheard(f"the last one, {name}, {ago}; see its log if it lives; if not, {nobody}", True)


def _is_here(observer: Observer) -> bool:
    """Whether its process number means something here, so that it lives unless `has_ended`."""
    host = observer.name.partition(":")[0]
    return host == socket.gethostname()[:40] and observer.figures.get(PLACE) == place_of_processes()
