"""Rules of the house that no linter knows: pages that must agree with the code, words that must not be committed."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from octavia_core.settings import Settings
from tests.support import system

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PRODUCT = ("octavia_core", "daemons", "plugins")
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]+)(?:#[^)]*)?\)")
FORBIDDEN = {
    "a folder that a clone does not have": r"\.\./sha[r]ed\b|\bsha[r]ed/(?:DESIGN|REQUIREMENTS|reference)",
    "a path of one machine": r"/w[o]rk/|/ro[o]t/|/h[o]me/\w|/tmp/(?:ve[n]v|br[i]ef|iss[u]e)",
    "a host of a package registry": r"py[p]i\.org|pythonh[o]sted\.org|deb\.deb[i]an\.org|registry\.np[m]js",
    "how the work was organised": r"\bsub[a]gents?\b|\bthe (?:lead|CEO)\b|\bother bui[l]ders?\b",
}

_spec = importlib.util.spec_from_file_location("docs_make", DOCS / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def committed() -> list[Path]:
    """The files of the repository, those about to be committed too."""
    try:
        git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z"]
        names = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git checkout")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def python_files(*rooms: str) -> list[Path]:
    return [file for room in rooms for file in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_committed_mentions(what):
    word = re.compile(FORBIDDEN[what])
    found = []
    for file in committed():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if match := word.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize("page", make.PAGES)
def test_a_page_made_from_code_is_current(page):
    current = (DOCS / "reference" / page).read_text(encoding="utf-8")
    assert current == make.page(page), "write it anew: python docs/make.py"


def test_every_hook_has_an_entry():
    page = (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")
    specs = ast.parse((ROOT / "octavia_core/hooks/specs.py").read_text(encoding="utf-8"))
    hooks = [n.name for n in specs.body if isinstance(n, ast.FunctionDef) and n.name.startswith("octavia_")]
    assert hooks
    assert [hook for hook in hooks if f"## `{hook}`" not in page] == []


def test_every_setting_is_listed():
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    groups = {re.match(r"`\[(\w+)\]`", part)[1]: part for part in page.split("\n## ")[1:]}
    assert [f"[{g}] {name}" for g, name, *_ in Settings() if f"| `{name}` |" not in groups[g]] == []


def test_every_method_of_a_port_is_named():
    page = (DOCS / "reference" / "ports.md").read_text(encoding="utf-8")
    named = [
        f"{protocol.name}.{method.name}"
        for file in python_files("octavia_core/ports")
        for protocol in make.protocols(file)
        for method in make.methods(protocol)
    ]
    assert len(named) > 10
    assert [name for name in named if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    targets = LINK.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_can_be_reached_from_the_index():
    seen, queue = set(), [DOCS / "index.md"]
    while queue:
        page = queue.pop().resolve()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            queue += [page.parent / target for target in LINK.findall(page.read_text(encoding="utf-8"))]
    assert sorted({page.resolve() for page in DOCS.rglob("*.md")} - seen) == []


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    page = (DOCS / "explanation" / "dependencies.md").read_text(encoding="utf-8")
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for group in project["dependency-groups"].values():
        wanted += [entry for entry in group if isinstance(entry, str)]
    names = {re.match(r"[\w.-]+", entry)[0] for entry in wanted} - {"octavia-core"}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_every_system_package_is_asked_for_by_a_test():
    texts = [file.read_text(encoding="utf-8") for file in python_files("tests") if file != Path(__file__)]
    assert [name for name in system.entries() if not any(f'"{name}"' in text for text in texts)] == []


def test_a_broad_except_has_its_reason_beside_it():
    """Cleaning up and raising again needs none."""
    bare = []
    for file in python_files(*PRODUCT):
        lines = file.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if broad and not again and not re.search(r"#(\s*\S+){3}", lines[node.lineno - 1]):
                bare.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert bare == []
