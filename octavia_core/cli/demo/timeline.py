"""How the demo looks: a live picture on a terminal, a plain log of lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from octavia_core.cli.streams import written

__all__ = ["Act", "LiveShow", "PlainShow", "Reading", "Show"]

BEAT = 1.0
"""Seconds between two acts on a terminal."""
_BARS = " ▁▂▃▄▅▆▇█"


@attrs.define
class Act:
    """One thing that happens to the load balancer. `outcome` is None until it is over."""

    title: str
    begun: float
    outcome: str | None = None
    held: bool = True
    took: float = 0.0


@attrs.frozen(kw_only=True)
class Reading:
    """What the picture shows of the moment.

    Attributes:
        status: of the load balancer.
        spans: (tenth of a second, right answers, failures).
        members: (name, answers, status).
    """

    status: str
    places: Sequence[str]
    sent: int
    failed: int
    spans: Sequence[Sequence[int]]
    members: Sequence[tuple[str, int, str]]
    controller: str


class Show(Protocol):
    """What the story tells its audience. Thread-safe."""

    def act(self, title: str) -> None:
        """The next act begins."""

    def over(self, outcome: str, *, held: bool) -> None:
        """The present act is over; `held` says whether what was promised was kept."""

    def event(self, text: str) -> None:
        """Something happened."""

    def beat(self) -> None:
        """Between two acts: time to look, where somebody looks."""

    def close(self) -> None:
        """The last picture stays."""


class PlainShow:
    """Lines: seconds since the start, and what happened."""

    def __init__(self, console: Console) -> None:
        self._console, self._begun = console, time.monotonic()
        self._act = Act("", self._begun)

    def act(self, title: str) -> None:
        self._act = Act(title, time.monotonic())
        self._line(f"== {title}", "bold")

    def over(self, outcome: str, *, held: bool) -> None:
        self._line(f"{'ok' if held else 'NOT HELD'}: {outcome}", "green" if held else "bold red")

    def event(self, text: str) -> None:
        self._line(f"   {text}", "")

    def beat(self) -> None:
        """Nobody waits for a log."""

    def close(self) -> None:
        """Nothing is pending."""

    def _line(self, text: str, style: str) -> None:
        since = time.monotonic() - self._begun
        with written():
            self._console.print(Text.assemble((f"{since:6.2f} s  ", "dim"), (text, style)), soft_wrap=True)


class LiveShow:
    """A picture that is drawn again ten times a second.

    Args:
        console: a terminal.
        read: gives the moment's reading; None before there is anything to read.
    """

    def __init__(self, console: Console, read: Callable[[], Reading | None]) -> None:
        self._console, self._read, self._begun = console, read, time.monotonic()
        self._acts: list[Act] = []
        self._events: deque[Text] = deque(maxlen=9)
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=10, transient=False)
        self._live.start()

    def act(self, title: str) -> None:
        with self._lock:
            self._acts.append(Act(title, time.monotonic()))

    def over(self, outcome: str, *, held: bool) -> None:
        with self._lock:
            act = self._acts[-1]
            act.outcome, act.held, act.took = outcome, held, time.monotonic() - act.begun

    def event(self, text: str) -> None:
        since = time.monotonic() - self._begun
        with self._lock:
            self._events.append(Text.assemble((f"{since:6.2f} s  ", "dim"), text, overflow="ellipsis", no_wrap=True))

    def beat(self) -> None:
        time.sleep(BEAT)

    def close(self) -> None:
        self._live.refresh()
        self._live.stop()

    def _draw(self) -> RenderableType:
        with self._lock:
            acts = [attrs.evolve(act) for act in self._acts]
            events = list(self._events)
        parts: list[RenderableType] = [_acts(acts)]
        reading = self._read()
        if reading is not None:
            parts.append(_picture(reading, self._console.width - 6))
        parts.append(Panel(Group(*events) if events else Text("..."), title="what happens", title_align="left"))
        return Group(*parts)


def _acts(acts: Sequence[Act]) -> Table:
    table = Table.grid(padding=(0, 1))
    now = time.monotonic()
    for act in acts:
        if act.outcome is None:
            dots = "." * (1 + int((now - act.begun) * 4) % 3)
            table.add_row(
                Text("▶", style="cyan"), Text(act.title, style="bold cyan"), Text(f"{now - act.begun:5.1f} s {dots}")
            )
        else:
            mark = Text("✔", style="green") if act.held else Text("✘", style="bold red")
            table.add_row(mark, Text(act.title), Text(act.outcome, style="green" if act.held else "red"))
    return table


def _picture(reading: Reading, width: int) -> Panel:
    head = Text.assemble(
        (reading.status, "bold"), "   ", ("  ".join(reading.places), "cyan"), f"   controller {reading.controller}"
    )
    chart = _chart(reading.spans, max(20, min(width - 4, 100)))
    numbers = Text.assemble(
        f"{reading.sent} requests  ", (f"{reading.failed} failed", "red" if reading.failed else "green")
    )
    members = Table.grid(padding=(0, 2))
    most = max((answers for _, answers, _ in reading.members), default=0) or 1
    for name, answers, status in reading.members:
        style = {"ONLINE": "green", "ERROR": "red"}.get(status, "dim")
        bar = "█" * round(20 * answers / most)
        members.add_row(Text(name), Text(f"{status:<8}", style=style), Text(f"{answers:>6}"), Text(bar, style=style))
    return Panel(Group(head, chart, numbers, members), title="traffic", title_align="left")


def _chart(spans: Sequence[Sequence[int]], width: int) -> Text:
    """Answers per tenth of a second, a column each, the newest at the right; red where requests failed."""
    shown = list(spans)[-width - 1 : -1]
    most = max((right + wrong for _, right, wrong in shown), default=0) or 1
    text = Text()
    for _, right, wrong in shown:
        bar = _BARS[min(8, -(-8 * (right + wrong) // most))]
        text.append(bar if right + wrong else "·", style="red" if wrong else ("green" if right else "red dim"))
    return text or Text(" ")
