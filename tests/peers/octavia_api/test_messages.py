"""Messages that come twice, too early, too late, or that nobody should have sent: each is settled without harm."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from octavia_core.controller.requests import accept_request
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.operation import Operation
from octavia_core.domain.secret import Secret
from octavia_core.policy.requests import Request, request_of
from octavia_core.settings import Database, Settings
from tests.peers.octavia_api.clients import Clients
from tests.peers.octavia_api.programs import until
from tests.peers.octavia_api.stage import PROJECT, Stage
from tests.peers.octavia_api.test_outcomes import built, requests, statuses


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


def over(on: Stage, operation: str) -> bool:
    """Whether it was closed without work."""
    events = on.database.rows("SELECT name FROM oc_event WHERE operation_id = %s", operation)
    return "request.over" in {event["name"] for event in events}


def test_a_message_twice_is_one_operation(on: Stage, clients: Clients, store: Any) -> None:
    lb = clients.load_balancer("twice")
    request = request_of("failover_load_balancer", {"load_balancer_id": lb})
    once, again = store(request, "0123"), store(request, "0123")
    assert once.id == again.id
    on.database.rows("UPDATE load_balancer SET provisioning_status = 'PENDING_UPDATE' WHERE id = %s", lb)
    ended(on, once)
    assert on.status(lb) == "ACTIVE"
    assert not over(on, once.id)


def test_every_message_of_a_tree_again_changes_nothing(on: Stage, clients: Clients, store: Any) -> None:
    ids = built(on, clients)
    before, pushes = statuses(on, ids["load_balancer"]), len(on.cloud().calls("amphora.push"))
    for request in (created(ids, "load_balancer"), created(ids, "listener"), created(ids, "member")):
        operation = store(request)  # without an id by which it could be known
        ended(on, operation)
        assert over(on, operation.id)
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
    assert not over(on, operation.id)


@pytest.fixture
def trigger(on: Stage) -> Iterator[Callable[[str], None]]:
    """Have MariaDB do something when the API writes the new values of a pool: that is after it has sent its message."""

    def make(what: str) -> None:
        on.database.rows(
            f"CREATE TRIGGER on_pool BEFORE UPDATE ON pool FOR EACH ROW IF NEW.name = 'odd' THEN {what}; END IF"
        )

    yield make
    on.database.rows("DROP TRIGGER IF EXISTS on_pool")


def test_a_message_of_the_real_api_that_comes_long_before_its_commit_waits_for_it(
    on: Stage, clients: Clients, trigger: Callable[[str], None]
) -> None:
    ids = built(on, clients)
    trigger("DO SLEEP(1.5)")
    newest = on.database.rows("SELECT COALESCE(MAX(created_at), 0) AS at FROM oc_operation")[0]["at"]
    asking = threading.Thread(target=lambda: on.ask("PUT", f"/v2/lbaas/pools/{ids['pool']}", {"pool": {"name": "odd"}}))
    asking.start()
    query = "SELECT id FROM oc_operation WHERE created_at > %s"
    until("the message is stored", lambda: on.database.rows(query, newest))
    assert on.database.rows("SELECT name FROM pool WHERE id = %s", ids["pool"]) == [{"name": "servers"}]
    asking.join(30)
    on.settled(ids["load_balancer"])
    assert on.database.rows("SELECT name FROM pool WHERE id = %s", ids["pool"]) == [{"name": "odd"}]
    (row,) = on.database.rows(query, newest)
    assert not over(on, str(row["id"]))
    assert set(statuses(on, ids["load_balancer"]).values()) == {"ACTIVE", "ALLOCATED"}


def test_a_message_whose_transaction_the_api_rolled_back_makes_way_for_the_next_request(
    on: Stage, clients: Clients, trigger: Callable[[str], None], settled: Callable[[], None]
) -> None:
    ids = built(on, clients)
    trigger("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'")
    newest = on.database.rows("SELECT COALESCE(MAX(created_at), 0) AS at FROM oc_operation")[0]["at"]
    on.ask("PUT", f"/v2/lbaas/pools/{ids['pool']}", {"pool": {"name": "odd"}}, expect=(500,))
    query = "SELECT id FROM oc_operation WHERE created_at > %s"
    until("the message is stored", lambda: on.database.rows(query, newest))
    (row,) = on.database.rows(query, newest)
    lost = str(row["id"])
    until("it is parked", lambda: on.database.rows("SELECT 1 FROM oc_journal WHERE operation_id = %s", lost))
    assert on.status(ids["load_balancer"]) == "ACTIVE"
    requests(on, ids)["update_listener"]()
    on.settled(ids["load_balancer"], within=20)
    settled()
    assert over(on, lost)
    assert set(statuses(on, ids["load_balancer"]).values()) == {"ACTIVE", "ALLOCATED"}


def test_a_creation_whose_load_balancer_is_gone_when_its_message_comes_makes_nothing(
    on: Stage, settled: Callable[[], None]
) -> None:
    heard = on.consumer.log.read_text(encoding="utf-8").count("listening for")
    on.consumer.stop()
    marked, removed = (str(on.load_balancer(name)["id"]) for name in ("marked", "removed"))
    on.database.rows("UPDATE load_balancer SET provisioning_status = 'DELETED' WHERE id = %s", marked)
    on.database.rows("DELETE FROM vip WHERE load_balancer_id = %s", removed)
    on.database.rows("DELETE FROM load_balancer WHERE id = %s", removed)
    boots = len(on.cloud().calls("compute.boot"))
    on.consumer.start()
    until("it listens", lambda: on.consumer.log.read_text(encoding="utf-8").count("listening for") > heard)
    query = "SELECT id FROM oc_operation WHERE load_balancer_id = %s"
    for lb in (marked, removed):
        until("its message is stored", lambda lb=lb: on.database.rows(query, lb))  # type: ignore[misc]
    (row,) = on.database.rows(query, marked)
    until("it is closed", lambda: over(on, str(row["id"])))
    assert len(on.cloud().calls("compute.boot")) == boots
    (row,) = on.database.rows(query, removed)
    on.database.rows(
        "UPDATE oc_journal SET started_at = 1 WHERE operation_id = %s", row["id"]
    )  # it has waited long enough
    until("it is closed", lambda: over(on, str(row["id"])), within=30)
    assert len(on.cloud().calls("compute.boot")) == boots
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


GARBAGE: dict[str, Any] = {
    "another version": {"version": "3.0", "method": "create_pool", "args": {"pool": {}}},
    "a version that is none": {"version": "2.x", "method": "create_pool", "args": {"pool": {}}},
    "another namespace": {"namespace": "nova", "method": "create_pool", "args": {}},
    "no such method": {"method": "destroy_everything", "args": {}},
    "no method": {"args": {}},
    "a method that is none": {"method": {"a": 1}, "args": {}},
    "no arguments": {"method": "create_pool"},
    "arguments that are none": {"method": "create_pool", "args": [1, 2]},
    "an id that is none": {"method": "failover_amphora", "args": {"amphora_id": 7}},
    "members that are no list": {"method": "batch_update_members", "args": {"old_members": 7}},
    "a name of a megabyte": {"method": "m" * 1_000_000, "args": {}},
    "ten megabytes": {"method": "create_pool", "args": {"pool": {"pool_id": "p", "x": "y" * 10_000_000}}},
    "a unique id that is none": {"method": "create_pool", "args": {"pool": {}}, "_unique_id": [1]},
}
"""What a stranger may send: never upstream's API."""


