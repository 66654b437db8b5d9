"""What a person or a script sees: tables or JSON on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

__all__ = ["Screen", "ago", "moment", "status"]

_STYLES: Mapping[str, str] = {
    "ACTIVE": "green",
    "ONLINE": "green",
    "ALLOCATED": "green",
    "READY": "green",
    "SUCCEEDED": "green",
    "ERROR": "bold red",
    "FAILED": "bold red",
    "OFFLINE": "red",
    "DEGRADED": "yellow",
    "DRAINING": "yellow",
    "NO_MONITOR": "dim",
    "DELETED": "dim",
    "CANCELLED": "dim",
    "RUNNING": "cyan",
    "UNDOING": "yellow",
    "WAITING": "yellow",
    "QUEUED": "yellow",
    "BOOTING": "yellow",
}
_WIDE = 4000
"""Columns when no terminal says how many: nothing is cut or folded on its way into a file or pipe."""


class Screen:
    """Where a command prints. NO_COLOR and TERM=dumb are honoured by rich.

    Args:
        json: print JSON on stdout, and nothing else there.
        hint: what becomes of a sentence that may advise a command.
    """

    def __init__(self, *, json: bool, hint: Callable[[str], str] = str) -> None:
        self.json, self.hint = json, hint
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)
        self._begun = time.monotonic()

    # -- results ---------------------------------------------------------------------------------------------------
    def data(self, value: Any) -> None:
        """The result as JSON, indented for reading; keys in the order in which they were put."""
        _write(json.dumps(value, indent=2, ensure_ascii=False))

    def line(self, value: Any) -> None:
        """One JSON object of a stream, on one line, at once."""
        _write(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))
        sys.stdout.flush()

    def say(self, *things: Any) -> None:
        """The result for a person: text (no markup) or anything that rich draws."""
        for thing in things:
            drawn = Text(self.hint(thing)) if isinstance(thing, str) else thing
            self.out.print(drawn, soft_wrap=isinstance(thing, str | Text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
        """A table; columns that end in `id` are never cut. `empty` is said, on stderr, when there are no rows."""
        rows = [list(row) for row in rows]
        if not rows:
            self.note(empty)
            return
        table = (
            Table(box=None, pad_edge=False, header_style="bold")
            if not self.out.is_terminal
            else Table(header_style="bold")
        )
        for column in columns:
            fixed = column.lower().endswith(("id", "at", "took", "state", "status", "provisioning", "operating"))
            table.add_column(column, no_wrap=fixed, overflow="fold")
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(_one_line(cell)) for cell in row))
        self.out.print(table)

    # -- beside the result -----------------------------------------------------------------------------------------
    def note(self, text: str) -> None:
        """Something to know that is not the result."""
        self.err.print(Text(self.hint(text)), soft_wrap=True)

    def progress(self, text: str) -> None:
        """What happened just now, with the seconds since this command began."""
        self.err.print(Text.assemble((f"{time.monotonic() - self._begun:6.2f} s  ", "dim"), text), soft_wrap=True)

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A spinner while something is followed, where there is a terminal."""
        if not self.err.is_terminal:
            yield
            return
        with self.err.status(escape(text)):
            yield

    def error(self, text: str, *, kind: str, code: int, operation: str | None) -> None:
        """The one sentence of an error; with JSON the same as an object on stdout too."""
        text = self.hint(text)
        self.err.print(Text.assemble(("Error: ", "bold red"), text), soft_wrap=True)
        if self.json:
            about = {"type": kind, "message": text, "exit_code": code}
            self.data({"error": about | ({"operation_id": operation} if operation else {})})
            sys.stdout.flush()


def status(value: Any) -> Text:
    """A status in its colour."""
    text = str(value)
    style = _STYLES.get(text) or ("yellow" if text.startswith("PENDING") else "")
    return Text(text, style=style)


def moment(microseconds: int | None) -> str:
    """A time of the database as local time, to the millisecond."""
    if not microseconds:
        return ""
    seconds = microseconds / 1_000_000
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{microseconds // 1000 % 1000:03d}"


def ago(seconds: float) -> str:
    """A duration as people say it: 80 ms, 1.4 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def _one_line(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


class _Console(Console):
    """rich ends the process with code 1 when nobody reads any more; here the command decides."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console = _Console(stderr=stderr, highlight=False, emoji=False, width=_WIDE)
    return console


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
