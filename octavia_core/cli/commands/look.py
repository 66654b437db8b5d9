"""`octavia-admin why|timeline|events`: what is going on, and what happened."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from octavia_core.cli.command import command
from octavia_core.cli.commands.balancer import Maybe
from octavia_core.cli.completion import names_of
from octavia_core.cli.session import Session, until_ctrl_c
from octavia_core.cli.streams import flush
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import TransientError

if TYPE_CHECKING:
    from octavia_core.controller.timeline import Moment

__all__ = ["add", "draw_timeline"]

FOLLOW_PAUSE = 0.25
"""Seconds between two looks for new events."""
_ANY = (*(kind for kind in Kind if kind is not Kind.LOAD_BALANCER), "operation")


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "why", cloud=True)(why)
    command(app, "timeline", cloud=True)(timeline)
    command(app, "events", cloud=True)(events)


def why(
    session: Session,
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID|NAME",
            help="A load balancer, something below it, an amphora or an operation.",
            autocompletion=names_of(Kind.LOAD_BALANCER, also=_ANY),
        ),
    ],
) -> None:
    """Say why something is as it is: who holds it, at which step, for how long, what happens next, what you can do."""
    from octavia_core.cli.output import ago, status
    from octavia_core.domain.codec import to_json

    try:
        with session.look() as controller:
            found = controller.why(id)
    except TransientError as error:
        raise TransientError(
            f"{error}; nothing can be looked up now, and operations stand still: they go on by themselves when it answers"
        ) from error
    hint = session.screen.hint
    found = attrs.evolve(found, summary=hint(found.summary), advice=tuple(map(hint, found.advice)))
    if session.json:
        session.screen.data(to_json(found))
        return
    from rich.text import Text

    name = f"{found.name} ({found.id})" if found.name else found.id
    session.screen.say(Text.assemble(f"{found.kind} {name} is ", status(found.status), f": {found.summary}"))
    rows: list[tuple[str, Any]] = [
        ("operation", f"{found.operation} ({found.doing})" if found.operation else None),
        ("held by", found.holder),
        ("step", found.step),
        ("for", ago(found.age) if found.age is not None else None),
        ("cause", found.cause),
        ("next attempt", None if found.next_attempt is None else _soon(found.next_attempt)),
        ("next", found.next),
        *(("not well", problem) for problem in found.problems),
        *(("you can", advice) for advice in found.advice),
    ]
    for label, value in rows:
        if value:
            session.screen.say(Text.assemble((f"  {label:<13}", "dim"), str(value)))


def timeline(
    session: Session,
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID|NAME",
            help="A load balancer, an amphora or an operation.",
            autocompletion=names_of(Kind.LOAD_BALANCER, also=(Kind.AMPHORA, "operation")),
        ),
    ],
) -> None:
    """Show what happened, step by step, with the time that each took."""
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        entries = controller.timeline(id)
    if session.json:
        session.screen.data([to_json(entry) for entry in entries])
        return
    draw_timeline(session, entries)


def events(
    session: Session,
    lb: Maybe = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come, until Ctrl-C.")] = False,
    after: Annotated[
        int, typer.Option("--after", min=0, metavar="NUMBER", help="Only those with a greater sequence number.")
    ] = 0,
) -> None:
    """Show events, oldest first; with --json one object on each line."""
    from octavia_core.cli.output import moment
    from octavia_core.domain.codec import to_json

    before = after
    with session.look() as controller, until_ctrl_c() if follow else contextlib.nullcontext():
        owner = _owner(controller, lb) if lb else None
        while True:
            batch = controller.events(after=after, load_balancer_id=owner)
            for event in batch:
                after = event.sequence
                if session.json:
                    session.screen.line(to_json(event))
                else:
                    session.screen.say(f"{moment(event.at)}  {event.name:<24} {event.text}")
            if batch:
                continue
            if not follow:
                if after == before and not session.json:
                    session.screen.note("no events" + (f" with a number above {after}" if after else ""))
                return
            flush()
            controller.clock.sleep(FOLLOW_PAUSE)


def _soon(seconds: float) -> str:
    from octavia_core.cli.output import ago

    return f"in {ago(seconds)}" if seconds > 0 else "now"


def draw_timeline(session: Session, entries: Sequence[Moment]) -> None:
    """The timeline as a table."""
    from octavia_core.cli.output import ago, moment

    rows = []
    for entry in entries:
        took = ago(entry.seconds) if entry.seconds is not None else ("..." if entry.open else "")
        rows.append((moment(entry.at), took, entry.what, entry.text))
    session.screen.table(("at", "took", "what", ""), rows, empty="nothing happened yet")


def _owner(controller: Any, name: str) -> str:
    """The id; a load balancer that is DELETED still has events, under its id."""
    from octavia_core.errors import NotFound

    try:
        return str(controller.resolve(Kind.LOAD_BALANCER, name))
    except NotFound:
        if controller.storage.read(lambda tx: tx.tree(name)) is None:
            raise
        return name
