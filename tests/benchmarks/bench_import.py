"""What importing octavia_core costs: fresh interpreters, the package alone and with all its public names."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from tests.benchmarks.harness import Aim, Figure, Options, Report, spread

CASES = {
    "import octavia_core": "import octavia_core",
    "all public names": "from octavia_core import *",  # they are imported when they are first used
}
PROBE = """
import json, sys, time
before = set(sys.modules)
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def run(options: Options) -> Report:
    """Measure each case in turn, so that whatever else the machine does meets all of them."""
    rounds = options.rounds or 15
    inside: dict[str, list[float]] = {case: [] for case in CASES}
    modules: dict[str, list[str]] = {}
    bare: list[float] = []
    for number in range(rounds + 1):
        _, seconds = _fresh("pass")
        measured = {case: _fresh(PROBE.format(statement=statement)) for case, statement in CASES.items()}
        if number == 0:
            continue  # the first round fills the caches of bytecode and files
        bare.append(seconds)
        for case, (output, _) in measured.items():
            in_there, modules[case] = json.loads(output)
            inside[case].append(in_there)
    figures = list(spread("bare interpreter", bare, note="start to exit, nothing imported"))
    for case, values in inside.items():
        brought = f"inside the interpreter; brings {_packages(modules[case])}"
        figures += spread(case, values, note=brought)
        figures.append(Figure(f"{case}, modules", len(modules[case]), ""))
    aims = [Aim(f"import octavia_core (median of {rounds})", statistics.median(inside["import octavia_core"]), 0.2)]
    return Report(name="import", figures=figures, aims=aims, details={"packages": _by_package(modules)})


def _fresh(program: str) -> tuple[str, float]:
    """Run a program in a new interpreter: what it printed, and seconds from start to exit."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, time.perf_counter() - started


def _packages(modules: list[str]) -> str:
    """The packages that are not Python's own, largest first."""
    foreign = [(count, name) for name, count in _count(modules) if name not in sys.stdlib_module_names]
    return ", ".join(name for _, name in sorted(foreign, reverse=True) if not name.startswith("_")) or "nothing else"


def _by_package(modules: Mapping[str, list[str]]) -> dict[str, dict[str, int]]:
    return {case: dict(_count(names)) for case, names in modules.items()}


def _count(modules: list[str]) -> Iterator[tuple[str, int]]:
    tops = [module.partition(".")[0] for module in modules]
    return ((top, tops.count(top)) for top in dict.fromkeys(tops))
