"""`octavia-admin heartbeat-key ...` and `controllers ...`: telling every agent something new, without a failover."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.exits import Exit, TimeIsOver
from octavia_core.cli.session import Interrupted, Session

if TYPE_CHECKING:
    from octavia_core.controller.facade import Controller
    from octavia_core.controller.rotation import Progress

__all__ = ["add"]

PAUSE = 0.5
"""Seconds between two looks at the progress."""
NOBODY = 10.0
"""Seconds between two looks whether anybody is there to tell them."""


def add(app: typer.Typer) -> None:
    """Add both groups."""
    for what, words in (
        ("heartbeat-key", "The key that signs heartbeats."),
        ("controllers", "The list of controllers that amphorae send heartbeats to."),
    ):
        group = typer.Typer(no_args_is_help=True, help=words)
        app.add_typer(group, name=what)
        command(group, "show", cloud=True)(_bound(show, what))
        command(group, "rotate", cloud=True, changes=True)(_bound(rotate, what))


def _bound(function: Callable[..., None], what: str) -> Callable[..., None]:
    @functools.wraps(function)
    def bound(session: Session) -> None:
        function(session, what)

    del bound.__wrapped__  # its parameters are these, not those of the function below it
    return bound


def show(session: Session, what: str) -> None:
    """Show how many agents have what the settings say, and what is left to do."""
    with session.look() as controller:
        found = _progress(controller, what)
    _print(session, found)


def rotate(session: Session, what: str) -> None:
    """Tell every agent what the settings say, as one operation each; begun again, it goes on where it stopped.

    For a key: accept it everywhere first ([health_manager] heartbeat_keys_accepted), then make it the heartbeat_key of
    workers and health managers and accept the old one, then run this, and drop the old one when it says so.
    """
    from octavia_core.controller.rotation import What
    from octavia_core.controller.rotation import rotate as store

    deadline = None if session.timeout is None else time.monotonic() + session.timeout
    with session.work() as hand:
        controller = hand.controller
        stored = store(controller.storage, controller.settings, What(what), actor=session.actor)
        controller.nudge()
        session.screen.note(f"{stored} agents are to be told")
        found = _progress(controller, what)
        look_at = time.monotonic()
        try:
            while session.wait and found.under_way:
                now = time.monotonic()
                if now >= look_at:
                    look_at = now + NOBODY
                    if _nobody_works(controller):
                        start = "octavia-core-worker" if session.config_files else "octavia-admin up"
                        session.screen.note(f"no worker is alive, so nobody is told; start one: {start}")
                if deadline is not None and now >= deadline:
                    raise TimeIsOver(
                        f"{found.under_way} agents are not told yet; it goes on: octavia-admin {what} show"
                    )
                controller.clock.sleep(PAUSE)
                found = _progress(controller, what)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {found.under_way} agents are not told yet; it goes on: octavia-admin {what} show"
            ) from None
    _print(session, found)
    if found.failed:
        raise typer.Exit(Exit.FAILED)


def _nobody_works(controller: Controller) -> bool:
    attendance, now = controller.storage.read(lambda tx: (tx.attendance(), tx.governing().now))
    return all(until <= now for until in attendance.workers.values())


def _progress(controller: Controller, what: str) -> Progress:
    from octavia_core.controller.rotation import What, progress

    return progress(controller.storage, controller.settings, What(what))


def _print(session: Session, found: Progress) -> None:
    from octavia_core.domain.codec import to_json

    if session.json:
        session.screen.data(to_json(found) | {"done": found.done and found.confirmed})
        return
    rows: list[tuple[str, Any]] = [
        ("fingerprint", found.mark),
        ("amphorae that serve", found.amphorae),
        ("have it", found.told),
        ("are being told", found.under_way),
        ("could not be told", found.failed),
        *((("not known what they have", found.unknown),) if found.unknown else ()),
        *((f"of amphora {id}", why) for id, why in found.failures.items()),
        *(("does not accept it yet", name) for name in found.refusing),
        *((f"heard with it by {name}", many) for name, many in found.heard.items()),
        *((f"heard with another key by {name}", many) for name, many in found.otherwise.items() if many),
        *(("signs with another key", f"amphora {id}") for id in found.still),
        ("next", _next(found)),
    ]
    session.screen.table((str(found.what), ""), rows, empty="")


def _next(found: Progress) -> str:
    if found.done and not found.confirmed:
        return "all of them were told; what was before may be dropped when a health manager hears all of them with it"
    if found.done and not found.refusing:
        return "all of them have it; what was before may be dropped from the settings"
    if found.refusing:
        return "accept it there first: [health_manager] heartbeat_keys_accepted"
    if found.under_way:
        return "it goes on by itself"
    if found.told == found.amphorae:
        return "wait until nobody is heard with another key any more"
    return f"tell them: octavia-admin {found.what} rotate"
