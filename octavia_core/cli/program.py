"""The whole command line: builds the app, runs it, and says what is wrong with a command line in one sentence."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from octavia_core.cli.command import ConfigFiles, Json, State
from octavia_core.cli.commands import (
    amphora,
    balancer,
    below,
    demo,
    governor,
    health,
    look,
    machine,
    operation,
    rotation,
    simulate,
)
from octavia_core.cli.exits import Exit
from octavia_core.cli.session import Session
from octavia_core.cli.streams import Unwritten, flush, silence

__all__ = ["build", "run"]

_EPILOG = (
    "Exit codes: 0 done, 1 the operation failed, 2 bad request, 3 not found, 4 busy, 5 configuration or state "
    "directory, 6 time is over, 70 a bug, 130 interrupted."
)


def build() -> typer.Typer:
    """The app with every command."""
    app = typer.Typer(
        name="octavia-admin",
        help="Load balancers on this machine or in a cloud: ask for them, look at them, and why they are as they are.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    demo.add(app)
    machine.add(app)
    balancer.add(app)
    below.add(app)
    amphora.add(app)
    look.add(app)
    governor.add(app)
    health.add(app)
    operation.add(app)
    simulate.add(app)
    rotation.add(app)
    return app


@functools.cache
def _command() -> Callable[..., Any]:
    """The same, ready to run; made once, since that takes a tenth of a second."""
    return typer.main.get_command(build())


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"octavia-core {version('octavia-core')}")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    state: State = None,
    as_json: Json = None,
    config_files: ConfigFiles = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    ctx.obj = {"state": state, "as_json": as_json, "config_files": config_files}


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    unreadable = next((word for word in arguments if not _is_text(word)), None)
    if unreadable is not None:
        sentence = f"{unreadable!a} is not UTF-8 text; see: octavia-admin --help"
        Session(json="--json" in arguments).screen.error(
            sentence, kind="UsageError", code=int(Exit.BAD_REQUEST), operation=None
        )
        return Exit.BAD_REQUEST
    try:
        code = _command()(args=list(arguments), prog_name="octavia-admin", standalone_mode=False)
        flush()
    except typer.Abort:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        silence()
        return Exit.PIPE_CLOSED
    except (OSError, Unwritten) as error:  # of a help text or the version: commands guard themselves
        silence()
        full = error if isinstance(error, Unwritten) else Unwritten(error)
        Session().screen.error(str(full), kind="Unwritten", code=int(Exit.FAILED), operation=None)
        return Exit.FAILED
    except Exception as error:  # commands guard themselves; what has no words is our own mistake
        words = getattr(error, "format_message", None)
        if not callable(words):
            raise
        return _usage(error, str(words()), json="--json" in arguments)
    return int(code) if isinstance(code, int) else Exit.OK


def _is_text(word: str) -> bool:
    """Not so for bytes that are not UTF-8: Python hands them over as surrogates, which nothing can store or print."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _usage(error: Any, words: str, *, json: bool) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        if words.strip():  # otherwise rich has shown it already
            print(words, file=sys.stderr)
        return Exit.BAD_REQUEST
    path = context.command_path if context else "octavia-admin"
    sentence = " ".join(words.split()).rstrip(".")
    Session(json=json).screen.error(
        f"{sentence}; see: {path} --help", kind="UsageError", code=int(Exit.BAD_REQUEST), operation=None
    )
    return Exit.BAD_REQUEST
