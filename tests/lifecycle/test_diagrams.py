"""The page about statuses shows the tables as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from octavia_core.lifecycle import amphora, provisioning
from octavia_core.lifecycle.diagrams import blocks, filled, mermaid

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "statuses.md"


def test_the_page_is_what_the_tables_say() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert page == filled(page), "the tables have changed; run: python docs/statuses.py"


def test_the_page_shows_every_block_once() -> None:
    assert sorted(re.findall(r"<!-- from the tables: ([a-z-]+) -->", PAGE.read_text(encoding="utf-8"))) == sorted(
        blocks()
    )


@pytest.mark.parametrize("table", [provisioning.LOAD_BALANCER, provisioning.CHILD, amphora.TRANSITIONS])
def test_a_diagram_holds_every_move_and_no_other(table) -> None:
    picture = mermaid(table, initial=provisioning.INITIAL, final=[provisioning.DELETED])
    drawn = {
        (status, event): becomes
        for status, becomes, events in re.findall(r"^    (\w+) --> (\w+): (.*)$", picture, re.MULTILINE)
        for event in events.split(", ")
    }

    assert drawn == {(str(status), str(event)): str(becomes) for (status, event), becomes in table.items()}
    assert picture.startswith("```mermaid\nstateDiagram-v2\n    [*] --> PENDING_CREATE\n")
    assert picture.endswith("    DELETED --> [*]\n```\n")


def test_a_marker_of_an_unknown_block_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing-such"):
        filled("<!-- from the tables: nothing-such -->\n<!-- end -->")
