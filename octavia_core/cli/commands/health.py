"""`octavia-admin health ...`: the fleet's hearts, and those who listen, by the rows that health managers write."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.hints import starts_health_manager
from octavia_core.cli.session import Session, until_ctrl_c
from octavia_core.cli.streams import flush, written

if TYPE_CHECKING:
    from rich.console import Console

    from octavia_core.controller.facade import Controller
    from octavia_core.controller.fleet_health import Fleet, Manager

__all__ = ["add"]

_COLUMNS = (
    "health manager",
    "wrote",
    "hears",
    "per second",
    "lag",
    "silent",
    "never heard",
    "oldest",
    "dropped",
    "held",
)
_LESS = ("oldest", "held", "dropped", "never heard", "lag", "per second", "silent", "wrote")
"""What a live table that is too wide for its terminal goes without, in this order; `show` has all of it."""

_NOBODY = "no health manager has written lately"


def add(app: typer.Typer) -> None:
    """Add `health`."""
    group = typer.Typer(no_args_is_help=True, help="Health of the fleet: who is heard, and by whom.")
    app.add_typer(group, name="health")
    command(group, "show", cloud=True)(show)
    command(group, "top", cloud=True)(top)


def show(session: Session) -> None:
    """Show amphorae by state, and of each health manager whom it hears, how fast, and what it dropped and why."""
    from octavia_core.controller.fleet_health import fleet
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        found = fleet(controller.storage)
        advice = _advice(found, session, controller)
    if session.json:
        session.screen.data({**to_json(found), "advice": advice})
        return
    session.screen.say(*_summary(found))
    session.screen.table(_COLUMNS, map(_row, found.managers), empty=_NOBODY)
    for each in advice:
        session.screen.note(each)


def top(
    session: Session,
    every: Annotated[
        float, typer.Option("--every", min=0.2, max=86400, metavar="SECONDS", help="Pause between two looks.")
    ] = 2.0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, metavar="NUMBER", help="Looks; endless without.")
    ] = None,
) -> None:
    """The same as a live table, until Ctrl-C; one after the other into a file or pipe, with --json an object on each line."""
    from rich.live import Live

    from octavia_core.controller.fleet_health import fleet
    from octavia_core.domain.codec import to_json

    with session.look() as controller, until_ctrl_c():
        looks = _looks(controller, fleet, every, count)
        if session.json:
            for found in looks:
                session.screen.line({**to_json(found), "advice": _advice(found, session, controller)})
        elif not session.screen.out.is_terminal:
            for found in looks:
                session.screen.say(_picture(found, session.screen.out, _advice(found, session, controller)))
                flush()
        else:
            with written(), Live(console=session.screen.out, auto_refresh=False) as live:
                for found in looks:
                    live.update(_picture(found, session.screen.out, _advice(found, session, controller)), refresh=True)


def _looks(controller: Any, fleet: Any, every: float, count: int | None) -> Iterator[Fleet]:
    done = 0
    while True:
        yield fleet(controller.storage)
        done += 1
        if count is not None and done >= count:
            return
        controller.clock.sleep(every)


def _advice(found: Fleet, session: Session, controller: Controller) -> list[str]:
    """What to do where a health manager is missing."""
    from octavia_core.cli.output import ago
    from octavia_core.controller.fleet_health import Life
    from octavia_core.controller.unheard import unheard

    start = starts_health_manager(session.config_files)
    if not found.heard:
        nobody = unheard(controller.storage, running=controller.running())
        if nobody is None:  # one has come meanwhile
            return []
        words = f"health managers: {nobody.words}"
        return [session.screen.hint(f"{words}; start one: {start}") if nobody.start else words]
    gone = [one for one in found.managers if one.life is Life.GONE]
    return [
        session.screen.hint(
            f"{one.name} is gone: {'its process has ended' if one.ended else f'it has said nothing for {ago(one.age)}'};"
            f" the others go on without it; if it is to hear again, start it there: {start}"
        )
        for one in gone
    ]


def _picture(found: Fleet, console: Console, advice: Sequence[str] = ()) -> Any:
    """As wide as the terminal at most: names are whole, and what matters least is left out and named."""
    from rich.console import Group
    from rich.text import Text

    below = [Text(each, style="yellow") for each in advice]
    left_out: list[str] = []
    table = _table(found, left_out)
    for column in _LESS:
        if _width(table, console) <= console.width:
            break
        left_out.append(column)
        table = _table(found, left_out)
    lines = [Text(line) if isinstance(line, str) else line for line in _summary(found)]
    if not found.managers:
        return Group(*lines, Text(_NOBODY, style="yellow"), *below)
    if left_out:
        words = f"left out, for want of room: {', '.join(left_out)}; all of it: octavia-admin health show"
        return Group(*lines, table, *below, Text(words, style="dim"))
    return Group(*lines, table, *below)


def _table(found: Fleet, left_out: Collection[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    shown = [place for place, name in enumerate(_COLUMNS) if name not in left_out]
    table = Table(header_style="bold") if not left_out else Table(box=None, pad_edge=False, header_style="bold")
    for place in shown:
        table.add_column(_COLUMNS[place], overflow="fold")
    for manager in found.managers:
        row = _row(manager)
        cells = [row[place] for place in shown]
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))
    return table


def _width(table: Any, console: Console) -> int:
    """What it takes without folding anything."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _summary(found: Fleet) -> list[Any]:
    from rich.text import Text

    from octavia_core.cli.output import status

    states = Text("amphorae: ")
    if not found.amphorae:
        states.append("none")
    for place, (name, many) in enumerate(found.amphorae.items()):
        states.append(", " if place else "").append(f"{many} ").append_text(status(name))
    lines: list[Any] = [states]
    if found.paused:
        lines.append(Text(f"failovers are {found.paused}", style="yellow"))
    for one in found.managers:
        if one.replaced:
            words = f"{one.name}: processes that received heartbeats and were replaced: {_counts(one.replaced)}"
            lines.append(Text(words, style="yellow"))
    if found.waiting:
        lines.append(f"failovers that failed and are tried again: {found.waiting}")
    return lines


def _row(manager: Manager) -> tuple[Any, ...]:
    from rich.text import Text

    from octavia_core.cli.output import ago

    life = "" if manager.alive else f", {manager.life}"
    wrote = Text(f"{ago(manager.age)} ago{life}", style="bold red" if life else "")
    deaf = manager.alive and bool(manager.watched) and manager.hears == 0
    hears = Text(f"{_plain(manager.hears)} of {_plain(manager.watched)}", style="bold red" if deaf else "")
    oldest = "" if manager.oldest is None else f"{ago(manager.oldest)} ({manager.oldest_id})"
    return (
        manager.name,
        wrote,
        hears,
        _plain(manager.per_second),
        "" if manager.lag is None else ago(manager.lag),
        _plain(manager.silent),
        _plain(manager.never_heard),
        oldest,
        _counts(manager.dropped),
        _counts(manager.held),
    )


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {many}" for name, many in counts.items())
