"""`python -m octavia_core.cli` is `octavia-admin`."""

from __future__ import annotations

from octavia_core.cli import main

if __name__ == "__main__":
    main()
