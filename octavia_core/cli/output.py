"""What a person or a script sees: tables or JSON on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from octavia_core.cli.streams import Unwritten, flush, silence, write, written

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
_FIXED = ("id", "at", "took", "state", "status", "provisioning", "operating")
"""Ends of the names of columns that are never cut or folded."""
_FOLDED = 12
"""Columns that are enough for what may be folded."""
_VISIBLE = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}
"""What would command a terminal, as it can be read: names and messages come from others."""
_ESCAPED = {n: f"\\u{n:04x}" for n in range(127, 160)}
"""The same in JSON, which escapes the others by itself."""


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
        flush()

    def say(self, *things: Any) -> None:
        """The result for a person: text (no markup) or anything that rich draws."""
        for thing in things:
            drawn = Text(_broken(self.hint(thing))) if isinstance(thing, str) else thing
            with written():
                self.out.print(drawn, soft_wrap=isinstance(thing, str | Text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
        """A table; what stands in a column like `id` is never cut. `empty` is said, on stderr, when there are no rows.

        Where a terminal is too narrow for it, its lines are as long as they must be, for the terminal to wrap.
        """
        drawn = [[cell if isinstance(cell, Text) else Text(self.hint(_one_line(cell))) for cell in row] for row in rows]
        if not drawn:
            self.note(empty)
            return
        fixed = [column.lower().endswith(_FIXED) for column in columns]
        needed = sum(
            max(cell_len(name), *(row[place].cell_len for row in drawn)) if fixed[place] else _FOLDED
            for place, name in enumerate(columns)
        )
        roomy = self.out.is_terminal and needed + 3 * len(columns) + 1 <= self.out.width
        table = Table(header_style="bold") if roomy else Table(box=None, pad_edge=False, header_style="bold")
        for name, never_cut in zip(columns, fixed, strict=True):
            table.add_column(name, no_wrap=never_cut, overflow="fold")
        for row in drawn:
            table.add_row(*row)
        with written():
            if roomy:
                self.out.print(table)
                return
            wide = _Console(file=self.out.file, highlight=False, emoji=False, width=_WIDE)
            with wide.capture() as drawing:
                wide.print(table)
            self.out.file.writelines(f"{line.rstrip()}\n" for line in drawing.get().splitlines())

    # -- beside the result -----------------------------------------------------------------------------------------
    def note(self, text: str) -> None:
        """Something to know that is not the result."""
        self.err.print(Text(_broken(self.hint(text))), soft_wrap=True)

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
        text = self.hint(" ".join(text.split("\n")))
        self.err.print(Text.assemble(("Error: ", "bold red"), text), soft_wrap=True)
        if self.json:
            about = {"type": kind, "message": text, "exit_code": code}
            try:
                self.data({"error": about | ({"operation_id": operation} if operation else {})})
                flush()
            except (BrokenPipeError, Unwritten):  # it is said above, and the exit code says it, too
                silence()


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


def _broken(text: str) -> str:
    """A sentence on one line, whatever stands in the names in it."""
    return text.replace("\n", "\\n")


def _one_line(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


class _Console(Console):
    """rich ends the process with code 1 when nobody reads any more; here the command decides.

    Control characters of what is printed are shown, not sent.
    """

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(segment.text.translate(_VISIBLE), segment.style)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console = _Console(stderr=stderr, highlight=False, emoji=False, width=_WIDE)
    return console


def _write(text: str) -> None:
    write(text.translate(_ESCAPED))
