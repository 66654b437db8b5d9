"""Every `octavia-admin ...` that a page or a message names is a command there is."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import typer.main

from octavia_core.cli.program import build
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import NotFound

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"octavia-admin (?!beside)([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?: ([a-z][a-z0-9-]*))?")

COMING: set[str] = set()
"""Named already, and not there yet; taken from here when it is."""


@functools.cache
def commands():
    """Every command as its words: ("up",), ("lb", "create"), ..."""
    found = set()
    for name, command in typer.main.get_command(build()).commands.items():
        below = getattr(command, "commands", None)
        found |= {(name, word) for word in below} if below else {(name,)}
    return found


def unknown(text):
    """Commands that a text names and that do not exist; words after a whole command are its arguments."""
    known = commands()
    groups = {words[0] for words in known if len(words) == 2}
    for first, second in NAMED.findall(text):
        if first in groups:
            if second and (first, second) not in known and f"{first} {second}" not in COMING:
                yield f"{first} {second}"
        elif (first,) not in known:
            yield first


def test_pages_name_commands_that_exist():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    code = re.compile(r"`(octavia-admin [^`\n]+)`|^\s*(?:\w+=\S*)?(octavia-admin .*)$", re.MULTILINE)
    wrong = {}
    for page in pages:
        shown = "\n".join(one or other for one, other in code.findall(page.read_text(encoding="utf-8")))
        if found := sorted(set(unknown(shown))):
            wrong[page.name] = found
    assert wrong == {}


def test_what_is_not_found_is_listed_by_a_command_that_exists():
    for kind in [*(kind.words for kind in Kind), "operation", "revision", "load balancer, amphora or operation"]:
        hint = str(NotFound(kind, "x"))
        assert NAMED.search(hint)
        assert list(unknown(hint)) == []


def test_messages_name_commands_that_exist():
    wrong = {}
    for room in ("octavia_core", "plugins"):
        for file in (ROOT / room).rglob("*.py"):
            texts = [
                node.value
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            if found := sorted({name for text in texts for name in unknown(text)}):
                wrong[str(file.relative_to(ROOT))] = found
    assert wrong == {}


def test_a_command_that_does_not_exist_is_noticed():
    assert list(unknown("run: octavia-admin lb create --name x, octavia-admin why web, octavia-admin lb dance")) == [
        "lb dance"
    ]
