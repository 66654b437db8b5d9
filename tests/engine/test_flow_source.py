"""What the source of a flow may not hold: parking unwinds by a BaseException, and a run is repeated from the top."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest

from octavia_core.flows import amphorae, failovers, load_balancers, pairs
from octavia_core.flows.catalogue import FLOWS

FLOW_MODULES: tuple[ModuleType, ...] = (amphorae, failovers, load_balancers, pairs)
STEPS = {"step", "record", "wait", "parallel", "finish"}
CLOCKS = {"time", "datetime", "random", "uuid4"}


def functions_that_run(module: ModuleType) -> list[ast.FunctionDef]:
    """Functions with a parameter of type Run, nested ones included."""
    tree = ast.parse(inspect.getsource(module))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(a.annotation, ast.Name) and a.annotation.id == "Run" for a in node.args.args)
    ]


@pytest.mark.parametrize("module", FLOW_MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_no_try_or_with_surrounds_a_step(module: ModuleType) -> None:
    for function in functions_that_run(module):
        for block in ast.walk(function):
            if isinstance(block, ast.Try | ast.With):
                called = {
                    n.func.attr
                    for n in ast.walk(block)
                    if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
                }
                assert not called & STEPS, f"{function.name}, line {block.lineno}: {called & STEPS} inside a block"


@pytest.mark.parametrize("module", FLOW_MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_no_clock_or_chance_is_read_by_a_flow(module: ModuleType) -> None:
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & CLOCKS


def test_every_flow_is_listed_under_its_own_name_and_ends_by_finishing() -> None:
    for (name, version), flow in FLOWS.items():
        assert (flow.name, flow.version) == (name, version)
        assert "run.finish(" in inspect.getsource(flow.body)
