"""The numbers of README and docs are those of docs/explanation/measured.json, which a benchmark wrote."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("docs_measured", ROOT / "docs" / "measured.py")
measured = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measured)

SAID = {
    "benchmark": "pace",
    "machine": "a machine",
    "figures": {"step": 0.25, "lost": 3.0},
    "units": {"step": "s", "lost": ""},
    "aims": [
        {"name": "step", "value": 0.25, "aim": 1.2, "ok": True},
        {"name": "lost", "value": 3.0, "aim": 0, "ok": False},
        {"name": "rate", "value": 70.1, "aim": 60, "ok": True, "measured": "70.1 /s", "wanted": "≥ 60 /s"},
    ],
}


@pytest.mark.parametrize("name", measured.PAGES, ids=lambda page: page.name)
def test_a_page_shows_what_was_measured(name):
    page = name.read_text(encoding="utf-8")
    known = json.loads(measured.MEASURED.read_text(encoding="utf-8"))
    assert measured.PLACE.search(page)
    assert page == measured.filled(page, known), "write it anew: python docs/measured.py"


def test_a_report_becomes_a_table_with_its_day_and_machine_and_filling_again_changes_nothing():
    known = measured.taken_over(json.dumps(SAID), "2026-11-22")
    page = measured.filled("before\n<!-- numbers:pace -->\nold\n<!-- /numbers:pace -->\nafter\n", known)
    assert "Measured on 2026-11-22, on a machine" in page
    assert "| step | 250 ms | 1.20 s | reached |" in page
    assert "| lost | 3 | 0 | missed |" in page
    assert "| rate | 70.1 /s | ≥ 60 /s | reached |" in page
    assert (page.startswith("before\n"), page.endswith("after\n"), "old" in page) == (True, True, False)
    assert measured.filled(page, known) == page
