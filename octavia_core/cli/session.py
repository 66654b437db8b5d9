"""One run of the command: which state directory, how to print, and how an operation is carried out and followed.

With a controller running on the state directory a command is a client of its database: it stores the wish and follows
the row. Without one it takes the lock, carries the operation out itself and leaves the amphorae running; when the
controller that it followed ends half-way, it takes over.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
import typer

from octavia_core.cli.exits import Exit, TimeIsOver, exit_of
from octavia_core.cli.streams import Unwritten, flush, silence
from octavia_core.errors import OctaviaError, OperationFailed, StateDirectoryBusy, StateDirectoryError

if TYPE_CHECKING:
    from octavia_core.cli.output import Screen
    from octavia_core.controller.facade import Controller
    from octavia_core.controller.handle import Operation
    from octavia_core.domain.operation import Operation as Row

__all__ = ["Hand", "Interrupted", "Session", "guarded", "until_ctrl_c"]

LOOK_FOR_CONTROLLER = 0.5
"""Seconds between two looks whether the controller that works for us still runs."""

HEARD_WITHIN = 1.0
"""Seconds that a command at most adds, so that what it shows is what clients see."""


class Interrupted(Exception):
    """Ctrl-C while an operation was followed; the message says what becomes of it."""


@attrs.define(kw_only=True)
class Session:
    """What the options that all commands share say.

    Attributes:
        state: the state directory as it was typed; None for the default.
        timeout: seconds, None for as long as it takes.
        config_files: settings of a cloud; none for a state directory.
    """

    state: str | None = None
    config_files: tuple[str, ...] = ()
    json: bool = False
    wait: bool = True
    timeout: float | None = None
    request_id: str | None = None

    @cached_property
    def path(self) -> str:
        """The state directory, absolute."""
        return os.path.abspath(os.path.expanduser(self.state or default_state()))

    @cached_property
    def screen(self) -> Screen:
        """Where to print."""
        from octavia_core.cli.hints import repeated
        from octavia_core.cli.output import Screen

        state = self.path if self.state else None
        return Screen(json=self.json, hint=lambda text: repeated(text, state=state, config_files=self.config_files))

    @cached_property
    def actor(self) -> str:
        """Who asks, for the records."""
        import getpass

        try:
            return f"{getpass.getuser()} (octavia-admin)"
        except (KeyError, OSError):  # a user id without a name, as in containers
            return f"user {os.geteuid()} (octavia-admin)"

    def existing(self) -> None:
        """Make sure that there is a state directory.

        Raises:
            StateDirectoryError: there is none.
        """
        try:
            os.stat(os.path.join(self.path, "state.json"))
        except PermissionError:
            raise StateDirectoryError(
                f"state directory {self.path} cannot be read by this user; run it as the one to whom it belongs, "
                "or name another with --state"
            ) from None
        except OSError:
            raise StateDirectoryError(
                f"there is no state directory at {self.path}; octavia-admin up (or lb create) makes one, "
                "or name another with --state"
            ) from None

    @contextlib.contextmanager
    def look(self) -> Iterator[Controller]:
        """A controller to ask, which does nothing by itself."""
        with self.client() as controller:
            yield controller

    def client(self) -> Controller:
        """The same, for who closes it; on a cloud's settings it asks that cloud's database."""
        from octavia_core.controller.facade import Controller

        if not self.config_files:
            self.existing()
            return Controller.open(self.path, run=False)
        from octavia_core.controller.sources import load_settings

        settings = load_settings(self.config_files, state_directory=self.path if self.state else "")
        return Controller.open(settings=settings, run=False)

    @contextlib.contextmanager
    def work(self, *, make: bool = False) -> Iterator[Hand]:
        """Something to carry operations out with. `make` makes a state directory where there is none."""
        if not make and not self.config_files:
            self.existing()
        hand = Hand(self)
        try:
            yield hand
        finally:
            hand.close()

    @property
    def asked(self) -> dict[str, Any]:
        """The keyword arguments that every wish takes."""
        return {"actor": self.actor, "request_id": self.request_id}

    @property
    def patience(self) -> float:
        """Seconds to keep trying while a load balancer is busy."""
        return (self.timeout or 0.0) if self.wait else 0.0


class Hand:
    """A controller of our own, or a client of the one that runs; becomes the former when the latter ends."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.controller, self.own = self._open()

    def _open(self) -> tuple[Controller, bool]:
        from octavia_core.controller.facade import Controller

        if self._session.config_files:
            return self._session.client(), False
        path = self._session.path
        if self._session.wait:
            try:
                return Controller.open(path, run=True), True
            except StateDirectoryBusy:
                pass
        return Controller.open(path, run=False), False

    def close(self) -> None:
        self.controller.close()

    def carry_out(self, ask: Callable[[Controller], Operation | None]) -> Row | None:
        """Store a wish and follow it to its end, or with --no-wait just store it; None when nothing was to be done.

        Raises:
            OperationFailed: it was carried out and failed.
            TimeIsOver: it goes on.
        """
        operation = ask(self.controller)
        if operation is None:
            return None
        if not self._session.wait:
            if self._nobody_works():
                self._session.screen.note(
                    "stored; no controller runs on this state directory, so it waits for: octavia-admin up"
                )
            return operation.row
        try:
            return self._follow(operation)
        except KeyboardInterrupt:
            later = "it goes on" if not self.own else "the next controller carries it on, for example: octavia-admin up"
            raise Interrupted(
                f"operation {operation.id} is not over; {later}; look with: octavia-admin why {operation.id}"
            ) from None

    def _follow(self, operation: Operation) -> Row:
        from octavia_core.controller.handle import WaitTimeout

        screen, timeout = self._session.screen, self._session.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        seen: set[int] = set()

        def tell(event: Any) -> None:
            if event.sequence not in seen:
                seen.add(event.sequence)
                screen.progress(event.text)

        with screen.working(f"operation {operation.id}"):
            while True:
                left = (
                    LOOK_FOR_CONTROLLER if deadline is None else min(LOOK_FOR_CONTROLLER, deadline - time.monotonic())
                )
                try:
                    return operation.wait(max(0.0, left), on_event=tell)
                except WaitTimeout as waited:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise TimeIsOver(
                            f"operation {operation.id} is still {waited.row.state} after {timeout:g} s and goes on; "
                            f"look with: octavia-admin why {operation.id}"
                        ) from None
                if not self.own and self._nobody_works():
                    self.controller.close()
                    self.controller, self.own = self._open()
                    operation = self.controller.operation(operation.id)

    def let_it_be_heard(self, load_balancer_id: str) -> None:
        """Without another controller nobody listens when we are gone: give a new amphora time for its first heartbeat."""
        if not self.own:
            return
        health = self.controller.settings.health_manager
        deadline = time.monotonic() + min(HEARD_WITHIN, 3 * health.heartbeat_interval)
        while time.monotonic() < deadline:
            tree = self.controller.load_balancer(load_balancer_id)
            if not tree.listeners or tree.operating_status != "OFFLINE":
                return
            time.sleep(0.02)

    def _nobody_works(self) -> bool:
        return not self.own and self.controller.running() is False


