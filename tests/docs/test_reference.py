"""The pages of errors and events list what the code has, and nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

from octavia_core import errors
from octavia_core.cli.exits import Exit, exit_of
from octavia_core.domain.vocabulary import Kind, Operating

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
ROW = re.compile(r"^\| `([\w.]+)` \|(.*)\|$", re.MULTILINE)
PRODUCT = ("octavia_core", "plugins", "daemons")


def rows(page: str) -> dict[str, list[str]]:
    """First column -> the other columns."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in ROW.findall(text)}


def bare(kind):
    """An error of that class, whatever its constructor wants."""
    return kind.__new__(kind)


def test_every_error_is_listed_with_its_exit_code():
    listed = rows("errors.md")
    assert sorted(set(errors.__all__) - set(listed)) == []
    for name in errors.__all__:
        assert listed[name][-1] == str(int(exit_of(bare(getattr(errors, name))))), name


def test_every_error_outside_the_tree_is_listed_with_its_place():
    listed, found = rows("errors.md"), {}
    for file in (ROOT / "octavia_core").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if module == "octavia_core.errors":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            bases = {base.id for base in getattr(node, "bases", []) if isinstance(base, ast.Name)}
            if isinstance(node, ast.ClassDef) and bases & {*errors.__all__, "AssertionError"}:
                found[node.name] = module
    assert {name: listed.get(name, ["", ""])[1] for name in found} == {
        name: f"`{module}`" for name, module in found.items()
    }
    for name, module in found.items():
        kind = getattr(importlib.import_module(module), name)
        assert listed[name][0] == f"`{kind.__bases__[0].__name__}`"


def test_the_tree_on_the_page_is_that_of_the_code():
    tree = (REFERENCE / "errors.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    above: list[str] = []
    for line in tree.splitlines():
        branch = re.match(r"[ │├└─]*", line)[0]
        name, depth = line[len(branch) :].split()[0], len(branch) // 4
        above[depth:] = [name]
        if depth:
            assert getattr(errors, name).__bases__ == (getattr(errors, above[depth - 1]),), name


def test_every_exit_code_is_listed():
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    listed = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)}
    assert listed == {code.name: int(code) for code in Exit}


def emitted() -> set[str]:
    """Names of events in the code: the third argument of `emit`, and `name=` of an event that is made."""
    found = set()
    for room in PRODUCT:
        for file in (ROOT / room).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if "emit(" in text:
                found |= set(_names(ast.parse(text)))
    return found


def _names(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "emit":
            yield from _texts(node.args[2], tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Event", "Happening"}:
            yield from (text for k in node.keywords if k.arg == "name" for text in _texts(k.value, tree))


def _texts(value: ast.expr, tree: ast.Module):
    if isinstance(value, ast.Constant):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from (*_texts(value.body, tree), *_texts(value.orelse, tree))
    elif isinstance(value, ast.Name):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0]) == value.id
                and not _is_parameter(value.id, node)
            ):
                yield from _texts(node.value, tree)
    elif "kind" in ast.unparse(value):
        yield "KIND.STATUS"


def _is_parameter(name: str, node: ast.Assign) -> bool:
    return ast.unparse(node.value) == name


def test_every_event_is_listed():
    names = emitted()
    assert len(names) > 10
    assert "KIND.STATUS" in names
    assert sorted(names - {"KIND.STATUS"} - set(rows("events.md"))) == []


def test_the_words_of_operating_events_are_listed():
    text = (REFERENCE / "events.md").read_text(encoding="utf-8")
    for word in (*Operating, Kind.LOAD_BALANCER, Kind.LISTENER, Kind.POOL, Kind.MEMBER):
        assert f"`{word.lower()}`" in text


def test_every_attribute_of_an_error_is_listed():
    listed = rows("errors.md")
    for name in errors.__all__:
        source = inspect.getsource(getattr(errors, name))
        for attribute in {
            a
            for names in re.findall(r"((?:self\.\w+, )*self\.\w+) = ", source)
            for a in re.findall(r"self\.(\w+)", names)
        }:
            assert f"`{attribute}`" in listed[name][1], f"{name}.{attribute}"
