"""The status table, row by row, against the real API: docs/reference/differences.md says what must be, and is the test's data."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from octavia_core.policy.requests import METHODS
from octavia_core.testing.outside import FaultKind
from tests.peers.octavia_api.clients import Clients
from tests.peers.octavia_api.programs import until
from tests.peers.octavia_api.stage import Stage
from tests.peers.octavia_api.test_users import TREE, served

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "differences.md"
KINDS = {
    "load balancer": "load_balancer",
    "listener": "listener",
    "pool": "pool",
    "member": "member",
    "health monitor": "health_monitor",
    "L7 policy": "l7policy",
    "L7 rule": "l7rule",
    "amphora": "amphora",
}
Ids = dict[str, str]
Statuses = dict[str, str]


def table() -> dict[str, tuple[Statuses, Statuses]]:
    """method -> (after success, after failure), each kind -> status."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            method, success, failure, _ = (cell.strip() for cell in line.strip("|").split(" | "))
            found[method.strip("` ")] = (_cell(success), _cell(failure))
    return found


def _cell(text: str) -> Statuses:
    return {
        KINDS.get(kind.strip(), kind.strip()): status
        for kind, status in re.findall(r"([\w ]+?) ([A-Z_]+|gone)(?:,|$)", text)
    }


TABLE = table()


def statuses(on: Stage, lb: str) -> Statuses:
    """Provisioning status of everything of a load balancer, by id."""
    below = {
        "listener": "load_balancer_id = %s",
        "pool": "load_balancer_id = %s",
        "member": "pool_id IN (SELECT id FROM pool WHERE load_balancer_id = %s)",
        "health_monitor": "pool_id IN (SELECT id FROM pool WHERE load_balancer_id = %s)",
        "l7policy": "listener_id IN (SELECT id FROM listener WHERE load_balancer_id = %s)",
        "l7rule": "l7policy_id IN (SELECT p.id FROM l7policy p JOIN listener l ON l.id = p.listener_id"
        " WHERE l.load_balancer_id = %s)",
        "load_balancer": "id = %s",
    }
    found = {}
    for kind, which in below.items():
        for row in on.database.rows(f"SELECT id, provisioning_status AS status FROM {kind} WHERE {which}", lb):
            found[str(row["id"])] = str(row["status"])
    for row in on.database.rows("SELECT id, status FROM amphora WHERE load_balancer_id = %s", lb):
        found[str(row["id"])] = str(row["status"])
    return found


def built(on: Stage, clients: Clients) -> Ids:
    """A load balancer with one of everything; the ids by kind."""
    name = uuid.uuid4().hex[:8]
    lb = str(clients.client.load_balancer_create(json={"loadbalancer": {**TREE, "name": name}})["loadbalancer"]["id"])
    on.settled(lb)
    rows = on.database.rows
    (listener,) = rows("SELECT id, default_pool_id FROM listener WHERE load_balancer_id = %s", lb)
    pool = str(listener["default_pool_id"])
    (policy,) = rows("SELECT id FROM l7policy WHERE listener_id = %s", listener["id"])
    (rule,) = rows("SELECT id FROM l7rule WHERE l7policy_id = %s", policy["id"])
    (monitor,) = rows("SELECT id FROM health_monitor WHERE pool_id = %s", pool)
    member = rows("SELECT id FROM member WHERE pool_id = %s ORDER BY ip_address", pool)[0]
    (amphora,) = rows("SELECT id FROM amphora WHERE load_balancer_id = %s", lb)
    return {
        "load_balancer": lb,
        "listener": str(listener["id"]),
        "pool": pool,
        "member": str(member["id"]),
        "health_monitor": str(monitor["id"]),
        "l7policy": str(policy["id"]),
        "l7rule": str(rule["id"]),
        "amphora": str(amphora["id"]),
    }


