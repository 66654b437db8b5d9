"""`octavia-admin amphora ...`: the machines that balance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from octavia_core.cli.command import command
from octavia_core.cli.commands.balancer import Maybe
from octavia_core.cli.completion import names_of
from octavia_core.cli.session import Session
from octavia_core.domain.vocabulary import Kind

if TYPE_CHECKING:
    from octavia_core.domain.amphora import Amphora
    from octavia_core.domain.operation import Operation

__all__ = ["add"]

Id = Annotated[str, typer.Argument(metavar="AMPHORA", help="Id of an amphora.", autocompletion=names_of(Kind.AMPHORA))]


def add(app: typer.Typer) -> None:
    """Add `amphora`."""
    group = typer.Typer(no_args_is_help=True, help="Amphorae: the machines (or processes) that balance.")
    app.add_typer(group, name="amphora")
    command(group, "list", cloud=True)(list_)
    command(group, "show", cloud=True)(show)
    command(group, "failover", changes=True, cloud=True)(failover)
    command(group, "create-spare", changes=True, cloud=True)(create_spare)
    command(group, "delete", changes=True, cloud=True)(delete)


def list_(session: Session, lb: Maybe = None) -> None:
    """List amphorae, and when each was last heard from."""
    from octavia_core.cli.output import ago, status
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        found = controller.amphorae(controller.load_balancer(lb).id if lb else None)
        names = {one.id: one.name or one.id for one in controller.load_balancers()}
        hearts = {h.amphora_id: h for h in controller.storage.read(lambda tx: tx.liveness([a.id for a in found]))}
        now = controller.storage.now()
    if session.json:
        session.screen.data(
            [to_json(a) | {"last_heard": hearts[a.id].last_heard if a.id in hearts else None} for a in found]
        )
        return
    rows = []
    for a in found:
        heard = hearts[a.id].last_heard if a.id in hearts else None
        at = f"{a.lb_network_ip}:{a.agent_port}" if a.lb_network_ip else ""
        last = f"{ago((now - heard) / 1_000_000)} ago" if heard else "never"
        serves = names.get(a.load_balancer_id or "", a.load_balancer_id)
        rows.append((a.id, status(a.status), a.role, at, last, "spare" if a.status == "READY" else serves))
    session.screen.table(("id", "status", "role", "agent", "last heard", "load balancer"), rows, empty="no amphorae")


def show(session: Session, amphora: Id) -> None:
    """Show one amphora, DELETED ones too."""
    from octavia_core.cli.output import moment, status
    from octavia_core.domain.codec import to_json

    with session.look() as controller:
        found = controller.amphora(amphora)
        hearts = controller.storage.read(lambda tx: tx.liveness([amphora]))
    heard = hearts[0].last_heard if hearts else None
    data = to_json(found) | {"last_heard": heard}
    if session.json:
        session.screen.data(data)
        return
    rows = [(n, v) for n, v in data.items() if v is not None and n not in ("status", "last_heard")]
    rows += [("status", status(found.status)), ("last heard", moment(heard) or "never")]
    session.screen.table(("amphora", ""), rows, empty="")


def failover(session: Session, amphora: Id) -> None:
    """Build a new amphora in place of this one."""
    from octavia_core.cli.output import status
    from octavia_core.domain.codec import to_json

    with session.work() as hand:
        id = hand.controller.amphora(amphora).id
        row = hand.carry_out(lambda c: c.failover_amphora(id, **session.asked))
        lb = row.load_balancer_id if row else None
        present = hand.controller.amphorae(lb)
    if session.json:
        session.screen.data({"operation": to_json(row), "amphorae": [to_json(a) for a in present]})
        return
    session.screen.table(
        ("id", "status", "role", "load balancer"),
        ((a.id, status(a.status), a.role, a.load_balancer_id) for a in present),
        empty="no amphorae",
    )


def create_spare(session: Session) -> None:
    """Build an amphora that serves nobody: the next creation or failover takes it instead of waiting for a new one."""
    with session.work() as hand:
        row = hand.carry_out(lambda c: c.create_spare(**session.asked))
        id = str(row.amphora_id) if row else ""
        found = hand.controller.storage.read(lambda tx: tx.amphora(id))
    _print_one(session, row, found)


def delete(session: Session, amphora: Id) -> None:
    """Remove an amphora that serves nobody, with its server: a spare, or what a failed operation left."""
    with session.work() as hand:
        row = hand.carry_out(lambda c: c.delete_amphora(amphora, **session.asked))
        found = hand.controller.storage.read(lambda tx: tx.amphora(amphora))
    _print_one(session, row, found)


def _print_one(session: Session, row: Operation | None, found: Amphora | None) -> None:
    from octavia_core.cli.output import status
    from octavia_core.domain.codec import to_json

    if session.json:
        session.screen.data({"operation": to_json(row), "amphora": to_json(found)})
        return
    rows = [] if found is None else [(found.id, status(found.status))]
    session.screen.table(("id", "status"), rows, empty=f"operation {row.id} is stored" if row else "nothing to do")