def test_garbage_on_the_bus_is_left_aside_and_the_next_request_is_taken(
    on: Stage, clients: Clients, settled: Callable[[], None]
) -> None:
    before = len(on.consumer.log.read_text(encoding="utf-8"))
    operations = on.database.rows("SELECT COUNT(*) AS n FROM oc_operation")
    for content in GARBAGE.values():
        whole = {"namespace": "controller", "version": "2.0", "_unique_id": uuid.uuid4().hex, **content}
        publish(on, {"oslo.version": "2.0", "oslo.message": json.dumps(whole)})
    publish(on, {"oslo.version": "9.0", "oslo.message": "{}"})
    publish(on, {"oslo.version": "2.0", "oslo.message": "no JSON"})
    publish(on, {"neither": "nor"})
    publish(on, [1, 2, 3])
    assert on.status(clients.load_balancer("after the garbage")) == "ACTIVE"
    settled()
    said = on.consumer.log.read_text(encoding="utf-8")[before:]
    until(
        "all of it is said",
        lambda: on.consumer.log.read_text(encoding="utf-8")[before:].count("left aside") >= len(GARBAGE),
    )
    assert "it is tried again" not in said
    assert len(said) < 60_000, "the log shows what came"
    assert (
        int(str(on.database.rows("SELECT COUNT(*) AS n FROM oc_operation")[0]["n"])) == int(str(operations[0]["n"])) + 1
    )
    on.consumer.stop()  # what it took and did not acknowledge would go back now
    assert _waiting(on) == 0
    on.consumer.start()