def requests(on: Stage, ids: Ids) -> Mapping[str, Callable[[], Any]]:
    """How each method is caused, by a request of a user. What it makes is found again as what is new."""
    lbaas = "/v2/lbaas"

    def change(path: str, kind: str, **values: Any) -> Callable[[], Any]:
        return lambda: on.ask("PUT", f"{lbaas}/{path}", {kind: values})

    def create(path: str, kind: str, **values: Any) -> Callable[[], Any]:
        return lambda: on.create(path, kind, **values)

    def delete(path: str) -> Callable[[], Any]:
        return lambda: on.ask("DELETE", f"{lbaas}/{path}")

    def monitorless() -> Any:
        pool = on.create("pools", "pool", protocol="HTTP", lb_algorithm="ROUND_ROBIN", loadbalancer_id=lb)["id"]
        on.settled(lb)
        ids["before"] = ",".join(statuses(on, lb))
        return pool

    lb, pool, policy, listener = (ids[kind] for kind in ("load_balancer", "pool", "l7policy", "listener"))
    check = {"type": "HTTP", "delay": 5, "timeout": 3, "max_retries": 3}
    return {
        "update_load_balancer": change(f"loadbalancers/{lb}", "loadbalancer", description="other"),
        "delete_load_balancer": delete(f"loadbalancers/{lb}?cascade=true"),
        "failover_load_balancer": lambda: on.ask("PUT", f"{lbaas}/loadbalancers/{lb}/failover"),
        "create_listener": create("listeners", "listener", protocol="TCP", protocol_port=81, loadbalancer_id=lb),
        "update_listener": change(f"listeners/{listener}", "listener", connection_limit=11),
        "delete_listener": delete(f"listeners/{listener}"),
        "create_pool": create("pools", "pool", protocol="HTTP", lb_algorithm="ROUND_ROBIN", loadbalancer_id=lb),
        "update_pool": change(f"pools/{pool}", "pool", lb_algorithm="SOURCE_IP"),
        "delete_pool": delete(f"pools/{pool}"),
        "create_member": create(f"pools/{pool}/members", "member", address="192.0.2.99", protocol_port=80),
        "update_member": change(f"pools/{pool}/members/{ids['member']}", "member", weight=9),
        "delete_member": delete(f"pools/{pool}/members/{ids['member']}"),
        "batch_update_members": lambda: on.ask(
            "PUT",
            f"{lbaas}/pools/{pool}/members?additive_only=true",
            {"members": [{"address": "192.0.2.77", "protocol_port": 80}]},
        ),
        "create_health_monitor": lambda: on.create("healthmonitors", "healthmonitor", pool_id=monitorless(), **check),
        "update_health_monitor": change(f"healthmonitors/{ids['health_monitor']}", "healthmonitor", delay=6),
        "delete_health_monitor": delete(f"healthmonitors/{ids['health_monitor']}"),
        "create_l7policy": create("l7policies", "l7policy", action="REJECT", listener_id=listener),
        "update_l7policy": change(f"l7policies/{policy}", "l7policy", name="other"),
        "delete_l7policy": delete(f"l7policies/{policy}"),
        "create_l7rule": create(f"l7policies/{policy}/rules", "rule", type="PATH", compare_type="EQUAL_TO", value="/x"),
        "update_l7rule": change(f"l7policies/{policy}/rules/{ids['l7rule']}", "rule", value="/y"),
        "delete_l7rule": delete(f"l7policies/{policy}/rules/{ids['l7rule']}"),
        "failover_amphora": lambda: on.ask("PUT", f"/v2/octavia/amphorae/{ids['amphora']}/failover"),
        "update_amphora_agent_config": lambda: on.ask("PUT", f"/v2/octavia/amphorae/{ids['amphora']}/config"),
        "delete_amphora": lambda: on.ask("DELETE", f"/v2/octavia/amphorae/{ids['amphora']}"),
    }


FAULTS = {
    "failover_load_balancer": "compute.boot",
    "failover_amphora": "compute.boot",
    "delete_load_balancer": "compute.destroy",
    "delete_amphora": "compute.destroy",
    "update_amphora_agent_config": "amphora.update_agent",
}
"""The call that fails for good; for all others it is the push."""


