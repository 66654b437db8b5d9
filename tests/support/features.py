"""The page docs/reference/features.md: each field of the API, and the tests that show it in HAProxy.

Tests say what they show with `@pytest.mark.feature("listener.connection_limit", "pool.protocol=PROXY", ...)`. Fields
come from the domain values, values from their enumerations, so a new one is missing here until a test shows it or
ELSEWHERE says why none does. `python -m tests.support.features` writes the page; a test compares it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import attrs

from octavia_core.domain import tree, vocabulary

__all__ = ["ELSEWHERE", "PAGE", "expected", "page", "shown"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "features.md"
TESTS = ROOT / "tests" / "haproxy"

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

_NETWORK = "of the network driver"

ELSEWHERE = {
    "load_balancer.listeners": "the tree itself",
    "load_balancer.pools": "the tree itself",
    "load_balancer.topology": "keepalived: test_keepalived.py, tests/namespaces/test_pair.py; "
    "peers section: test_push.py::test_a_pair_shares_its_stick_tables",
    "load_balancer.provider": "chooses the driver",
    "load_balancer.flavor_id": "of the compute driver",
    "load_balancer.availability_zone": "of the compute driver",
    "load_balancer.server_group_id": "of the compute driver",
    "listener.peer_port": "the peers port is the constant 1025; this one is for security groups",
    "listener.l7policies": "see l7policy",
    "member.subnet_id": _NETWORK,
    "member.vnic_type": _NETWORK,
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


def shown() -> dict[str, list[str]]:
    """Feature -> tests that show it, as `file::test`."""
    found: dict[str, list[str]] = {}
    for file in sorted(TESTS.glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                for feature in _marks(node):
                    found.setdefault(feature, []).append(f"{file.name}::{node.name}")
    return found


def _marks(function: ast.FunctionDef) -> Iterator[str]:
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.feature":
            yield from (str(ast.literal_eval(argument)) for argument in mark.args)


def page() -> str:
    """The text of the page."""
    tests = shown()
    lines = [
        "# Features",
        "<!-- Made by `python -m tests.support.features` from the tests; change the tests, not this page. -->",
        "",
        "Each field of the API, and the test that shows what it does: by requests through a running HAProxy where that is",
        "possible, otherwise by the directive. All tests are in `tests/haproxy/`. UDP by real datagrams: `tests/local/test_udp.py`,",
        "`tests/local_agent/test_udp.py`, `tests/namespaces/test_udp.py`; on upstream's agent: `tests/peers/amphora_agent/test_udp.py`.",
        "",
        "| field or value | shown by |",
        "|---|---|",
    ]
    for feature in expected():
        by = "; ".join(f"`{test}`" for test in tests.get(feature, ())) or ELSEWHERE.get(feature, "**nothing**")
        lines.append(f"| `{feature}` | {by} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
