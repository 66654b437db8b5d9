"""`octavia-admin up` and `down`: a whole controller on one machine, in the foreground."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.exits import TimeIsOver
from octavia_core.cli.session import Session
from octavia_core.cli.streams import flush
from octavia_core.errors import Refused, StateDirectoryBusy

if TYPE_CHECKING:
    from octavia_core.controller.facade import Controller
    from octavia_core.controller.state import ControllerLock, StateDirectory

__all__ = ["add"]

LOOK = 0.2
"""Seconds between two looks for new events."""
END_GRACE = 20.0
"""Seconds that `down` gives a controller to end by itself (it waits up to 10 s for what runs)."""


def add(app: typer.Typer) -> None:
    """Add both commands."""
    command(app, "up")(up)
    command(app, "down")(down)


def up(
    session: Session,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show events.")] = False,
    log_level: Annotated[
        str, typer.Option("--log-level", help="What the library logs, on stderr: DEBUG, INFO, WARNING or ERROR.")
    ] = "ERROR",
) -> None:
    """Run a controller on the state directory, in the foreground, until Ctrl-C or SIGTERM.

    It takes over the amphorae that are there and rebuilds those that are gone. When it ends they serve on; another
    `up` takes them over again, and `octavia-admin down` ends them too. Ask it from another terminal.
    """
    _log_to_stderr(log_level)
    from octavia_core.controller.facade import Controller
    from octavia_core.controller.signals import on_signals

    ended = threading.Event()
    with on_signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM), ended.set)):
        with Controller.open(session.path) as controller:
            after = controller.storage.read(lambda tx: tx.delivered(f"up {os.getpid()}"))  # the newest event there is
            _greet(session, controller)
            while not ended.wait(LOOK):
                if not quiet:
                    after = _tell(session, controller, after)
            session.screen.note("ending; amphorae serve on")
        session.screen.note(
            "ended; start again with: octavia-admin up, or end the amphorae too with: octavia-admin down"
        )


def down(
    session: Session,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="Delete all load balancers and spares first; otherwise `up` brings everything back."
        ),
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest wait.")] = 60.0,
) -> None:
    """End the controller of the state directory and all its amphorae.

    What was asked for stays: `octavia-admin up` builds the amphorae anew, at the same addresses.
    """
    session.existing()
    screen = session.screen
    deleted = _purge(session, timeout) if purge else []
    from octavia_core.controller.state import prepare_state

    state = prepare_state(session.path)
    deadline = time.monotonic() + timeout
    pid = _end_controller(session.path, state, timeout)
    with _lock(session.path, state, deadline):  # so that nobody starts while the amphorae end
        from octavia_core.controller.facade import Controller

        with Controller.open(session.path, run=False) as controller:
            servers = controller.world.compute.list()
            for server in servers:
                controller.world.compute.destroy(server.id)
    if session.json:
        screen.data({"controller": pid, "amphorae": [s.id for s in servers], "deleted_load_balancers": deleted})
        return
    what = [f"the controller (process {pid})"] if pid else []
    what += [f"{len(deleted)} load balancer(s)"] if purge else []
    screen.say(f"ended {' and '.join([*what, f'{len(servers)} amphora(e)'])} of {session.path}")


def _greet(session: Session, controller: Controller) -> None:
    found = controller.load_balancers()
    adopted = controller.services.adopted if controller.services else None
    if session.json:
        from octavia_core.domain.codec import to_json

        session.screen.line(
            {
                "ready": True,
                "pid": os.getpid(),
                "state_directory": session.path,
                "load_balancers": [to_json(one) for one in found],
                "amphorae": to_json(adopted) if adopted else None,
            }
        )
        return
    session.screen.say(
        f"controller of {session.path}, process {os.getpid()}; Ctrl-C ends it and leaves the amphorae serving"
    )
    if adopted and (adopted.kept or adopted.dead or adopted.removed):
        session.screen.say(
            f"amphorae: {len(adopted.kept)} taken over, {len(adopted.dead)} gone and rebuilt now, "
            f"{len(adopted.removed)} that nobody wants removed"
        )
    for summary in found:
        tree = controller.storage.read(lambda tx, one=summary.id: tx.tree(one))  # type: ignore[misc]
        if tree is None:
            continue
        places = ", ".join(str(controller.reachable_at(tree, one)) for one in tree.listeners) or "no listener yet"
        session.screen.say(f"  {tree.name or tree.id}  {tree.provisioning_status}  {places}")
    if not found:
        session.screen.say("no load balancer yet; in another terminal, for example:")
        session.screen.say(
            "  octavia-admin lb create --name web --listener HTTP:80 --member 127.0.0.1:8001 --member 127.0.0.1:8002"
        )
    flush()


def _tell(session: Session, controller: Controller, after: int) -> int:
    from octavia_core.cli.output import moment
    from octavia_core.domain.codec import to_json
    from octavia_core.errors import TransientError

    try:
        batch = controller.events(after=after)
    except TransientError as error:
        session.screen.note(f"events cannot be read now: {error}")
        return after
    for event in batch:
        after = event.sequence
        if session.json:
            session.screen.line(to_json(event))
        else:
            session.screen.say(f"{moment(event.at)[11:]}  {event.name:<24} {event.text}")
    flush()
    return after


def _purge(session: Session, timeout: float) -> list[str]:
    worker = Session(state=session.state, json=False, timeout=timeout)
    deleted = []
    with worker.work() as hand:
        for summary in hand.controller.load_balancers():
            hand.carry_out(
                lambda c, one=summary.id: c.delete_load_balancer(one, actor=session.actor, wait=timeout)  # type: ignore[misc]
            )
            deleted.append(summary.id)
        for spare in hand.controller.storage.read(lambda tx: tx.spares()):
            hand.carry_out(lambda c, one=spare.id: c.delete_amphora(one, actor=session.actor))  # type: ignore[misc]
    return deleted


def _end_controller(path: str, state: Any, timeout: float) -> int | None:
    """SIGTERM to the controller of the directory, once it is certain who that is; None when none runs.

    Raises:
        Refused: the lock is held by a program that is not ours to end.
        TimeIsOver: it did not end.
    """
    import select

    pid = state.controller()
    if pid is None:
        return None
    if not pid:
        raise Refused(f"a controller is just starting on {path}; try again")
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if state.controller() != pid:  # the pidfd is that of the process that holds the lock, not of a later one
            return None
        if not _is_ours(pid):
            raise Refused(f"process {pid} holds {path} and is no octavia-admin; end it in its own way")
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(min(timeout, END_GRACE) * 1000):
            raise TimeIsOver(f"the controller (process {pid}) of {path} does not end; look at what it does, or kill it")
    finally:
        os.close(fd)
    return int(pid)


def _lock(path: str, state: StateDirectory, deadline: float) -> ControllerLock:
    """The lock of the directory, once a command that took it when the controller ended is done with it.

    Raises:
        TimeIsOver: somebody has it for longer than that.
    """
    while True:
        try:
            return state.lock()
        except StateDirectoryBusy as busy:
            if time.monotonic() >= deadline:
                by = f"process {busy.pid}" if busy.pid else "another process"
                raise TimeIsOver(f"{by} works on {path} and does not end; nothing more was ended, try again") from busy


def _is_ours(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return any(
        word.endswith((b"octavia-admin", b"octavia_core.cli", b"octavia_core/cli/__main__.py")) for word in words
    )


def _log_to_stderr(level: str) -> None:
    """The library never configures logging; this program does."""
    from octavia_core.errors import BadRequest

    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise BadRequest(f"--log-level is {level!r}, but must be DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=number, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("psycopg").setLevel(
        logging.ERROR
    )  # each error that it warns of is raised, too, and told in our words
