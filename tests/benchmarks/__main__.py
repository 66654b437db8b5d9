"""`python -m tests.benchmarks NAME [--json] [--rounds N] [further words]`; without a name it lists what there is.

Exit code 0 when every aim is reached, 1 when one is missed, 2 when there is no such benchmark.
"""

from __future__ import annotations

import argparse
import ast
import sys

from rich.console import Console
from rich.table import Table

from tests.benchmarks import harness


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description="Run one benchmark, or list them.")
    parser.add_argument("name", nargs="?", help="which one")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, help="repetitions (each benchmark has its own default)")
    arguments, rest = parser.parse_known_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    if arguments.name is None:
        table = Table("benchmark", "what it measures")
        for name, file in harness.benchmarks().items():
            described = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            table.add_row(name, described.partition("\n")[0])
        console.print(table)
        return 0
    try:
        run = harness.load(arguments.name)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report = run(harness.Options(rounds=arguments.rounds, rest=tuple(rest), say=say))
    report.show(console)
    if arguments.json:
        sys.stdout.flush()
        print(report.json(), flush=True)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
