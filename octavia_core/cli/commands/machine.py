"""`octavia-admin up|down|db|plugins|orphans`: the machine that all runs on."""

from __future__ import annotations

import typer

from octavia_core.cli.command import command
from octavia_core.cli.commands.config import state_settings
from octavia_core.cli.session import Session

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    from octavia_core.cli.commands import config, up

    up.add(app)
    command(app, "orphans", cloud=True)(orphans)
    command(app, "plugins")(plugins)
    config.add(app)
    database = typer.Typer(no_args_is_help=True, help="The database of a state directory, or of a cloud.")
    app.add_typer(database, name="db")
    command(database, "upgrade", cloud=True)(db_upgrade)
    command(database, "check", cloud=True)(db_check)


def orphans(session: Session) -> None:
    """List what exists outside and belongs to no row, and undos that go on trying; touches nothing."""
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        found = controller.orphans()
    if session.json:
        session.screen.data([to_json(one) for one in found])
        return
    session.screen.table(("kind", "id", "why"), ((o.kind, o.id, o.why) for o in found), empty="no orphans")


def plugins(session: Session) -> None:
    """List the installed drivers, by kind, and the packages that bring them."""
    from octavia_core.controller import statistics
    from octavia_core.hooks.plugins import KINDS, Plugins

    installed = Plugins({"octavia-core": statistics})
    offers = [offer for kind in KINDS for offer in installed.offers(kind)]
    if session.json:
        session.screen.data([{"kind": o.kind, "name": o.name, "package": o.package} for o in offers])
        return
    session.screen.table(("kind", "name", "package"), ((o.kind, o.name, o.package) for o in offers), empty="no drivers")


def db_upgrade(session: Session) -> None:
    """Bring the database to this program's version; making it counts too. Repeating it is harmless."""
    from octavia_core.controller.sources import load_settings
    from octavia_core.controller.state import prepare_state
    from octavia_core.db.storage import prepare

    files = session.config_files
    prepare(load_settings(files) if files else prepare_state(session.path).settings())
    _ready(session)


def db_check(session: Session) -> None:
    """Say whether the database has this program's version; changes nothing."""
    from octavia_core.controller.sources import load_settings
    from octavia_core.controller.start import promptly
    from octavia_core.db.storage import SqlStorage

    files = session.config_files
    SqlStorage.open(promptly(load_settings(files) if files else state_settings(session))).close()
    _ready(session)


def _ready(session: Session) -> None:
    place = ", ".join(session.config_files) or session.path
    if session.json:
        session.screen.data({"ok": True, "settings": place})
    else:
        session.screen.say(f"the database of {place} has this program's version")
