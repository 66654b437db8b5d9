"""`octavia-admin up|down|db|config|plugins|orphans`: the machine that all runs on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.session import Session

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    from octavia_core.cli.commands import up

    up.add(app)
    command(app, "orphans")(orphans)
    command(app, "plugins")(plugins)
    config = typer.Typer(no_args_is_help=True, help="Settings.")
    app.add_typer(config, name="config")
    command(config, "show")(config_show)
    command(config, "check")(config_check)
    database = typer.Typer(no_args_is_help=True, help="The database of a state directory.")
    app.add_typer(database, name="db")
    command(database, "upgrade")(db_upgrade)
    command(database, "check")(db_check)


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
    from octavia_core.hooks.plugins import KINDS, Plugins

    installed = Plugins()
    offers = [offer for kind in KINDS for offer in installed.offers(kind)]
    if session.json:
        session.screen.data([{"kind": o.kind, "name": o.name, "package": o.package} for o in offers])
        return
    session.screen.table(("kind", "name", "package"), ((o.kind, o.name, o.package) for o in offers), empty="no drivers")


def config_show(
    session: Session,
    everything: Annotated[bool, typer.Option("--all", help="Defaults too, not only what differs from them.")] = False,
) -> None:
    """Show the settings of the state directory, and where each value comes from."""
    settings = _settings(session)
    rows = []
    for group, name, value, help in settings:
        origin = settings.origin(f"{group}.{name}")
        if everything or origin != "default":
            rows.append((group, name, value, origin, help))
    if session.json:
        session.screen.data([{"group": g, "option": n, "value": _plain(v), "origin": o} for g, n, v, o, _ in rows])
        return
    session.screen.table(
        ("group", "option", "value", "from", "meaning"),
        ((f"[{g}]", n, _plain(v), o, h) for g, n, v, o, h in rows),
        empty="everything has its default; see them with --all",
    )


def config_check(session: Session) -> None:
    """Check settings, drivers, certificates, programs and the database, without starting anything."""
    with session.look() as controller:
        world = controller.world
    ports = ("compute", "network", "amphora", "certificates", "issuer")
    names = {port: type(getattr(world, port)).__name__ for port in ports}
    if session.json:
        session.screen.data({"ok": True, "state_directory": session.path, "drivers": names})
        return
    session.screen.say(f"state directory {session.path}: everything needed is there")


ConfigFile = Annotated[
    list[str] | None,
    typer.Option(
        "--config-file", metavar="FILE", help="Settings of a cloud instead of a state directory; the last wins."
    ),
]


def db_upgrade(session: Session, config_file: ConfigFile = None) -> None:
    """Bring the database to this program's version; making it counts too. Repeating it is harmless."""
    from octavia_core.controller.sources import load_settings
    from octavia_core.controller.state import prepare_state
    from octavia_core.db.storage import prepare

    prepare(load_settings(config_file) if config_file else prepare_state(session.path).settings())
    _ready(session, config_file)


def db_check(session: Session, config_file: ConfigFile = None) -> None:
    """Say whether the database has this program's version; changes nothing."""
    from octavia_core.controller.sources import load_settings
    from octavia_core.db.storage import SqlStorage

    SqlStorage.open(load_settings(config_file) if config_file else _settings(session)).close()
    _ready(session, config_file)


def _ready(session: Session, config_file: list[str] | None) -> None:
    place = ", ".join(config_file) if config_file else session.path
    if session.json:
        session.screen.data({"ok": True, "settings": place})
    else:
        session.screen.say(f"the database of {place} has this program's version")


def _settings(session: Session) -> Any:
    session.existing()
    from octavia_core.controller.state import prepare_state

    return prepare_state(session.path).settings()


def _plain(value: Any) -> Any:
    from octavia_core.domain.secret import Secret

    if isinstance(value, Secret):
        return "<secret>"
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value