def test_the_table_has_every_method() -> None:
    assert set(TABLE) == METHODS


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize("method", sorted(METHODS - {"create_load_balancer"}))
def test_a_request_ends_as_the_table_says(on: Stage, clients: Clients, method: str, fails: bool) -> None:
    ids = built(on, clients)
    lb = ids["load_balancer"]
    if method == "delete_amphora":  # the API lets go only of those in ERROR
        on.database.rows("UPDATE amphora SET status = 'ERROR' WHERE id = %s", ids["amphora"])
    before = statuses(on, lb)
    ask = requests(on, ids)[method]
    newest = on.database.rows("SELECT COALESCE(MAX(created_at), 0) AS at FROM oc_operation")[0]["at"]
    if fails:
        call = FAULTS.get(method, "amphora.push")
        # a health monitor is asked for on a pool made first, whose push goes well
        on.cloud().fail(call, kind=FaultKind.REFUSED, skip=1 if method == "create_health_monitor" else 0)
    ask()
    until(
        f"{method} is over: {on.open_operations()}",
        lambda: (
            not on.open_operations()
            and on.database.rows("SELECT id FROM oc_operation WHERE created_at > %s", newest)
            and not on.pending()
        ),
        within=30,
    )
    after = statuses(on, lb)
    known = set(before) | set(ids.get("before", "").split(","))
    expected = {id: after.get(id, "") for id in known if id} | before
    outcome = TABLE[method][fails]
    made = sorted(set(after) - known)
    for kind, status in outcome.items():
        if kind == "below":
            for id in set(before) - {lb, ids["amphora"]}:
                expected[id] = status
        elif kind == "amphora" and method == "failover_load_balancer":
            expected |= {ids["amphora"]: "DELETED"} | dict.fromkeys(made, status)
        elif kind == KINDS_OF.get(method) or method == "batch_update_members":
            expected |= dict.fromkeys(made, status)
        else:
            expected[ids[kind]] = status
    if method.startswith("failover"):
        new = dict.fromkeys(made, "DELETED" if fails else "ALLOCATED")
        expected |= {ids["amphora"]: after[ids["amphora"]]} | new
        assert fails or after[ids["amphora"]] == "DELETED"
    gone = {id for id, status in expected.items() if status == "gone"}
    if method in ("delete_pool", "delete_listener", "delete_l7policy") and not fails:
        gone |= set(expected) - set(after)  # what hung below went with it
        assert gone <= set(before) - {lb}
    assert after == {id: status for id, status in expected.items() if id not in gone}, on.why(lb)
    assert on.pending() == []


KINDS_OF = {f"create_{kind}": kind for kind in KINDS.values()}


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_a_creation_ends_as_the_table_says(on: Stage, clients: Clients, fails: bool) -> None:
    if fails:
        on.cloud().fail("compute.boot", kind=FaultKind.PERMANENT)
    made = clients.client.load_balancer_create(json={"loadbalancer": {**TREE, "name": f"create {fails}"}})
    lb = made["loadbalancer"]["id"]
    outcome = TABLE["create_load_balancer"][fails]
    on.settled(lb, outcome["load_balancer"])
    until("its operation is over", lambda: not on.open_operations())
    amphorae = on.database.rows("SELECT status FROM amphora WHERE load_balancer_id = %s", lb)
    assert [row["status"] for row in amphorae] == [outcome["amphora"]]
    after = statuses(on, lb)
    del after[lb]
    assert {s for s in after.values() if s != outcome["amphora"]} <= {outcome["below"]}, on.why(lb)
    assert len(after) == 8


def test_a_listener_that_was_refused_spoils_neither_a_member_added_afterwards_nor_a_failover(
    on: Stage, clients: Clients
) -> None:
    ids = built(on, clients)
    lb, pool = ids["load_balancer"], ids["pool"]
    on.cloud().fail("amphora.push", kind=FaultKind.REFUSED, message="HAProxy says no")
    bad = str(on.create("listeners", "listener", protocol="TCP", protocol_port=81, loadbalancer_id=lb)["id"])
    on.settled(lb)
    assert statuses(on, lb)[bad] == "ERROR"
    assert {s for id, s in statuses(on, lb).items() if id != bad} == {"ACTIVE", "ALLOCATED"}
    assert [one["id"] for one in served(on, lb)["listeners"]] == [ids["listener"]]  # the last good one was put back
    reasons = on.database.rows(
        "SELECT text FROM oc_event WHERE load_balancer_id = %s AND name = 'operation.failed'", lb
    )
    assert "HAProxy says no" in str(reasons[-1]["text"])

    on.create(f"pools/{pool}/members", "member", address="192.0.2.50", protocol_port=80)
    on.settled(lb)
    assert "192.0.2.50" in {member["address"] for member in served(on, lb)["pools"][0]["members"]}
    on.ask("PUT", f"/v2/lbaas/loadbalancers/{lb}/failover")
    on.settled(lb)
    after = statuses(on, lb)
    assert after.pop(bad) == "ERROR"
    assert set(after.values()) == {"ACTIVE", "ALLOCATED", "DELETED"}
    assert [one["id"] for one in served(on, lb)["listeners"]] == [ids["listener"]]

    on.ask(
        "PUT", f"/v2/lbaas/listeners/{bad}", {"listener": {"connection_limit": 5}}
    )  # asked for again, it counts again
    on.settled(lb)
    assert statuses(on, lb)[bad] == "ACTIVE"
    assert {one["id"] for one in served(on, lb)["listeners"]} == {ids["listener"], bad}
