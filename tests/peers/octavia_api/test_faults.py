"""The same with everything around it failing: nothing stays PENDING, and nothing is done twice."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from octavia_core.controller.requests import accept_request
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.operation import Operation
from octavia_core.domain.secret import Secret
from octavia_core.policy.requests import Request, request_of
from octavia_core.settings import Database, Settings
from octavia_core.testing.outside import FaultKind
from tests.peers.octavia_api.clients import Clients
from tests.peers.octavia_api.programs import until
from tests.peers.octavia_api.stage import PROJECT, Stage
from tests.peers.octavia_api.test_outcomes import built, requests, statuses

KILLED_AT = {
    "update_load_balancer": "amphora.push",
    "delete_load_balancer": "compute.destroy",
    "failover_load_balancer": "compute.boot",
    "failover_amphora": "amphora.plug_vip",
    "create_listener": "amphora.push",
    "delete_listener": "amphora.push",
    "create_pool": "amphora.push",
    "create_member": "amphora.push",
    "batch_update_members": "amphora.push",
    "delete_health_monitor": "amphora.push",
    "create_l7policy": "amphora.push",
    "update_l7rule": "amphora.push",
    "delete_amphora": "compute.destroy",
    "update_amphora_agent_config": "amphora.update_agent",
}
"""The call in which the worker process dies, one for each kind of operation."""


@pytest.fixture
def settled(on: Stage) -> Callable[[], None]:
    """Wait until nothing is under way, and check that nothing was made twice."""

    def wait() -> None:
        until(f"nothing is pending: {on.pending()} {on.open_operations()}", lambda: not on.pending(), within=60)
        until(f"no operation is open: {on.open_operations()}", lambda: not on.open_operations(), within=60)
        assert on.cloud().made_twice() == []

    return wait


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"])
@pytest.mark.parametrize("method", sorted(KILLED_AT))
def test_a_worker_that_dies_in_the_middle_loses_nothing(
    on: Stage, clients: Clients, settled: Callable[[], None], method: str, late: bool
) -> None:
    on.worker.stop()  # a supervisor whose children die again and again takes its time: each death here is the first
    on.worker.start()
    ids = built(on, clients)
    lb = ids["load_balancer"]
    if method == "delete_amphora":
        on.database.rows("UPDATE amphora SET status = 'ERROR' WHERE id = %s", ids["amphora"])
    cloud = on.cloud()
    before = len(cloud.calls(KILLED_AT[method]))
    cloud.fail(KILLED_AT[method], kind=FaultKind.KILL, late=late)
    requests(on, ids)[method]()
    until("the call is made", lambda: len(cloud.calls(KILLED_AT[method])) > before)
    settled()
    deadline = "DELETED" if method == "delete_load_balancer" else "ACTIVE"
    assert on.status(lb) == deadline, on.why(lb)
    assert "ERROR" not in statuses(on, lb).values(), on.why(lb)


def test_a_broker_that_stops_and_starts_loses_no_request_that_was_stored(
    on: Stage, clients: Clients, settled: Callable[[], None]
) -> None:
    made = [on.load_balancer(f"broker {n}")["id"] for n in range(3)]
    on.broker.stop()
    for lb in made:
        on.settled(lb)  # what was stored needs no broker
    listening = on.consumer.said().count("listening for")
    on.broker.start()
    until(
        f"requests are taken again ({listening}): {on.consumer.said()[-800:]}",
        lambda: _arrives(on),
        within=90,
        pause=1.0,
    )
    lb = clients.load_balancer("after the broker")
    assert on.status(lb) == "ACTIVE"
    settled()


def _arrives(on: Stage) -> bool:
    """Whether a message that anybody sends now becomes an operation."""
    ask = [row["id"] for row in on.database.rows("SELECT id FROM amphora WHERE status = 'ALLOCATED' LIMIT 1")]
    count = "SELECT COUNT(*) AS n FROM oc_operation WHERE flow = 'configure-agent'"
    before = on.database.rows(count)[0]["n"]
    try:
        on.ask("PUT", f"/v2/octavia/amphorae/{ask[0]}/config")
    except (AssertionError, OSError):
        return False
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if on.database.rows(count)[0]["n"] != before:
            return True
        time.sleep(0.05)
    return False


def test_a_database_that_stops_and_starts_in_the_middle_loses_nothing(
    on: Stage, clients: Clients, settled: Callable[[], None]
) -> None:
    kept = clients.load_balancer("database")
    made = [on.load_balancer(f"database {n}")["id"] for n in range(5)]
    on.database.stop()
    on.database.start()
    for lb in (kept, *made):
        on.settled(lb, within=60)
    settled()
    assert on.status(clients.load_balancer("after the database")) == "ACTIVE"


def test_a_message_that_comes_while_the_database_is_away_is_kept_by_the_broker(
    on: Stage, clients: Clients, settled: Callable[[], None]
) -> None:
    lb = clients.load_balancer("away")
    (amphora,) = [a.id for a in clients.sdk.amphorae(loadbalancer_id=lb)]
    on.consumer.stop()
    on.ask("PUT", f"/v2/octavia/amphorae/{amphora}/config")
    on.database.stop()
    try:
        on.consumer.start()
        until("it says so", lambda: "trying again: database" in on.consumer.said()[-2000:])
    finally:
        on.database.start()
    before = len(on.cloud().calls("amphora.update_agent", amphora))
    until("the agent is told", lambda: len(on.cloud().calls("amphora.update_agent")) > before)
    settled()


def test_a_worker_that_is_stopped_longer_than_its_lease_does_no_harm_when_it_goes_on(
    on: Stage, clients: Clients, settled: Callable[[], None]
) -> None:
    ids = built(on, clients)
    for pid in on.worker.pids():
        _signal(pid, signal.SIGSTOP)
    requests(on, ids)["update_pool"]()
    time.sleep(3)  # longer than the lease of 2 s
    for pid in on.worker.pids():
        _signal(pid, signal.SIGCONT)
    settled()
    assert on.status(ids["load_balancer"]) == "ACTIVE"


def _signal(pid: int, number: int) -> None:
    import os

    os.kill(pid, number)


# -- messages without an API: what the API would send, at the wrong time -----------------------------------------------


@pytest.fixture
def store(on: Stage) -> Any:
    storage = SqlStorage.open(Settings(database=Database(connection=Secret(on.database.url))))
    yield lambda request, unique_id=None: accept_request(storage, request, unique_id=unique_id)
    storage.close()


def ended(on: Stage, operation: Operation) -> dict[str, object]:
    """Wait for the end of an operation; its row."""
    query = "SELECT state, error, TIMESTAMPDIFF(SECOND, NOW(), NOW()) AS zero FROM oc_operation WHERE id = %s"
    until(
        "the operation ends",
        lambda: on.database.rows(query, operation.id)[0]["state"] in ("SUCCEEDED", "FAILED"),
        within=90,
    )
    return on.database.rows(query, operation.id)[0]


def over(on: Stage, operation: Operation) -> bool:
    """Whether it was closed without work."""
    events = on.database.rows("SELECT name FROM oc_event WHERE operation_id = %s", operation.id)
    return "request.over" in {event["name"] for event in events}


def test_a_message_twice_is_one_operation(on: Stage, clients: Clients, store: Any) -> None:
    lb = clients.load_balancer("twice")
    request = request_of("failover_load_balancer", {"load_balancer_id": lb})
    once, again = store(request, "0123"), store(request, "0123")
    assert once.id == again.id
    on.database.rows("UPDATE load_balancer SET provisioning_status = 'PENDING_UPDATE' WHERE id = %s", lb)
    ended(on, once)
    assert on.status(lb) == "ACTIVE"
    assert not over(on, once)


def test_every_message_of_a_tree_again_changes_nothing(on: Stage, clients: Clients, store: Any) -> None:
    ids = built(on, clients)
    before, pushes = statuses(on, ids["load_balancer"]), len(on.cloud().calls("amphora.push"))
    for request in (created(ids, "load_balancer"), created(ids, "listener"), created(ids, "member")):
        operation = store(request)  # without an id by which it could be known
        ended(on, operation)
        assert over(on, operation)
    assert statuses(on, ids["load_balancer"]) == before
    assert len(on.cloud().calls("amphora.push")) == pushes


def created(ids: dict[str, str], kind: str) -> Request:
    """The message that made it."""
    messages = {
        "load_balancer": ("create_load_balancer", {"loadbalancer": {"loadbalancer_id": ids["load_balancer"]}}),
        "listener": (
            "create_listener",
            {"listener": {"listener_id": ids["listener"], "loadbalancer_id": ids["load_balancer"]}},
        ),
        "member": ("create_member", {"member": {"member_id": ids["member"], "pool_id": ids["pool"]}}),
    }
    return request_of(*messages[kind])


def test_a_message_before_its_commit_waits_for_the_rows(on: Stage, clients: Clients, store: Any) -> None:
    ids = built(on, clients)
    fresh = str(uuid.uuid4())
    request = request_of("create_member", {"member": {"member_id": fresh, "pool_id": ids["pool"]}})
    operation = store(request)
    until("it is parked", lambda: on.database.rows("SELECT 1 FROM oc_journal WHERE operation_id = %s", operation.id))
    assert on.status(ids["load_balancer"]) == "ACTIVE"
    import pymysql

    with pymysql.connect(unix_socket=str(on.database.socket), user="root", database="octavia") as connection:
        cursor = connection.cursor()  # one transaction, as the API's
        cursor.execute(
            "UPDATE load_balancer SET provisioning_status = 'PENDING_UPDATE' WHERE id = %s", ids["load_balancer"]
        )
        cursor.execute(
            "INSERT INTO member (id, project_id, pool_id, ip_address, protocol_port, weight, operating_status, enabled,"
            " provisioning_status, backup, vnic_type) VALUES (%s, %s, %s, '192.0.2.200', 80, 1, 'NO_MONITOR', 1,"
            " 'PENDING_CREATE', 0, 'normal')",
            (fresh, PROJECT, ids["pool"]),
        )
        connection.commit()
    ended(on, operation)
    assert statuses(on, ids["load_balancer"])[fresh] == "ACTIVE"
    assert not over(on, operation)


def test_a_message_whose_transaction_was_rolled_back_makes_way_for_the_next_request(
    on: Stage, clients: Clients, store: Any, settled: Callable[[], None]
) -> None:
    ids = built(on, clients)
    lost = store(request_of("create_member", {"member": {"member_id": str(uuid.uuid4()), "pool_id": ids["pool"]}}))
    until("it is parked", lambda: on.database.rows("SELECT 1 FROM oc_journal WHERE operation_id = %s", lost.id))
    requests(on, ids)["update_listener"]()
    on.settled(ids["load_balancer"], within=20)
    ended(on, lost)
    assert over(on, lost)
    assert set(statuses(on, ids["load_balancer"]).values()) == {"ACTIVE", "ALLOCATED"}
    settled()


def test_a_message_about_what_never_was_is_left_aside(on: Stage, store: Any) -> None:
    nothing = {"member": {"member_id": str(uuid.uuid4()), "pool_id": str(uuid.uuid4())}}
    assert store(request_of("create_member", nothing)) is None


def test_no_secret_of_a_message_is_ever_shown(on: Stage, clients: Clients) -> None:
    secret = "PRIVATE-KEY-" + uuid.uuid4().hex
    body = {"oslo.version": "2.0", "oslo.message": json.dumps(message_with(secret))}
    publish(on, body)
    until("it is taken", lambda: "left aside" in on.consumer.said() or secret in on.consumer.said())
    for program in (on.consumer, on.worker):
        assert secret not in program.log.read_text(encoding="utf-8")
    assert on.database.rows("SELECT id FROM oc_operation WHERE arguments LIKE %s", f"%{secret}%") == []


def message_with(secret: str) -> dict[str, Any]:
    content = {"listener_id": 7, "default_tls_container_data": {"private_key": secret, "passphrase": secret}}
    return {
        "method": "create_listener",
        "args": {"listener": content},
        "namespace": "controller",
        "version": "2.0",
        "_unique_id": uuid.uuid4().hex,
    }


def publish(on: Stage, body: dict[str, Any]) -> None:
    """Put a message into the exchange as the API does."""
    import kombu

    with kombu.Connection(on.broker.url.replace("rabbit:", "amqp:")) as connection:
        exchange = kombu.Exchange("octavia", type="topic", durable=False)
        producer = connection.Producer(exchange=exchange, routing_key="octavia_provisioning_v2", auto_declare=False)
        producer.publish(json.dumps(body), content_type="application/json", content_encoding="utf-8")
