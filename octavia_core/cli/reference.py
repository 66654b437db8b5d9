"""The page of every command and option, made from the app itself; docs/reference/cli.md is compared with it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from octavia_core.cli.command import plain
from octavia_core.cli.examples import EXAMPLES
from octavia_core.cli.exits import Exit
from octavia_core.cli.program import build

__all__ = ["every_command", "page"]

_COMMON = frozenset({"state", "as_json", "wait", "request_id", "config_files"})
_MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the operation was carried out and failed, or something outside did not answer",
    Exit.BAD_REQUEST: "the request or the command line is wrong, or the thing's state forbids it; nothing was changed",
    Exit.NOT_FOUND: "there is no such thing",
    Exit.BUSY: "another operation holds the load balancer, or another controller the state directory",
    Exit.CONFIGURATION: "settings, the state directory, a driver or a program of this machine",
    Exit.TIMEOUT: "the time given by `--timeout` is over; the operation goes on",
    Exit.BUG: "a mistake of the program; the message names the file with the traceback",
    Exit.INTERRUPTED: "Ctrl-C; the message says what becomes of the operation; what only follows (`events --follow`) ends with 0",
    Exit.PIPE_CLOSED: "whoever read the output went away",
}


def every_command() -> dict[tuple[str, ...], Any]:
    """Each command by its words, in the order of the help."""
    return dict(_below((), typer.main.get_command(build())))


def page() -> str:
    """The page."""
    lines = [
        "# octavia-admin",
        "<!-- Made from the program by docs/make.py; change the help texts there, not this page. -->",
        "",
        "Every command takes `--state DIR` (otherwise `$OCTAVIA_STATE`, `$XDG_STATE_HOME/octavia` or",
        "`~/.local/state/octavia`) and `--json`, before the command or after it.",
        "",
        "Those that start an operation also take `--wait/--no-wait`, `--timeout SECONDS` and `--request-id ID`:",
        *_those_with("wait"),
        "",
        "Those that look at rows or store a wish take `--config-file FILE`, the settings of a cloud, instead of a state",
        "directory, before the command or after it, several times if need be:",
        *_those_with("config_files"),
        "`orphans` and `config check` ask drivers, too: those that the file names must be installed where the command runs,",
        "and local ones want `--state DIR` beside it.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {int(code)} | {_MEANINGS[code]} |" for code in Exit),
        "",
    ]
    for words, command in every_command().items():
        lines += [f"## `octavia-admin {' '.join(words)}`", "", *_help(command), ""]
        waits = any(p.name == "wait" for p in command.params)  # then its --timeout is the common one
        shown = [p for p in command.params if p.name not in {*_COMMON, "help"} and not (waits and p.name == "timeout")]
        if shown:
            lines += ["| | |", "|---|---|", *map(_row, shown), ""]
        examples = EXAMPLES.get(" ".join(words), ())
        lines += ["```console", *(f"octavia-admin {example}" for example in examples), "```", ""] if examples else []
    return "\n".join(lines)


def _those_with(param: str) -> list[str]:
    """The commands that have it, whole groups as `group ...`, as the lines of a sentence."""
    groups: dict[str, list[tuple[str, bool]]] = {}
    for words, command in every_command().items():
        has = any(p.name == param for p in command.params)
        groups.setdefault(words[0], []).append((words[-1], has))
    said = []
    for group, members in groups.items():
        having = [name for name, has in members if has]
        if having == [group]:
            said.append(f"`{group}`")
        elif len(having) == len(members):
            said.append(f"`{group} ...`")
        elif having:
            said.append(f"`{group} {'|'.join(having)}`")
    joined = ", ".join(one.replace(" ", "\0") for one in said)  # one command stays on one line
    return [line.replace("\0", " ") for line in textwrap.wrap(f"{joined}.", 120, break_on_hyphens=False)]


def _below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _below((*words, name), child)


def _help(command: Any) -> list[str]:
    return [line for one in plain(command.help).splitlines() for line in textwrap.wrap(one, 120) or [""]]


def _row(param: Any) -> str:
    if param.param_type_name == "argument":
        names = f"`{param.metavar or param.name.upper()}`"
    else:
        flags = "/".join([*param.opts, *param.secondary_opts])
        metavar = "" if param.is_flag else f" {param.metavar or 'TEXT'}"
        names = f"`{flags}{metavar}`"
    cells = (names, param.help or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
