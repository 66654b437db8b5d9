"""What benchmarks have in common: options, figures with their aims, and how both are shown.

A benchmark is a module `tests/benchmarks/bench_NAME.py` with a docstring (its first line is the list's entry) and
`run(options: Options) -> Report`. Its figures are medians unless their names say otherwise, its times seconds or what
the unit says; what the machine did otherwise at that time is its reader's to judge, so the report names the machine.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

__all__ = ["Aim", "Figure", "Options", "Report", "benchmarks", "load", "spread"]

PREFIX = "bench_"


@attrs.frozen(kw_only=True)
class Options:
    """How to run.

    Attributes:
        rounds: repetitions; None is the benchmark's own choice.
        rest: further words of the command line, for the benchmark.
        say: prints a line of progress for a person (standard error, so that `--json` keeps the last line).
    """

    rounds: int | None = None
    rest: tuple[str, ...] = ()
    say: Callable[[str], None] = lambda _: None


@attrs.frozen
class Figure:
    """One measured thing. `note` says what is in it."""

    name: str
    value: float
    unit: str = "s"
    note: str = ""


@attrs.frozen
class Aim:
    """A figure that should stay at or below `aim` (or at or above it, when `at_least`)."""

    name: str
    value: float
    aim: float
    unit: str = "s"
    at_least: bool = False

    @property
    def ok(self) -> bool:
        """True when the aim is reached."""
        return self.value >= self.aim if self.at_least else self.value <= self.aim

    @property
    def measured(self) -> str:
        """For a person."""
        return _with_unit(self.value, self.unit)

    @property
    def wanted(self) -> str:
        """The same of the aim."""
        return f"{'≥' if self.at_least else '≤'} {_with_unit(self.aim, self.unit)}"


@attrs.frozen(kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        name: of the benchmark.
        figures: shown as a table, and as `figures` (name -> value) in JSON.
        aims: shown below, and as `aims` (name, value, aim, ok, and both numbers as they are shown) in JSON.
        details: further JSON values for machines, shown to nobody.
    """

    name: str
    figures: Sequence[Figure]
    aims: Sequence[Aim] = ()
    details: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def ok(self) -> bool:
        """True when every aim is reached."""
        return all(aim.ok for aim in self.aims)

    def show(self, console: Console) -> None:
        """Print the tables."""
        table = Table("figure", "value", "", title=f"{self.name} on {machine()}", title_justify="left")
        table.columns[1].justify = "right"
        for figure in self.figures:
            table.add_row(figure.name, _with_unit(figure.value, figure.unit), figure.note)
        console.print(table)
        if self.aims:
            table = Table("aim", "measured", "wanted", "")
            table.columns[1].justify = table.columns[2].justify = "right"
            for aim in self.aims:
                verdict = "[green]ok[/green]" if aim.ok else "[bold red]missed[/bold red]"
                table.add_row(aim.name, aim.measured, aim.wanted, verdict)
            console.print(table)

    def json(self) -> str:
        """One line: name, machine, figures, aims, details."""
        return json.dumps(
            {
                "benchmark": self.name,
                "machine": machine(),
                "figures": {figure.name: figure.value for figure in self.figures},
                "units": {figure.name: figure.unit for figure in self.figures},
                "aims": [
                    {
                        "name": a.name,
                        "value": a.value,
                        "aim": a.aim,
                        "ok": a.ok,
                        "measured": a.measured,
                        "wanted": a.wanted,
                    }
                    for a in self.aims
                ],
                "details": dict(self.details),
            }
        )


def spread(name: str, values: Sequence[float], unit: str = "s", note: str = "") -> Iterator[Figure]:
    """Three figures of one series: its median, its smallest and its largest value."""
    yield Figure(name, statistics.median(values), unit, f"median of {len(values)}{'; ' + note if note else ''}")
    yield Figure(f"{name}, smallest", min(values), unit)
    yield Figure(f"{name}, largest", max(values), unit)


def benchmarks() -> dict[str, Path]:
    """The benchmarks that exist: name -> file."""
    files = sorted(Path(__file__).parent.glob(f"{PREFIX}*.py"))
    return {file.stem.removeprefix(PREFIX).replace("_", "-"): file for file in files}


def load(name: str) -> Callable[[Options], Report]:
    """The `run` function of a benchmark. Raises LookupError with the names there are."""
    if name not in benchmarks():
        raise LookupError(f"no benchmark named {name!r}; there are: {', '.join(benchmarks())}")
    module = importlib.import_module(f"tests.benchmarks.{PREFIX}{name.replace('-', '_')}")
    run: Callable[[Options], Report] = module.run
    return run


def machine() -> str:
    """What it ran on: enough to compare two runs, nothing that names the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}"


def _with_unit(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:,.0f} {unit}".rstrip() if float(value).is_integer() else f"{value:,.3g} {unit}".rstrip()
