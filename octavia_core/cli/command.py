"""How every command is made: its own parameters, options made from a wish, and the options that all commands share.

The function of a command gets a `Session`, its own parameters, and with `fields` the `values` that were typed. Errors
become one sentence on stderr and an exit code; see `octavia_core.cli.exits`.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from octavia_core.cli.examples import EXAMPLES
from octavia_core.cli.fields import Field, values_of
from octavia_core.cli.session import Session, guarded
from octavia_core.errors import BadRequest

__all__ = ["COMMON", "ConfigFiles", "Json", "State", "command", "plain"]

_EVERYWHERE = "Every command"

State = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="State directory; otherwise $OCTAVIA_STATE, $XDG_STATE_HOME/octavia, or ~/.local/state/octavia.",
        rich_help_panel=_EVERYWHERE,
    ),
]
Json = Annotated[
    bool | None, typer.Option("--json", help="JSON on stdout instead of tables.", rich_help_panel=_EVERYWHERE)
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait", help="Follow the operation to its end, or only store it.", rich_help_panel=_EVERYWHERE
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0,
        metavar="SECONDS",
        help="Longest wait, for a busy load balancer and for the operation; without it a busy one is refused at once "
        "and the operation is followed for as long as it takes.",
        rich_help_panel=_EVERYWHERE,
    ),
]
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id", help="The same id again is the same operation, done once.", rich_help_panel=_EVERYWHERE
    ),
]

ConfigFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--config-file",
        metavar="FILE",
        help="Settings of a cloud, whose database is asked, instead of a state directory; the last one wins.",
        rich_help_panel=_EVERYWHERE,
    ),
]

COMMON: Mapping[str, Any] = {"state": State, "as_json": Json}
_CHANGING: Mapping[str, tuple[Any, Any]] = {
    "wait": (Wait, True),
    "timeout": (Timeout, None),
    "request_id": (RequestId, None),
}


def command(
    group: typer.Typer,
    name: str,
    *,
    fields: Sequence[Field] = (),
    changes: bool = False,
    cloud: bool = False,
    hidden: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command.

    Args:
        group: where it belongs.
        name: how it is called there.
        fields: options made from a wish; what was typed arrives as `values`.
        changes: it starts an operation, so it gets --wait, --timeout and --request-id.
        cloud: it asks a database only, so it takes the --config-file of a cloud, too.
        hidden: not shown in help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = _own_parameters(function)

        def entry(ctx: typer.Context, **given: Any) -> None:
            known: Mapping[str, Any] = ctx.obj or {}
            waits = {word: given.pop(word) for word in _CHANGING if changes}
            files = tuple((given.pop("config_files") if cloud else None) or known.get("config_files") or ())
            session = Session(
                state=given.pop("state") or known.get("state"),
                json=bool(given.pop("as_json") or known.get("as_json")),
                config_files=files if cloud else (),
                **waits,
            )
            with guarded(session):
                if files and not cloud:
                    raise BadRequest(
                        f"{ctx.command_path} works on a state directory, and takes no --config-file; see: "
                        f"{ctx.command_path} --help"
                    )
                if fields:
                    values = values_of(fields, given)
                    for field in fields:
                        del given[field.variable]
                    given["values"] = values
                function(session, **given)

        parameters = [
            inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *own,
            *(field.parameter() for field in fields),
            *(_keyword(n, hint, None) for n, hint in COMMON.items()),
        ]
        if changes:
            parameters += [_keyword(n, hint, default) for n, (hint, default) in _CHANGING.items()]
        if cloud:
            parameters.append(_keyword("config_files", ConfigFiles, None))
        entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
        entry.__annotations__ = {p.name: p.annotation for p in parameters}
        entry.__name__, entry.__doc__, entry.__module__ = function.__name__, function.__doc__, function.__module__
        group.command(name, cls=_Command, hidden=hidden, help=_shielded(inspect.getdoc(function) or ""))(entry)
        return function

    return register


class _Command(TyperCommand):
    """A command whose help ends with examples."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        program, _, words = ctx.command_path.partition(" ")
        lines = EXAMPLES.get(words, ())
        if lines:
            print("\n".join([" Examples:", *(f"   {program} {line}" for line in lines), ""]))


def plain(help: str | None) -> str:
    """A help text as it was written, without what shields it from rich."""
    return (help or "").replace("\\[", "[")


def _shielded(help: str) -> str:
    """A help text whose paragraphs are lines, and whose brackets rich does not take for styles, which it would swallow."""
    return re.sub(r"\[(?=[a-z#/@])", r"\\[", re.sub(r"(?<!\n)\n(?!\n)", " ", help))


def _own_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(function, include_extras=True)
    return [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
        if p.name not in ("session", "values")
    ]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
