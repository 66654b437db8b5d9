"""The snippets of the README and of the docs run as they stand (docs/how-to/change-the-docs.md has the convention)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>\S*)[^\n]*\n(?P<code>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*$")


def snippets(page: str) -> list[str]:
    """The blocks of a page that run, each with empty lines before it so that tracebacks name the page's lines."""
    return [
        "\n" * page.count("\n", 0, block.start("code")) + block["code"]
        for block in FENCE.finditer(page)
        if block["language"] == "python" and not NOT_RUN.search(page[: block.start()])
    ]


def program(page: Path) -> str:
    """All blocks of a page as one program, each on the lines it has there."""
    lines: list[str] = []
    for snippet in snippets(page.read_text(encoding="utf-8")):
        lines += snippet.splitlines()[len(lines) :]
    return "\n".join(lines)


@pytest.mark.parametrize("page", [p for p in PAGES if program(p).strip()], ids=lambda page: page.name)
def test_the_snippets_of_a_page_run(page, tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    script = tmp_path / page.with_suffix(".py").name
    script.write_text(program(page), encoding="utf-8")
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-W", "error", str(script)]
    with (tmp_path / "output").open("w+b") as output:
        try:
            ended = subprocess.run(
                line,
                cwd=home,
                env=environment,
                timeout=100,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            ended = "did not end"
        output.seek(0)
        assert ended == 0, f"{page.name}: {ended}\n{output.read().decode(errors='replace')[-4000:]}"


def test_blocks_of_a_page_are_one_program_on_its_own_lines():
    page = "text\n```python\na = 1\n```\n<!-- not run: why -->\n```python\nnever\n```\n```console\nls\n```\n```python\nassert a\n```\n"
    first, second = snippets(page)
    assert first == "\n\na = 1\n"
    assert second.splitlines().index("assert a") == page.splitlines().index("assert a")


def test_a_block_inside_a_longer_fence_is_an_example_and_does_not_run():
    assert snippets("````markdown\n```python\nnever\n```\n````\n") == []