def _waiting(on: Stage) -> int:
    """Messages in the queue."""
    import kombu

    with kombu.Connection(on.broker.url.replace("rabbit:", "amqp:")) as connection:
        return int(connection.channel().queue_declare("octavia_provisioning_v2", passive=True).message_count)


def test_every_message_that_is_delivered_twice_is_carried_out_once(
    on: Stage, clients: Clients, settled: Callable[[], None]
) -> None:
    on.worker.stop()
    on.worker.start()
    newest = on.database.rows("SELECT COALESCE(MAX(created_at), 0) AS at FROM oc_operation")[0]["at"]
    sent: list[str] = []
    over_again = threading.Event()
    again = threading.Thread(target=_repeat, args=(on, sent, over_again))
    again.start()
    try:
        ids = built(on, clients)
        lb = ids["load_balancer"]
        for method in TWICE:
            requests(on, ids)[method]()
            on.settled(lb, "DELETED" if method == "delete_load_balancer" else "ACTIVE")
            until("its operation is over", lambda: not on.open_operations())
            if method.startswith("failover"):
                (row,) = on.database.rows(
                    "SELECT id FROM amphora WHERE load_balancer_id = %s AND status = 'ALLOCATED'", lb
                )
                ids["amphora"] = str(row["id"])
        until("all were repeated", lambda: len(sent) >= len(TWICE) + 2)  # and the pool that a monitor was made for
    finally:
        over_again.set()
        again.join()
    settled()
    found = on.database.rows("SELECT request_id, state FROM oc_operation WHERE created_at > %s", newest)
    assert sorted(str(row["request_id"]) for row in found) == sorted(f"rpc:{id}" for id in sent)
    assert {str(row["state"]) for row in found} == {"SUCCEEDED"}


TWICE = [
    *("update_load_balancer", "create_listener", "update_listener", "create_pool", "update_pool", "create_member"),
    *("update_member", "batch_update_members", "create_health_monitor", "update_health_monitor", "create_l7policy"),
    *("update_l7policy", "create_l7rule", "update_l7rule", "delete_l7rule", "delete_l7policy", "delete_member"),
    *("delete_health_monitor", "delete_pool", "delete_listener", "failover_load_balancer", "failover_amphora"),
    *("update_amphora_agent_config", "delete_load_balancer"),
]


def _repeat(on: Stage, sent: list[str], over: threading.Event) -> None:
    """Send every message of the API once more, as it came; their ids."""
    import kombu

    with kombu.Connection(on.broker.url.replace("rabbit:", "amqp:")) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).queue
        channel.queue_bind(queue, "octavia", "octavia_provisioning_v2")
        while not over.wait(0.01):
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                id = json.loads(json.loads(message.body)["oslo.message"])["_unique_id"]
                if id not in sent:
                    sent.append(id)
                    channel.basic_publish(message, exchange="octavia", routing_key="octavia_provisioning_v2")


def message_with(secret: str) -> dict[str, Any]:
    content = {"listener_id": 7, "default_tls_container_data": {"private_key": secret, "passphrase": secret}}
    return {
        "method": "create_listener",
        "args": {"listener": content},
        "namespace": "controller",
        "version": "2.0",
        "_unique_id": uuid.uuid4().hex,
    }


def publish(on: Stage, body: Any) -> None:
    """Put a message into the exchange as the API does."""
    import kombu

    with kombu.Connection(on.broker.url.replace("rabbit:", "amqp:")) as connection:
        exchange = kombu.Exchange("octavia", type="topic", durable=False)
        producer = connection.Producer(exchange=exchange, routing_key="octavia_provisioning_v2", auto_declare=False)
        producer.publish(json.dumps(body), content_type="application/json", content_encoding="utf-8")
