"""Write the pages of docs/reference that are made from the code: `nox -s docs`, or `python docs/make.py`.

A test compares them with what this would write, so they cannot go stale. Sources are parsed, not imported, except for
settings, whose defaults are values, and the command line, which is what its app says.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from octavia_core.cli import reference
from octavia_core.domain.secret import Secret
from octavia_core.settings import Settings, local_defaults

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "octavia_core"
REFERENCE = ROOT / "docs" / "reference"
MADE = "<!-- Made by docs/make.py from the code; change the docstrings there, not this page. -->\n"
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")


def settings() -> str:
    """Every group and option, with type, default and meaning."""
    here = local_defaults("STATE")
    lines = [
        "# Settings",
        MADE,
        "Groups and options have upstream Octavia's names; `engine` and `local` are ours. Where two defaults stand, the",
        "second is that of one machine without a cloud (`octavia-admin up`, `demo`, a `Controller` on a state",
        "directory); `STATE` is the state directory.",
        "",
    ]
    for group in attrs.fields(Settings):
        if not attrs.has(type(getattr(Settings(), group.name))):
            continue
        value = getattr(Settings(), group.name)
        title = (type(value).__doc__ or "").partition("\n")[0]
        lines += [f"## `[{group.name}]`", ""]
        if title and title != f"[{group.name}]":
            lines += [title.removeprefix(f"[{group.name}]").lstrip(": ").capitalize() + ".", ""]
        lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
        for field in attrs.fields(type(value)):
            default = _default(getattr(value, field.name))
            if field.name in here.get(group.name, {}):
                default += f", {_default(here[group.name][field.name])}"
            kind = str(field.type).replace(" | None", ", optional")
            lines.append(f"| `{field.name}` | {kind} | {default} | {field.metadata['help']} |")
        lines.append("")
    return "\n".join(lines)


def hooks() -> str:
    """Every hook specification."""
    module = _parse(CORE / "hooks" / "specs.py")
    lines = ["# Hooks", MADE, *_prose(module), ""]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("octavia_"):
            lines += [f"## `{node.name}`", "", "```text", _signature(node), "```", "", *_prose(node), ""]
    return "\n".join(lines)


def ports() -> str:
    """Every port with its methods, and the values they take and give."""
    lines = ["# Ports", MADE, *_prose(_parse(CORE / "ports" / "__init__.py")), ""]
    for file in sorted((CORE / "ports").glob("[!_]*.py")):
        module = _parse(file)
        lines += [f"## `octavia_core.ports.{file.stem}`", "", *_prose(module), ""]
        for node in module.body:
            if isinstance(node, ast.ClassDef):
                lines += [*_described(node), ""]
    return "\n".join(lines)


def cli() -> str:
    """Every command of octavia-admin with its options."""
    return reference.page()


PAGES: Mapping[str, Callable[[], str]] = {"cli.md": cli, "settings.md": settings, "hooks.md": hooks, "ports.md": ports}


def page(name: str) -> str:
    """The content of a page: without trailing blanks, with one empty line at most between paragraphs."""
    text = "\n".join(line.rstrip() for line in PAGES[name]().splitlines())
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def protocols(file: Path) -> Iterator[ast.ClassDef]:
    """The Protocols that a module defines."""
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases):
            yield node


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """Its public methods."""
    return [part for part in node.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]


def _described(node: ast.ClassDef) -> Iterator[str]:
    yield from [f"### `{node.name}`", "", *_prose(node), ""]
    fields = list(_fields(node))
    if fields:
        yield from ["```text", *fields, "```", ""]
    for method in methods(node):
        yield from [
            f"#### `{node.name}.{method.name}`",
            "",
            "```text",
            _signature(method),
            "```",
            "",
            *_prose(method),
            "",
        ]


def _fields(node: ast.ClassDef) -> Iterator[str]:
    documented = ""
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        documented = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            documented = "  # " + " ".join(after.value.value.split())
        if isinstance(part, (ast.AnnAssign, ast.Assign)):
            yield ast.unparse(part) + documented


def _signature(node: ast.FunctionDef) -> str:
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({arguments}){result}"
    if len(line) <= 110:
        return line
    pieces = re.split(r", (?![^\[(]*[\])])", arguments)
    return "\n".join([f"{node.name}(", *(f"    {piece}," for piece in pieces), f"){result}"])


def _prose(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """A docstring as Markdown: Google's sections become lists."""
    inside = False
    for line in (ast.get_docstring(node) or "").splitlines():
        section = SECTION.match(line)
        if section:
            inside = True
            yield from [f"**{section[1]}**", ""]
        elif inside and line.startswith("    ") and not line.startswith("     "):
            name, colon, text = line.strip().partition(":")
            yield f"- `{name}`:{text}" if colon else f"- {name}"
        elif inside and line.strip():
            yield f"  {line.strip()}" if line.startswith(" ") else line
            inside = line.startswith(" ")
        else:
            yield line


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _default(value: object) -> str:
    if isinstance(value, Secret):
        return "(secret)"
    if value is None or value in ("", ()):
        return "none"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text}`".replace("|", "\\|")


def main() -> int:
    """Write the pages; say which changed."""
    for name in PAGES:
        target, content = REFERENCE / name, page(name)
        if not target.exists() or target.read_text(encoding="utf-8") != content:
            target.write_text(content, encoding="utf-8")
            print(f"wrote {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
