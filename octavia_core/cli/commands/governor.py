"""`octavia-admin governor ...`: what holds failovers back, and holding them back by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.hints import starts_health_manager
from octavia_core.cli.session import Session

if TYPE_CHECKING:
    from octavia_core.controller.governing import Overview
    from octavia_core.controller.unheard import Unheard

__all__ = ["add"]

Reason = Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why; it is shown to whoever asks.")]
Note = Annotated[str | None, typer.Option("--reason", "-r", metavar="TEXT", help="Why, for the records.")]


def add(app: typer.Typer) -> None:
    """Add `governor`."""
    group = typer.Typer(no_args_is_help=True, help="Failovers: what holds them back; pausing and resuming them.")
    app.add_typer(group, name="governor")
    command(group, "show", cloud=True)(show)
    command(group, "pause", cloud=True)(pause)
    command(group, "resume", cloud=True)(resume)


def show(session: Session) -> None:
    """Show whether failovers are paused, what the governor holds back by itself, and how many may start."""
    from octavia_core.controller.governing import RECENT, overview
    from octavia_core.controller.unheard import unheard
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        found = overview(controller.storage, controller.settings)
        health = controller.settings.health_manager
        nobody = None if found.observers else unheard(controller.storage, running=controller.running())
    if session.json:
        session.screen.data({**to_json(found), "unheard": None if nobody is None else nobody.words})
        return
    rows: list[tuple[str, Any]] = [
        ("failovers", found.words or "go"),
        ("may start now", "none while they are paused" if found.words else _tokens(found)),
        ("threshold", "none" if health.failover_threshold is None else f"{health.failover_threshold} silent at once"),
        ("timeout", f"{health.heartbeat_timeout:g} s of silence"),
        *((f"held by {rule}", f"{many} amphorae: {found.evidence.get(rule, '')}") for rule, many in found.held.items()),
        (f"last {RECENT / 60:g} min", _counted(found.recent) or "no failover"),
        ("to be tried again", found.waiting),
        ("health managers", found.observers if nobody is None else _nobody(session, nobody)),
    ]
    session.screen.table(("what", "how it is"), rows, empty="")


def _nobody(session: Session, found: Unheard) -> str:
    start = starts_health_manager(session.config_files)
    return f"{found.words}; start one: {start}" if found.start else found.words


def _tokens(found: Overview) -> str:
    return f"{int(found.tokens)}; {found.per_minute:g} come back per minute, for all health managers"


def pause(session: Session, reason: Reason) -> None:
    """Pause all failovers, of what is proven dead too, on every host, until they are resumed."""
    from octavia_core.controller import governing
    from octavia_core.domain.codec import to_json
    from octavia_core.errors import BadRequest

    reason = " ".join(reason.split())
    if not reason:
        raise BadRequest("the reason must say something; it is shown to whoever asks why nothing is failed over")
    with session.look() as controller:
        found = governing.pause(controller.storage, actor=session.actor, reason=reason)
    if session.json:
        session.screen.data(to_json(found))
    else:
        session.screen.say(f"failovers are {governing.pause_words(found)}")
        session.screen.note("nothing dead is replaced until: octavia-admin governor resume")


def resume(session: Session, reason: Note = None) -> None:
    """Let failovers go again."""
    from octavia_core.controller import governing
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        before = governing.resume(controller.storage, actor=session.actor, reason=reason)
        controller.nudge()
    if session.json:
        session.screen.data({"resumed": True, "before": to_json(before)})
    else:
        session.screen.say(f"failovers go again; they were {governing.pause_words(before)}")


def _counted(recent: Any) -> str:
    return ", ".join(f"{many} by {rule}" for rule, many in sorted(recent.items()))
