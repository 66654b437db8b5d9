"""The threat model may claim only what a test shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def lines() -> list[list[str]]:
    """The rows of all tables: threat, what we do, shown by."""
    rows = [
        line.strip().strip("|").split(" | ")
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    return [row for row in rows if row[0].strip() != "threat"]


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_line_names_a_test_that_exists():
    assert len(lines()) > 30
    missing = []
    for threat, *_, shown in lines():
        named = TEST.findall(shown)
        if not named:
            missing.append(f"{threat}: no test")
        missing += [
            f"{file}::{name}" for file, name in named if not (ROOT / file).exists() or name not in names_in(file)
        ]
    assert missing == []


def test_every_line_has_three_columns():
    assert [row for row in lines() if len(row) != 3] == []


def test_pickle_is_imported_in_one_file_only():
    loaders = {"pickle", "cPickle", "_pickle", "dill", "marshal", "shelve", "cloudpickle"}
    found = set()
    for room in ("octavia_core", "plugins", "daemons"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if loaders & {name.split(".")[0] for name in names}:
                    found.add(str(file.relative_to(ROOT)))
    assert found == {"octavia_core/db/upstream_pickle.py"}