def default_state() -> str:
    """Where the state directory is when nobody says: as the XDG base directory specification has it for state."""
    chosen = os.environ.get("OCTAVIA_STATE")
    if chosen:
        return chosen
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(home, "octavia")


@contextlib.contextmanager
def until_ctrl_c() -> Iterator[None]:
    """Ctrl-C is how what is inside ends, and no failure."""
    with contextlib.suppress(KeyboardInterrupt):
        yield


@contextlib.contextmanager
def guarded(session: Session) -> Iterator[None]:
    """Errors of a command as one sentence and an exit code."""
    try:
        yield
        flush()
    except OctaviaError as error:
        _end(session, error, exit_of(error))
    except Interrupted as interrupted:
        _end(session, interrupted, Exit.INTERRUPTED)
    except KeyboardInterrupt:
        _end(session, Interrupted("interrupted"), Exit.INTERRUPTED)
    except BrokenPipeError:
        silence()
        raise typer.Exit(Exit.PIPE_CLOSED) from None
    except Unwritten as full:
        silence()
        session.json = False
        del session.screen
        _end(session, full, Exit.FAILED)
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # whatever it is, a person gets a sentence, not a traceback
        if callable(getattr(error, "format_message", None)):
            raise  # the command line itself: `run` says what is wrong with it
        _end(session, _Bug(error, session.path), Exit.BUG)


class _Bug(Exception):
    """A mistake of ours."""

    def __init__(self, error: Exception, state: str) -> None:
        where = _write_traceback(error, state)
        kept = f"the traceback is in {where}" if where else "the traceback could not be written"
        text = " ".join(str(error).split())[:200]
        super().__init__(f"this should not happen: {type(error).__name__}: {text} ({kept}; please report it)")


def _write_traceback(error: Exception, state: str) -> str | None:
    import tempfile
    import traceback

    name = f"traceback-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    for folder in (state, tempfile.gettempdir()):
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return path
    return None


def _end(session: Session, error: Exception, code: Exit) -> None:
    try:
        session.screen.error(
            str(error), kind=type(error).__name__.lstrip("_"), code=int(code), operation=_operation(error)
        )
    except BrokenPipeError:
        silence()
    raise typer.Exit(int(code)) from None


def _operation(error: Exception) -> str | None:
    return error.operation_id if isinstance(error, OperationFailed) else None
