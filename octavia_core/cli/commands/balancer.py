"""`octavia-admin lb ...`: whole load balancers."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.completion import names_of
from octavia_core.cli.fields import POOL, fields_of, reference
from octavia_core.cli.session import Hand, Session
from octavia_core.domain.vocabulary import Kind
from octavia_core.domain.wishes import NewLoadBalancer
from octavia_core.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from octavia_core.controller.facade import Controller
    from octavia_core.domain.operation import Operation as Row

__all__ = ["Maybe", "Name", "add", "listener_of", "pool_of"]

Name = Annotated[
    str,
    typer.Argument(metavar="LB", help="Name or id of a load balancer.", autocompletion=names_of(Kind.LOAD_BALANCER)),
]
Maybe = Annotated[
    str | None,
    typer.Argument(
        metavar="[LB]", help="Only those of this load balancer.", autocompletion=names_of(Kind.LOAD_BALANCER)
    ),
]
_CREATE = fields_of(NewLoadBalancer)
_CHANGE = fields_of(NewLoadBalancer, only=("name", "description", "enabled"))


def add(app: typer.Typer) -> None:
    """Add `lb`."""
    group = typer.Typer(no_args_is_help=True, help="Load balancers.")
    app.add_typer(group, name="lb")
    command(group, "create", fields=_CREATE + POOL, changes=True)(create)
    command(group, "list", cloud=True)(list_)
    command(group, "show", cloud=True)(show)
    command(group, "set", fields=_CHANGE, changes=True)(set_)
    command(group, "delete", changes=True, cloud=True)(delete)
    command(group, "failover", changes=True, cloud=True)(failover)
    command(group, "apply", changes=True)(apply)
    command(group, "history", cloud=True)(history)


def create(
    session: Session,
    values: dict[str, Any],
    listener: Annotated[
        list[str] | None,
        typer.Option(
            "--listener",
            metavar="PROTOCOL:PORT",
            help="A port of the VIP: HTTP:80, TCP:5432, TERMINATED_HTTPS:443; settings may follow: 'HTTP:80 name=web'.",
        ),
    ] = None,
    cert: Annotated[
        str | None,
        typer.Option(
            "--cert", help="Certificate of the TERMINATED_HTTPS listeners: a name in the secret store, or a path."
        ),
    ] = None,
) -> None:
    """Ask for a load balancer: its listeners, and one pool with the members for each of them.

    More can be added later, or be written in a document: octavia-admin lb apply -f FILE.
    """
    from octavia_core.policy.changes import wish

    pool = pool_of(values)
    document = dict(values)
    document["listeners"] = [listener_of(text, cert, pool) for text in listener or ()]
    if not listener and pool:
        document["pools"] = [pool]
    asked = wish(NewLoadBalancer, document)
    with session.work(make=True) as hand:
        row = hand.carry_out(lambda c: c.create_load_balancer(asked, **session.asked))
        _heard(hand, row)
        _shown(session, hand.controller, row)


def list_(session: Session) -> None:
    """List the load balancers."""
    from octavia_core.cli.output import status

    with session.look() as controller:
        found = controller.load_balancers()
    if session.json:
        from octavia_core.domain.codec import to_json

        session.screen.data([to_json(one) for one in found])
        return
    session.screen.table(
        ("id", "name", "VIP", "provisioning", "operating"),
        ((s.id, s.name, s.vip_address, status(s.provisioning_status), status(s.operating_status)) for s in found),
        empty="no load balancers; make one with: octavia-admin lb create --name web --listener HTTP:80 --member ADDRESS:PORT",
    )


def show(session: Session, lb: Name) -> None:
    """Show a load balancer with everything below it, and where it can be reached."""
    with session.look() as controller:
        _shown(session, controller, None, lb)


def set_(session: Session, values: dict[str, Any], lb: Name) -> None:
    """Change a load balancer itself."""
    with session.work() as hand:
        id = hand.controller.load_balancer(lb).id
        row = hand.carry_out(lambda c: c.update_load_balancer(id, **session.asked, wait=session.patience, **values))
        _shown(session, hand.controller, row, id)


def delete(
    session: Session,
    lb: Name,
    cascade: Annotated[
        bool, typer.Option("--cascade/--no-cascade", help="With everything below it, or only when it is bare.")
    ] = True,
    if_exists: Annotated[bool, typer.Option("--if-exists", help="Absent is success.")] = False,
) -> None:
    """Delete a load balancer with its amphorae and its address."""
    with session.work() as hand:
        try:
            id = hand.controller.load_balancer(lb).id
        except NotFound:
            if not if_exists:
                raise
            if session.json:
                session.screen.data({"id": lb, "deleted": True, "operation": None})
            return
        row = hand.carry_out(
            lambda c: c.delete_load_balancer(id, cascade=cascade, **session.asked, wait=session.patience)
        )
    gone(session, "load balancer", id, row)


def failover(session: Session, lb: Name) -> None:
    """Build new amphorae in place of all it has; also the repair of a load balancer in ERROR."""
    with session.work() as hand:
        id = hand.controller.load_balancer(lb).id
        row = hand.carry_out(lambda c: c.failover_load_balancer(id, **session.asked, wait=session.patience))
        _heard(hand, row)
        _shown(session, hand.controller, row, id)


def apply(
    session: Session,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="JSON or TOML (by its name); - reads JSON from stdin.")
    ],
) -> None:
    """Make a load balancer what a document says, creating it if there is none of that name.

    The document has the names of the load-balancer API; docs/how-to/apply-a-document.md shows one.
    """
    from octavia_core.policy.changes import wish

    asked = wish(NewLoadBalancer, read_document(file), f"{named(file)}:")
    with session.work(make=True) as hand:
        row = hand.carry_out(lambda c: c.apply(asked, **session.asked, wait=session.patience))
        _heard(hand, row)
        if row is None and not session.json:
            session.screen.note(f"load balancer {asked.name} is that already; nothing was done")
        _shown(session, hand.controller, row, asked.name or "")


def history(session: Session, lb: Name) -> None:
    """List the configurations a load balancer had, newest first."""
    from octavia_core.cli.output import moment

    with session.look() as controller:
        found = controller.revisions(controller.load_balancer(lb).id)
    if session.json:
        session.screen.data(
            [
                {"number": r.number, "good": r.good, "operation_id": r.operation_id, "created_at": r.created_at}
                for r in found
            ]
        )
        return
    session.screen.table(
        ("revision", "accepted by every amphora", "at", "operation id"),
        ((r.number, "yes" if r.good else "no", moment(r.created_at), r.operation_id) for r in found),
        empty="no configuration yet",
    )


def gone(session: Session, words: str, id: str, row: Row | None) -> None:
    """Say that something was deleted, or will be."""
    from octavia_core.domain.codec import to_json

    done = row is None or row.state.final
    if session.json:
        session.screen.data({"id": id, "deleted": done, "operation": to_json(row) if row else None})
    else:
        session.screen.say(f"{words} {id} is {'deleted' if done else 'going to be deleted'}")


def listener_of(
    text: str, cert: str | None, pool: Mapping[str, Any] | None, said: str = "--listener"
) -> dict[str, Any]:
    """`PROTOCOL:PORT name=value ...` as part of a document; `said` is where it was written."""
    place, *settings = text.split() or [""]
    protocol, colon, port = place.partition(":")
    if not colon or not port or not protocol:
        raise BadRequest(f"{said} {text!r} must be PROTOCOL:PORT, for example HTTP:80")
    listener: dict[str, Any] = {"protocol": protocol.upper(), "protocol_port": port} | settings_of(settings, said)
    if cert is not None and protocol.upper() == "TERMINATED_HTTPS":
        listener.setdefault("tls_certificate_id", reference(cert))
    if pool is not None:
        listener["default_pool"] = dict(pool)
    return listener


def pool_of(values: dict[str, Any]) -> dict[str, Any] | None:
    """The pool that the quick options describe, taken out of `values`; None when none was used."""
    pool = {field.name: values.pop(field.name) for field in POOL if field.name in values}
    if "health_monitor" in pool:
        pool["health_monitor"] = monitor_of(pool["health_monitor"])
    return pool or None


def monitor_of(text: str, said: str = "--monitor") -> dict[str, Any]:
    """`TYPE[:PATH] name=value ...` as part of a document; `said` is where it was written."""
    first, *settings = text.split() or [""]
    kind, colon, path = first.partition(":")
    monitor: dict[str, Any] = {"type": kind.upper()}
    if colon:
        monitor["url_path"] = path
    return monitor | settings_of(settings, said)


def settings_of(words: list[str], flag: str) -> dict[str, Any]:
    """`name=value` words as part of a document."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise BadRequest(f"{flag}: {word!r} must be NAME=VALUE, for example name=web")
        found[name] = value
    return found


