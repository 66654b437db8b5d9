"""`octavia-admin demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from octavia_core.cli.command import command
from octavia_core.cli.exits import Exit
from octavia_core.cli.session import Session

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo")(demo)


def demo(
    session: Session,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running at the end, and say what to try.")] = False,
) -> None:
    """Show the main job on this machine: a load balancer under traffic that survives all that happens to it.

    Without --state in a temporary directory; half a minute, no privileges. Exit code 0 only if all of it held.
    """
    from octavia_core.cli.demo.story import tell

    if not tell(session, keep=keep):
        raise typer.Exit(int(Exit.FAILED))
