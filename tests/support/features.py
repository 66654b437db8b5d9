"""The page docs/reference/features.md: each field of the API, and the tests that show it in HAProxy.

Tests say what they show with `@pytest.mark.feature("listener.connection_limit", "pool.protocol=PROXY", ...)`; those that
do it without a wish to the library say why, with `library="..."`. Fields come from the domain values, values from their
enumerations, so a new one is missing here until a test shows it or ELSEWHERE says why none does.
`python -m tests.support.features` writes the page; a test compares it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import attrs

from octavia_core.domain import tree, vocabulary

__all__ = ["ELSEWHERE", "PAGE", "Test", "expected", "page", "shown"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "features.md"
TESTS = (
    "tests/haproxy/test_*.py",
    "tests/main_job/test_balancing.py",
    "tests/local/test_udp.py",
    "tests/namespaces/test_*.py",
)
"""Where tests show features. All but the first wish of a controller and nothing else."""

KINDS = {
    "load_balancer": tree.LoadBalancer,
    "listener": tree.Listener,
    "pool": tree.Pool,
    "member": tree.Member,
    "health_monitor": tree.HealthMonitor,
    "session_persistence": tree.SessionPersistence,
    "l7policy": tree.L7Policy,
    "l7rule": tree.L7Rule,
}

VALUES: dict[str, type[StrEnum]] = {
    "listener.protocol": vocabulary.ListenerProtocol,
    "listener.client_authentication": vocabulary.ClientAuthentication,
    "pool.protocol": vocabulary.PoolProtocol,
    "pool.lb_algorithm": vocabulary.Algorithm,
    "health_monitor.type": vocabulary.MonitorType,
    "session_persistence.type": vocabulary.PersistenceType,
    "l7policy.action": vocabulary.L7Action,
    "l7rule.type": vocabulary.L7RuleType,
    "l7rule.compare_type": vocabulary.CompareType,
}
"""Fields of which each value is a feature of its own."""

_REFUSED = "refused in a sentence by this release: `main_job/test_under_load.py`"

ELSEWHERE = {
    "load_balancer.provider": "which controller has it: `engine/test_sweep.py`",
    "load_balancer.flavor_id": _REFUSED,
    "load_balancer.availability_zone": _REFUSED,
    "load_balancer.server_group_id": "not a wish: where compute keeps the two of a pair apart, `engine/test_pairs.py`",
    "listener.peer_port": "not a wish: peers meet at port 1025; this one is for security groups",
    "member.subnet_id": "not HAProxy's: to which networks an amphora is plugged, `engine/test_networks.py`",
    "member.vnic_type": "not HAProxy's, and no network driver of this release has such ports",
}
"""What HAProxy does not see, and why."""

_LABELS = {"id", "name", "description", "project_id", "provisioning_status", "operating_status"}
_PARENTS = {"load_balancer_id", "pool_id", "listener_id", "l7policy_id"}


def expected() -> Iterator[str]:
    """Every field, and every value of those whose values count; labels, statuses and parents left out."""
    for kind, value in KINDS.items():
        for field in attrs.fields(value):
            name = f"{kind}.{field.name}"
            if field.name in _LABELS or field.name in _PARENTS:
                continue
            if name in VALUES:
                yield from (f"{name}={word.value}" for word in VALUES[name])
            else:
                yield name


@attrs.frozen
class Test:
    """A test that shows features.

    Attributes:
        name: `file::test`, the file below tests/ (below tests/haproxy without that).
        apart: why it is not made by a wish; empty when it is.
    """

    name: str
    apart: str = ""


def shown() -> dict[str, list[Test]]:
    """Feature -> tests that show it."""
    found: dict[str, list[Test]] = {}
    for file in sorted(path for pattern in TESTS for path in ROOT.glob(pattern)):
        where = str(file.relative_to(ROOT / "tests")).removeprefix("haproxy/")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                for feature, apart in _marks(node):
                    found.setdefault(feature, []).append(Test(f"{where}::{node.name}", apart))
    return found


def _marks(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.feature":
            apart = next((str(ast.literal_eval(each.value)) for each in mark.keywords if each.arg == "library"), "")
            yield from ((str(ast.literal_eval(argument)), apart) for argument in mark.args)


def page() -> str:
    """The text of the page."""
    tests = shown()
    lines = [
        "# Features",
        "<!-- Made by `python -m tests.support.features` from the tests; change the tests, not this page. -->",
        "",
        "Each field of the API, and the test that shows what it does, by requests of real clients through a running HAProxy to",
        'real members. "yes" under *by a wish*: the test asks the library for the load balancer',
        "(`Controller.create_load_balancer`), which builds a local amphora for it, and looks at what that serves; otherwise it",
        "says why not. Tests of `tests/haproxy/`, which is where a file without a folder is, run a second time on HAProxy alone,",
        "with the configuration as it was rendered, and in the long form a third time through the amphora driver and an agent.",
        "SCTP is the one thing here that is shown by the text which is sent and not by traffic.",
        "",
        "| field or value | shown by | by a wish |",
        "|---|---|---|",
    ]
    for feature in expected():
        found = tests.get(feature, [])
        by = "; ".join(f"`{test.name}`" for test in found) or ELSEWHERE.get(feature, "**nothing**")
        apart = [test.apart for test in found if test.apart]
        wish = "" if not found else "yes" if len(apart) < len(found) else apart[0]
        lines.append(f"| `{feature}` | {by} | {wish} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
