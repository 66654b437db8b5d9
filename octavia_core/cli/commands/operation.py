"""`octavia-admin operation ...`: what was asked for, and how far it is."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from octavia_core.cli.command import command
from octavia_core.cli.commands.balancer import Maybe
from octavia_core.cli.completion import names_of
from octavia_core.cli.exits import Exit
from octavia_core.cli.session import Session
from octavia_core.errors import Refused

__all__ = ["add"]

Id = Annotated[
    str, typer.Argument(metavar="OPERATION", help="Id of an operation.", autocompletion=names_of("operation"))
]


def add(app: typer.Typer) -> None:
    """Add `operation`."""
    group = typer.Typer(no_args_is_help=True, help="Operations: what was asked for, and how far it is.")
    app.add_typer(group, name="operation")
    command(group, "list", cloud=True)(list_)
    command(group, "show", cloud=True)(show)
    command(group, "cancel", cloud=True)(cancel)
    command(group, "retry", cloud=True)(retry)
    command(group, "release", cloud=True)(release)


def list_(
    session: Session,
    lb: Maybe = None,
    unfinished: Annotated[bool, typer.Option("--open", help="Only those that are not over.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="NUMBER", min=1, max=10_000, help="At most so many.")] = 100,
) -> None:
    """List operations, newest first."""
    from octavia_core.cli.output import ago, moment, status
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        owner = controller.load_balancer(lb).id if lb else None
        found = controller.operations(load_balancer_id=owner, open_only=unfinished, limit=limit)
        now = controller.storage.now()
    if session.json:
        session.screen.data([to_json(row) for row in found])
        return
    session.screen.table(
        ("id", "what", "state", "asked for", "took", "load balancer id", "error"),
        (
            (
                row.id,
                row.flow,
                status(row.state),
                moment(row.created_at),
                ago(((row.finished_at or now) - row.created_at) / 1_000_000),
                row.load_balancer_id,
                row.error,
            )
            for row in found
        ),
        empty="no operations",
    )


def show(session: Session, operation: Id) -> None:
    """Show one operation with its journal."""
    from octavia_core.cli.commands.look import draw_timeline
    from octavia_core.cli.output import moment, status
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        row = controller.operation(operation).row
        journal = controller.storage.read(lambda tx: tx.journal(operation))
        entries = controller.timeline(operation)
    if session.json:
        session.screen.data(to_json(row) | {"journal": [to_json(entry) for entry in journal]})
        return
    rows = [
        ("what", row.flow),
        ("state", status(row.state)),
        ("asked for by", row.actor),
        ("at", moment(row.created_at)),
        ("over at", moment(row.finished_at)),
        ("load balancer", row.load_balancer_id),
        ("error", row.error),
    ]
    session.screen.table(("operation", row.id), ((n, v) for n, v in rows if v), empty="")
    draw_timeline(session, entries)


def cancel(session: Session, operation: Id) -> None:
    """Undo an operation that is not over: what it has done is taken back, its subjects end in ERROR."""
    with session.look() as controller:
        handle = controller.operation(operation)
        if not handle.cancel(actor=session.actor):
            raise Refused(f"operation {operation} is over already ({handle.state}); there is nothing to cancel")
        controller.nudge()
        state = handle.state
    if session.json:
        session.screen.data({"id": operation, "cancelled": True, "state": str(state)})
    else:
        session.screen.say(f"operation {operation} is being undone; watch it with: octavia-admin why {operation}")


def retry(session: Session, operation: Id) -> None:
    """Have an operation that pauses looked at now."""
    from octavia_core.controller import release as ways
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        row = ways.retry(controller.storage, operation, actor=session.actor)
        controller.nudge()
    if session.json:
        session.screen.data(to_json(row))
    else:
        session.screen.say(f"operation {operation} is looked at now; watch it with: octavia-admin why {operation}")


def release(
    session: Session,
    operation: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Give up an operation that cannot go on, and have what its load balancer needs built anew.

    It says first what it will do. On a terminal it then asks; elsewhere, without --yes, it does nothing and ends with 2.
    """
    from octavia_core.controller import release as ways

    with session.look() as controller:
        planned = ways.plan_release(controller.storage, operation)
        if not session.json:
            for sentence in planned.words:
                session.screen.say(sentence)
        if not yes and not _agreed(session):
            if session.json:
                session.screen.data({"id": operation, "released": False, "words": list(planned.words), "stored": None})
            session.screen.note("nothing was done; do it with --yes")
            raise typer.Exit(Exit.BAD_REQUEST)
        done = ways.release(controller.storage, operation, actor=session.actor)
        controller.nudge()
    if session.json:
        session.screen.data({"id": operation, "released": True, "words": list(done.words), "stored": done.stored})
    elif done.stored:
        session.screen.say(f"done; what goes on: octavia-admin why {done.stored}")
    else:
        session.screen.say("done")


def _agreed(session: Session) -> bool:
    """Ask, where there is somebody to ask."""
    if session.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm("Do it?", err=True)
