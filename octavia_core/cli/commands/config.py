"""`octavia-admin config show|check|authorities`: the settings of a state directory, or of files as a cloud has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.session import Session

if TYPE_CHECKING:
    from octavia_core.settings import Settings

__all__ = ["add", "state_settings"]

ConfigDir = Annotated[
    list[str] | None,
    typer.Option("--config-dir", metavar="DIR", help="Every *.conf in it, in order of name, after the files."),
]
Remarks = Sequence[tuple[str, str, str, str]]
"""File, group, option, and what is to be said of it."""


def add(app: typer.Typer) -> None:
    """Add the commands."""
    config = typer.Typer(no_args_is_help=True, help="Settings.")
    app.add_typer(config, name="config")
    command(config, "show", cloud=True)(show)
    command(config, "check", cloud=True)(check)
    command(config, "authorities")(authorities)


def show(
    session: Session,
    everything: Annotated[bool, typer.Option("--all", help="Defaults too, not only what differs from them.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Show the settings, where each value comes from, and what a file says that has no effect here."""
    settings, remarks = _read(session, config_dir)
    rows = []
    for group, name, value, help in settings:
        origin = settings.origin(f"{group}.{name}")
        if everything or origin != "default":
            rows.append((group, name, value, origin, help))
    if session.json:
        found = [{"group": g, "option": n, "value": _plain(v), "origin": o} for g, n, v, o, _ in rows]
        none = [{"group": g, "option": n, "origin": f, "remark": r} for f, g, n, r in remarks]
        session.screen.data([*found, *none])
        return
    session.screen.table(
        ("group", "option", "value", "from", "meaning"),
        [
            *((f"[{g}]", n, _plain(v), o, h) for g, n, v, o, h in rows),
            *((f"[{g}]", n, "", f, r) for f, g, n, r in remarks),
        ],
        empty="everything has its default; see them with --all",
    )


def check(session: Session, config_dir: ConfigDir = None) -> None:
    """Check settings, drivers, certificates, programs and the database, without starting anything."""
    remarks: Remarks = []
    if not (session.config_files or config_dir):
        with session.look() as controller:
            world = controller.world
        place = f"state directory {session.path}"
    else:
        from octavia_core.controller.wiring import build_world
        from octavia_core.db.storage import SqlStorage
        from octavia_core.hooks.plugins import Plugins

        settings, remarks = _read(session, config_dir)
        world = build_world(settings, Plugins())
        world.amphora.close()
        SqlStorage.open(settings).close()
        place = ", ".join(settings.files)
    ports = ("compute", "network", "amphora", "certificates", "issuer")
    names = {port: type(getattr(world, port)).__name__ for port in ports}
    words = [f"{file}: [{group}] {name} {remark}" for file, group, name, remark in remarks]
    # a driver that runs differently on different machines says how it does here
    words += [note for port in ports if isinstance(note := getattr(getattr(world, port), "note", None), str)]
    if session.json:
        data: dict[str, Any] = {"ok": True, "drivers": names, "remarks": words}
        data |= {"settings": place} if session.config_files or config_dir else {"state_directory": session.path}
        session.screen.data(data)
        return
    for sentence in words:
        session.screen.say(sentence)
    session.screen.say(f"{place}: everything needed is there")


def authorities(
    session: Session, directory: Annotated[str, typer.Argument(metavar="DIR", help="Made; must not be there yet.")]
) -> None:
    """Make two authorities, one for amphorae and one for controllers, and the controllers' own certificate.

    The files are those that [certificates] ca_certificate (agents.pem) and ca_private_key (agents.key),
    [controller_worker] client_ca (controllers.pem), [haproxy_amphora] client_cert (controller.pem) and server_ca
    (agents.pem) name.
    """
    import os

    from octavia_core.certs.authority import create_authorities
    from octavia_core.errors import ConfigurationError

    path = os.path.abspath(os.path.expanduser(directory))
    if os.path.lexists(path):
        raise ConfigurationError(f"{path} is there already; give another directory, so that nothing is replaced")
    create_authorities(path)
    if session.json:
        session.screen.data({"ok": True, "directory": path})
    else:
        session.screen.say(f"{path}: two authorities and the controllers' certificate")


def state_settings(session: Session) -> Settings:
    """The settings of the state directory, which must exist."""
    session.existing()
    from octavia_core.controller.state import prepare_state

    return prepare_state(session.path).settings()


def _read(session: Session, folders: list[str] | None) -> tuple[Settings, Remarks]:
    if not (session.config_files or folders):
        return state_settings(session), []
    from octavia_core.controller.sources import load_settings, remarks, settings_files

    chosen = settings_files(session.config_files, folders or ())
    settings = load_settings(chosen, state_directory=session.path if session.state else "")
    return settings, remarks(settings)


def _plain(value: Any) -> Any:
    from octavia_core.domain.secret import Secret

    if isinstance(value, Secret):
        return "<secret>"
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value
