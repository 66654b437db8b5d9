"""`octavia-admin`: the command of the product. `main` is its entry point; everything else is imported when it is used."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code (docs/how-to/command.md lists the codes)."""
    import sys

    from octavia_core.cli.program import run
    from octavia_core.cli.streams import as_they_can

    as_they_can()
    sys.exit(run(sys.argv[1:]))