def read_document(file: str) -> Any:
    """The content of a JSON or TOML file; `-` is JSON from stdin.

    Raises:
        BadRequest: it cannot be read, or is not what its name says.
    """
    called = named(file)
    try:
        if file == "-":
            raw = sys.stdin.buffer.read()
        else:
            with open(os.path.expanduser(file), "rb") as opened:
                raw = opened.read()
        text = raw.decode("utf-8")
        return tomllib.loads(text) if file.endswith(".toml") else json.loads(text, object_pairs_hook=_once)
    except OSError as error:
        raise BadRequest(f"{called} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"{called} is no TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        hint = "" if file.endswith(".json") else " (a TOML document needs a name that ends in .toml)"
        raise BadRequest(f"{called} is no JSON: {error}{hint}") from error


def named(file: str) -> str:
    """A file in a sentence."""
    return "standard input" if file == "-" else file


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ, as TOML demands it too: the last of two would silently win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return found


def _heard(hand: Hand, row: Row | None) -> None:
    if row is not None and row.state.final and row.load_balancer_id:
        hand.let_it_be_heard(row.load_balancer_id)


def _shown(session: Session, controller: Controller, row: Row | None, lb: str = "") -> None:
    from octavia_core.cli.trees import balancer_json, draw_balancer

    id = row.load_balancer_id if row is not None and row.load_balancer_id else lb
    tree = controller.load_balancer(id)
    if session.json:
        session.screen.data(balancer_json(controller, tree, row))
    else:
        session.screen.say(draw_balancer(controller, tree))
