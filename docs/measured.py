"""Fill the places marked `<!-- numbers:NAME -->` from docs/explanation/measured.json: `python docs/measured.py`.

With `--from FILE` (or `-` for standard input) it first takes over what a benchmark said with `--json`, its last line;
`--note` says what else the machine did meanwhile.
`tests/docs/test_measured.py` compares the pages with what this would write.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "explanation" / "measured.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "explanation" / "performance.md")
PLACE = re.compile(r"<!-- numbers:(?P<name>[a-z-]+) -->\n.*?<!-- /numbers:(?P=name) -->", re.DOTALL)


def filled(page: str, measured: Mapping[str, Any]) -> str:
    """The page with every place filled.

    Raises:
        KeyError: a place is for a benchmark that was never measured.
    """
    return PLACE.sub(
        lambda place: "\n".join(
            [
                f"<!-- numbers:{place['name']} -->",
                *_table(measured[place["name"]]),
                f"<!-- /numbers:{place['name']} -->",
            ]
        ),
        page,
    )


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    units = report["units"]
    note = f", {report['note']}" if report.get("note") else ""
    yield f"Measured on {report['date']}, on {report['machine']}{note}; medians where the benchmark repeats."
    yield ""
    yield "| what | measured | aim | |"
    yield "|---|---:|---:|---|"
    for aim in report["aims"]:
        unit = units.get(aim["name"], "s")
        measured = aim.get("measured") or _shown(aim["value"], unit)
        wanted = aim.get("wanted") or _shown(aim["aim"], unit)
        yield f"| {aim['name']} | {measured} | {wanted} | {'reached' if aim['ok'] else 'missed'} |"


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
    return f"{value:,.0f} {unit}".strip()


def taken_over(line: str, day: str, note: str = "") -> dict[str, Any]:
    """What a benchmark said, with the day it was said, and what else the machine did."""
    report = json.loads(line)
    return {
        report["benchmark"]: {
            "date": day,
            "note": note,
            **{k: report[k] for k in ("machine", "figures", "units", "aims")},
        }
    }


def main() -> int:
    """Take over, then fill."""
    parser = argparse.ArgumentParser(description="Fill the measured numbers of the docs.")
    parser.add_argument("--from", dest="source", help="output of a benchmark with --json; - is standard input")
    parser.add_argument("--note", default="", help="what else the machine did, for example: 'otherwise idle'")
    arguments = parser.parse_args()
    source = arguments.source
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    if source is not None:
        said = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        measured |= taken_over(said.strip().splitlines()[-1], today, arguments.note)
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before, measured)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
