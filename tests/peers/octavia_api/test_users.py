"""What users do, with the clients they have, against the unmodified API and our workers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from octavia_core.domain.heartbeat import encode
from tests.peers.octavia_api.clients import SUBNET, Clients
from tests.peers.octavia_api.programs import until
from tests.peers.octavia_api.stage import HEARTBEAT_KEY, PROJECT, Stage

TREE: dict[str, Any] = {
    "name": "full",
    "vip_subnet_id": SUBNET,
    "project_id": PROJECT,
    "listeners": [
        {
            "name": "web",
            "protocol": "HTTP",
            "protocol_port": 80,
            "insert_headers": {"X-Forwarded-For": "true"},
            "default_pool": {
                "name": "servers",
                "protocol": "HTTP",
                "lb_algorithm": "ROUND_ROBIN",
                "session_persistence": {"type": "HTTP_COOKIE"},
                "healthmonitor": {"type": "HTTP", "delay": 5, "timeout": 3, "max_retries": 2, "url_path": "/up"},
                "members": [{"address": "192.0.2.11", "protocol_port": 80}, {"address": "192.0.2.12", "protocol_port": 80}],
            },
            "l7policies": [
                {
                    "action": "REJECT",
                    "rules": [{"type": "PATH", "compare_type": "STARTS_WITH", "value": "/admin"}],
                }
            ],
        }
    ],
}  # fmt: skip


@contextlib.contextmanager
def settled(on: Stage, clients: Clients, lb_id: str) -> Iterator[None]:
    """Whatever happens inside ends with the load balancer ACTIVE and nothing pending."""
    yield
    clients.active(lb_id)
    assert on.pending() == []


def test_every_kind_of_resource_is_created_updated_and_deleted_with_openstacksdk(on: Stage, clients: Clients) -> None:
    sdk = clients.sdk
    lb = clients.load_balancer("sdk")
    with settled(on, clients, lb):
        listener = sdk.create_listener(name="web", protocol="HTTP", protocol_port=80, load_balancer_id=lb)
    with settled(on, clients, lb):
        pool = sdk.create_pool(name="servers", protocol="HTTP", lb_algorithm="ROUND_ROBIN", listener_id=listener.id)
    with settled(on, clients, lb):
        member = sdk.create_member(pool, address="192.0.2.21", protocol_port=8080)
    with settled(on, clients, lb):
        monitor = sdk.create_health_monitor(pool_id=pool.id, type="HTTP", delay=5, timeout=3, max_retries=3)
    with settled(on, clients, lb):
        policy = sdk.create_l7_policy(listener_id=listener.id, action="REJECT")
    with settled(on, clients, lb):
        rule = sdk.create_l7_rule(policy, type="PATH", compare_type="STARTS_WITH", value="/secret")
    with settled(on, clients, lb):
        sdk.update_listener(listener, connection_limit=10)
    with settled(on, clients, lb):
        sdk.update_pool(pool, lb_algorithm="LEAST_CONNECTIONS")
    with settled(on, clients, lb):
        sdk.update_member(member, pool, weight=7)
    with settled(on, clients, lb):
        sdk.update_health_monitor(monitor, delay=9)
    with settled(on, clients, lb):
        sdk.update_l7_policy(policy, name="no admin")
    with settled(on, clients, lb):
        # the SDK's own update_l7_rule cannot say `value`, which is the name of an argument of its own
        clients.client.l7rule_set(rule.id, policy.id, json={"rule": {"value": "/hidden"}})
    with settled(on, clients, lb):
        sdk.update_load_balancer(lb, name="renamed")
    assert served(on, lb)["listeners"][0]["connection_limit"] == 10
    assert served(on, lb)["pools"][0]["members"][0]["weight"] == 7
    assert sdk.get_listener(listener.id).provisioning_status == "ACTIVE"
    assert sdk.get_health_monitor(monitor.id).operating_status == "ONLINE"
    assert sdk.get_l7_policy(policy.id).operating_status == "ONLINE"
    assert sdk.get_load_balancer_statistics(lb).total_connections == 0
    for delete in (
        lambda: sdk.delete_l7_rule(rule, policy),
        lambda: sdk.delete_l7_policy(policy),
        lambda: sdk.delete_health_monitor(monitor),
        lambda: sdk.delete_member(member, pool),
        lambda: sdk.delete_pool(pool),
        lambda: sdk.delete_listener(listener),
    ):
        with settled(on, clients, lb):
            delete()
    assert served(on, lb)["listeners"] == served(on, lb)["pools"] == []
    sdk.delete_load_balancer(lb)
    until("it is DELETED", lambda: on.status(lb) == "DELETED")
    assert sdk.find_load_balancer(lb) is None


def test_every_kind_of_resource_is_created_updated_and_deleted_with_octaviaclient(on: Stage, clients: Clients) -> None:
    client = clients.client
    wish = {"name": "client", "vip_subnet_id": SUBNET, "project_id": PROJECT}
    lb = client.load_balancer_create(json={"loadbalancer": wish})["loadbalancer"]["id"]
    clients.active(lb)

    def create(kind: str, make: Callable[..., Any], *where: str, **values: Any) -> str:
        with settled(on, clients, lb):
            made = make(*where, json={kind: values})
        return str(made[kind]["id"])

    listener = create("listener", client.listener_create, protocol="HTTP", protocol_port=80, loadbalancer_id=lb)
    pool = create("pool", client.pool_create, protocol="HTTP", lb_algorithm="ROUND_ROBIN", listener_id=listener)
    member = create("member", client.member_create, pool, address="192.0.2.21", protocol_port=8080)
    check = {"type": "HTTP", "delay": 5, "timeout": 3, "max_retries": 3}
    monitor = create("healthmonitor", client.health_monitor_create, pool_id=pool, **check)
    policy = create("l7policy", client.l7policy_create, listener_id=listener, action="REJECT")
    rule = create("rule", client.l7rule_create, policy, type="PATH", compare_type="EQUAL_TO", value="/secret")
    for change in (
        lambda: client.load_balancer_set(lb, json={"loadbalancer": {"description": "other"}}),
        lambda: client.listener_set(listener, json={"listener": {"connection_limit": 10}}),
        lambda: client.pool_set(pool, json={"pool": {"lb_algorithm": "LEAST_CONNECTIONS"}}),
        lambda: client.member_set(pool, member, json={"member": {"weight": 7}}),
        lambda: client.health_monitor_set(monitor, json={"healthmonitor": {"delay": 9}}),
        lambda: client.l7policy_set(policy, json={"l7policy": {"name": "no secrets"}}),
        lambda: client.l7rule_set(rule, policy, json={"rule": {"value": "/hidden"}}),
    ):
        with settled(on, clients, lb):
            change()
    config = served(on, lb)
    assert config["listeners"][0]["connection_limit"] == 10
    assert config["listeners"][0]["l7policies"][0]["rules"][0]["value"] == "/hidden"
    assert config["pools"][0]["lb_algorithm"] == "LEAST_CONNECTIONS"
    assert config["pools"][0]["members"][0]["weight"] == 7
    assert config["pools"][0]["health_monitor"]["delay"] == 9
    for delete in (
        lambda: client.l7rule_delete(rule, policy),
        lambda: client.l7policy_delete(policy),
        lambda: client.health_monitor_delete(monitor),
        lambda: client.member_delete(pool, member),
        lambda: client.pool_delete(pool),
        lambda: client.listener_delete(listener),
    ):
        with settled(on, clients, lb):
            delete()
    assert served(on, lb)["listeners"] == served(on, lb)["pools"] == []
    client.load_balancer_delete(lb)
    until("it is DELETED", lambda: on.status(lb) == "DELETED")


def test_a_fully_populated_load_balancer_becomes_active_as_one(on: Stage, clients: Clients) -> None:
    made = clients.client.load_balancer_create(json={"loadbalancer": TREE})["loadbalancer"]
    lb = made["id"]
    clients.active(lb)
    assert on.pending() == []
    tree = clients.client.load_balancer_status_show(lb)["statuses"]["loadbalancer"]
    assert [one["provisioning_status"] for one in tree["listeners"]] == ["ACTIVE"]
    config = served(on, lb)
    assert sorted(m["address"] for m in config["pools"][0]["members"]) == ["192.0.2.11", "192.0.2.12"]
    assert config["listeners"][0]["insert_headers"] == {"X-Forwarded-For": "true"}
    clients.client.load_balancer_delete(lb, cascade=True)
    until("it is DELETED", lambda: on.status(lb) == "DELETED")
    for table in ("listener", "pool"):
        assert on.database.rows(f"SELECT id FROM {table} WHERE load_balancer_id = %s", lb) == []


@pytest.mark.parametrize("additive", [False, True])
def test_members_are_set_in_one_batch(on: Stage, clients: Clients, additive: bool) -> None:
    lb = clients.load_balancer(f"batch {additive}")
    pool = clients.sdk.create_pool(name="p", protocol="HTTP", lb_algorithm="ROUND_ROBIN", loadbalancer_id=lb)
    clients.active(lb)
    client = clients.client

    def put(*ports: int, weight: int = 1) -> None:
        members = [{"address": "192.0.2.31", "protocol_port": port, "weight": weight} for port in ports]
        path = f"/v2/lbaas/pools/{pool.id}/members"
        on.ask("PUT", f"{path}?additive_only=true" if additive else path, {"members": members})
        clients.active(lb)
        assert on.pending() == []

    def ports() -> dict[int, int]:
        return {m["protocol_port"]: m["weight"] for m in client.member_list(pool.id)["members"]}

    put(1, 2, 3)
    assert ports() == {1: 1, 2: 1, 3: 1}
    put(3, 4, weight=5)
    assert ports() == ({1: 1, 2: 1, 3: 5, 4: 5} if additive else {3: 5, 4: 5})
    configured = {m["protocol_port"]: m["weight"] for m in served(on, lb)["pools"][0]["members"]}
    assert configured == ports()


def test_failover_of_a_load_balancer_and_of_an_amphora_replaces_what_is_there(on: Stage, clients: Clients) -> None:
    lb = clients.load_balancer("failover")
    for fail_over in (
        lambda old: clients.sdk.failover_load_balancer(lb),
        clients.sdk.failover_amphora,
    ):
        (old,) = [a.id for a in clients.sdk.amphorae(loadbalancer_id=lb)]
        fail_over(old)
        clients.active(lb)
        (new,) = clients.sdk.amphorae(loadbalancer_id=lb)
        assert new.id != old
        assert (new.status, new.role, new.ha_ip) == ("ALLOCATED", "STANDALONE", on_vip(on, lb))
        rows = on.database.rows("SELECT status FROM amphora WHERE id = %s", old)
        assert rows == [{"status": "DELETED"}]


def test_an_amphora_is_told_its_settings_and_a_broken_one_is_deleted(on: Stage, clients: Clients) -> None:
    lb = clients.load_balancer("agent")
    (amphora,) = clients.sdk.amphorae(loadbalancer_id=lb)
    clients.sdk.configure_amphora(amphora.id)
    until("the agent is told", lambda: on.cloud().calls("amphora.update_agent"))
    on.database.rows("UPDATE amphora SET status = 'ERROR' WHERE id = %s", amphora.id)
    clients.client.amphora_delete(amphora.id)
    until(
        "the amphora is DELETED",
        lambda: on.database.rows("SELECT status FROM amphora WHERE id = %s", amphora.id)[0]["status"] == "DELETED",
    )
    assert on.status(lb) == "ACTIVE"


def test_nothing_was_made_twice_and_updated_at_moves_with_every_status(on: Stage, clients: Clients) -> None:
    lb = clients.load_balancer("times")
    assert on.cloud().made_twice() == []
    rows = on.database.rows("SELECT created_at, updated_at FROM load_balancer WHERE id = %s", lb)
    assert rows[0]["updated_at"] is not None


def test_the_vip_stays_as_the_api_made_it(on: Stage) -> None:
    on.worker.stop()
    query = "SELECT v.* FROM vip v WHERE load_balancer_id = %s"
    made = on.load_balancer("vip")["id"]
    before = on.database.rows(query, made)
    on.worker.start()
    on.settled(made)
    assert on.database.rows(query, made) == before


def test_additional_vips_stay_as_the_api_made_them_and_go_with_the_load_balancer(on: Stage, clients: Clients) -> None:
    wanted = {
        f"aaaaaaaa-bbbb-4ccc-8ddd-{number:012x}": address
        for number, address in enumerate(("192.0.2.201", "2001:db8::c9"), 1)
    }
    more = [{"subnet_id": subnet, "ip_address": address} for subnet, address in wanted.items()]
    made = on.load_balancer("more", additional_vips=more)
    lb = made["id"]

    def rows() -> dict[str, tuple[object, object]]:
        found = on.database.rows("SELECT * FROM additional_vip WHERE load_balancer_id = %s", lb)
        return {str(row["subnet_id"]): (row["ip_address"], row["port_id"]) for row in found}

    as_made = {subnet: (address, made["vip_port_id"]) for subnet, address in wanted.items()}
    on.settled(lb)
    assert rows() == as_made
    clients.sdk.failover_load_balancer(lb)
    on.settled(lb)
    assert rows() == as_made
    shown = on.ask("GET", f"/v2/lbaas/loadbalancers/{lb}")["loadbalancer"]["additional_vips"]
    assert {vip["subnet_id"]: vip["ip_address"] for vip in shown} == wanted
    on.ask("DELETE", f"/v2/lbaas/loadbalancers/{lb}?cascade=true")
    until("it is gone", lambda: on.status(lb) == "DELETED")
    assert [name for _, name in on.cloud().leftovers() if lb in name] == []


def test_both_clients_see_statuses_statistics_and_amphorae(on: Stage, clients: Clients) -> None:
    lb = clients.client.load_balancer_create(json={"loadbalancer": {**TREE, "name": "heard"}})["loadbalancer"]["id"]
    clients.active(lb)
    (amphora,) = clients.sdk.amphorae(loadbalancer_id=lb)
    (listener,) = clients.sdk.listeners(load_balancer_id=lb)
    pool = listener.default_pool_id
    members = [member.id for member in clients.sdk.members(pool)]
    counted = {"rx": 1000, "tx": 2000, "conns": 3, "totconns": 40, "ereq": 5}
    states = dict(zip(members, ("UP", "DOWN"), strict=True))
    said = {
        "id": amphora.id,
        "seq": 1,
        "ver": 3,
        "listeners": {listener.id: {"status": "OPEN", "stats": counted}},
        "pools": {f"{pool}:{listener.id}": {"status": "UP", "members": states}},
    }
    on.health.start()
    try:

        def heard() -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # the same one: its counters count once
                sender.sendto(encode(said, HEARTBEAT_KEY), ("127.0.0.1", on.heartbeats))
            return bool(clients.sdk.get_load_balancer(lb).operating_status == "DEGRADED")

        until(f"statuses come: {on.health.said()}", heard, within=60, pause=0.3)
        until("statistics come", lambda: clients.sdk.get_load_balancer_statistics(lb).total_connections == 40)
    finally:
        on.health.stop()
    client = clients.client
    fields = ("bytes_in", "bytes_out", "active_connections", "total_connections", "request_errors")
    expected = [1000, 2000, 3, 40, 5]
    for seen in (clients.sdk.get_load_balancer_statistics(lb), clients.sdk.get_listener_statistics(listener.id)):
        assert [getattr(seen, field) for field in fields] == expected
    for numbers in (client.load_balancer_stats_show(lb), client.listener_stats_show(listener.id)):
        assert [numbers["stats"][field] for field in fields] == expected
    (numbers,) = client.amphora_stats_show(amphora.id)["amphora_stats"]
    assert [numbers[field] for field in fields] == expected
    assert clients.sdk.get_listener(listener.id).operating_status == "ONLINE"
    assert clients.sdk.get_pool(pool).operating_status == "DEGRADED"
    wanted = dict(zip(members, ("ONLINE", "ERROR"), strict=True))
    assert {m.id: m.operating_status for m in clients.sdk.members(pool)} == wanted
    tree = client.load_balancer_status_show(lb)["statuses"]["loadbalancer"]
    assert (tree["operating_status"], tree["provisioning_status"]) == ("DEGRADED", "ACTIVE")
    assert {m["id"]: m["operating_status"] for m in tree["listeners"][0]["pools"][0]["members"]} == wanted
    (row,) = client.amphora_list(loadbalancer_id=lb)["amphorae"]
    assert (row["id"], row["status"], row["role"]) == (amphora.id, "ALLOCATED", "STANDALONE")
    assert {row[f] for f in ("compute_id", "lb_network_ip", "vrrp_port_id", "ha_port_id", "vrrp_ip")}.isdisjoint(
        {None, ""}
    )
    shown = clients.sdk.get_amphora(amphora.id)
    assert (shown.loadbalancer_id, shown.ha_ip, shown.compute_id) == (lb, on_vip(on, lb), row["compute_id"])


def served(on: Stage, lb: str) -> dict[str, Any]:
    """What the amphora of a load balancer was last told."""
    from octavia_core.testing.simulator import SimulatedAmphorae

    (row,) = on.database.rows("SELECT id FROM amphora WHERE load_balancer_id = %s AND status = 'ALLOCATED'", lb)
    found = SimulatedAmphorae(on.cloud()).configuration(str(row["id"]))
    assert found is not None
    return dict(found)


def on_vip(on: Stage, lb: str) -> str:
    """Its VIP."""
    return str(on.database.rows("SELECT ip_address FROM vip WHERE load_balancer_id = %s", lb)[0]["ip_address"])
