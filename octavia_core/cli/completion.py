"""What the shell offers after TAB: names and ids that are there now, read from the rows. It never complains.

A name that a shell would read otherwise (blanks, quotes, `$`) is offered as its id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from octavia_core.domain.vocabulary import Kind

if TYPE_CHECKING:
    from octavia_core.db.storage import SqlStorage

__all__ = ["names_of", "one_of"]

Complete = Callable[..., list[str]]

_PLAIN = re.compile(r"[\w.@%+/-]+", re.ASCII)
_MOST = 200
"""Words that are offered at most; more help nobody."""


def one_of(*words: str) -> Complete:
    """For Typer: these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def names_of(*kinds: Kind | str, also: Sequence[Kind | str] = ()) -> Complete:
    """For Typer: things of these kinds, and of others once something is typed; `operation` is a kind here, too."""

    def complete(ctx: Any, incomplete: str) -> list[str]:
        try:
            return _offered(ctx, (*kinds, *(also if incomplete else ())), incomplete)
        except Exception:  # whatever is wrong: a person who presses TAB gets no words, and the command itself says why
            return []

    return complete


def _offered(ctx: Any, what: Iterable[Kind | str], incomplete: str) -> list[str]:
    storage = _rows(ctx)
    if storage is None:
        return []
    try:
        words = dict.fromkeys(
            word for kind in what for word in _words(storage, kind, incomplete) if word.startswith(incomplete)
        )
    finally:
        storage.close()
    return list(words)[:_MOST]


def _rows(ctx: Any) -> SqlStorage | None:
    """The database that the command line so far is about; None where there is none yet."""
    import os

    from octavia_core.cli.session import Session

    found: dict[str, Any] = {}
    here = ctx
    while here is not None:
        found = {name: value for name, value in here.params.items() if value} | found
        here = here.parent
    from octavia_core.controller.sources import load_settings
    from octavia_core.controller.state import prepare_state
    from octavia_core.db.storage import SqlStorage

    if files := found.get("config_files"):
        return SqlStorage.open(load_settings(files))
    path = Session(state=found.get("state")).path
    if not os.path.exists(os.path.join(path, "state.json")):
        return None
    return SqlStorage.open(prepare_state(path).settings())


def _words(storage: SqlStorage, kind: Kind | str, incomplete: str) -> Iterator[str]:
    if kind == "operation":
        yield from (row.id for row in storage.read(lambda tx: tx.operations(limit=_MOST)))
    elif kind is Kind.AMPHORA:
        yield from (one.id for one in storage.read(lambda tx: tx.amphorae()))
    elif kind is Kind.LOAD_BALANCER:
        yield from (_word(one, incomplete) for one in storage.read(lambda tx: tx.load_balancers()))
    else:
        for summary in storage.read(lambda tx: tx.load_balancers()):
            tree = storage.read(lambda tx, one=summary.id: tx.tree(one))  # type: ignore[misc]
            if tree is not None:
                yield from (_word(node, incomplete) for found, node in tree.nodes() if found is kind)


def _word(thing: Any, incomplete: str) -> str:
    """The name; the id when there is no name that a shell leaves alone, or when an id is begun."""
    name = getattr(thing, "name", None)
    if name and _PLAIN.fullmatch(name) and name.startswith(incomplete):
        return str(name)
    return str(thing.id)
