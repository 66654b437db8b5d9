"""Write the generated parts of docs/reference/statuses.md anew: python docs/statuses.py."""

from __future__ import annotations

from pathlib import Path

from octavia_core.lifecycle.diagrams import filled

PAGE = Path(__file__).parent / "reference" / "statuses.md"

if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
