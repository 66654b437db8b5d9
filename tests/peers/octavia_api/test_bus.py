"""What goes over the bus besides requests, and requests that get lost on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from octavia_core.controller.accept import Acceptor, Asked
from octavia_core.controller.sweep import Sweep
from octavia_core.db.storage import SqlStorage
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Topology
from octavia_core.domain.wishes import NewListener, NewLoadBalancer
from octavia_core.policy.sweep import SweepMode
from octavia_core.ports.requests import Message
from octavia_core.settings import Database, Settings
from tests.peers.octavia_api.clients import Clients
from tests.peers.octavia_api.programs import until
from tests.peers.octavia_api.stage import PROJECT, Stage
from tests.peers.octavia_api.test_messages import message_with, publish
from tests.peers.octavia_api.test_outcomes import built, requests, statuses

TOPIC = "octavia_provisioning_v2"
NOTIFICATIONS = "notifications.info"
"""The queue that oslo.messaging's notifier sends to by default, for priority info."""


@pytest.fixture
def storage(on: Stage) -> Iterator[SqlStorage]:
    opened = SqlStorage.open(Settings(database=Database(connection=Secret(on.database.url))))
    yield opened
    opened.close()


def channel_of(on: Stage) -> Any:
    """A connection to the broker; its default channel."""
    import kombu

    return kombu.Connection(on.broker.url.replace("rabbit:", "amqp:"))


def taken(on: Stage, queue: str) -> list[dict[str, Any]]:
    """Everything that is in a queue now; nothing when there is no such queue yet."""
    import amqp.exceptions

    found = []
    with channel_of(on) as connection:
        channel = connection.channel()
        try:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                found.append(json.loads(json.loads(message.body)["oslo.message"]))
        except amqp.exceptions.NotFound:
            return []
    return found


def started(on: Stage) -> int:
    """How often the consumer has begun to listen."""
    return on.consumer.log.read_text(encoding="utf-8").count("listening for")


# -- notifications -----------------------------------------------------------------------------------------------------
def life(on: Stage) -> list[dict[str, Any]]:
    """Create, update and delete a load balancer; the notifications that come of it."""
    taken(on, NOTIFICATIONS)
    lb = str(on.load_balancer("notified", description="of what happens")["id"])
    on.settled(lb, within=60)
    on.ask("PUT", f"/v2/lbaas/loadbalancers/{lb}", {"loadbalancer": {"description": "of what happened"}})
    on.settled(lb, within=60)
    on.ask("DELETE", f"/v2/lbaas/loadbalancers/{lb}")
    on.settled(lb, "DELETED", within=60)
    found: list[dict[str, Any]] = []

    def three() -> bool:
        found.extend(n for n in taken(on, NOTIFICATIONS) if n["payload"].get("loadbalancer_id") == lb)
        return len(found) >= 3

    until(f"three notifications come: {[n['event_type'] for n in found]}", three, within=30)
    return found


def form(notification: dict[str, Any]) -> dict[str, Any]:
    """What of a notification does not depend on the time, or on who was asked."""
    payload = notification["payload"]
    same = ("name", "description", "project_id", "admin_state_up", "vip_subnet_id", "vip_qos_policy_id")
    return {
        "event_type": notification["event_type"],
        "priority": notification["priority"],
        "payload": {name: payload[name] if name in same else type(payload[name]).__name__ for name in sorted(payload)},
        "context": {
            name: value if name.startswith("_context_project") else type(value).__name__
            for name, value in sorted(notification.items())
            if name.startswith("_context_")
        },
    }


def test_notifications_are_those_of_upstreams_worker(on: Stage) -> None:
    ours = [form(each) for each in life(on)]
    on.worker.stop()
    on.consumer.stop()
    on.upstream_worker.start()
    try:
        theirs = [form(each) for each in life(on)]
    finally:
        on.upstream_worker.stop()
        heard = started(on)
        on.consumer.start()
        on.worker.start()
        until("the consumer listens", lambda: started(on) > heard)
    assert [each["event_type"] for each in ours] == [
        f"octavia.loadbalancer.{what}.end" for what in ("create", "update", "delete")
    ]
    assert [each["payload"].pop("description") for each in ours][1:] == ["of what happened"] * 2
    assert [each["payload"].pop("description") for each in theirs][1:] == ["of what happens", "of what happened"]
    assert ours == theirs  # but for upstream's update, which tells what was before


def test_requests_are_stored_while_no_worker_lives(on: Stage, clients: Clients) -> None:
    ids = built(on, clients)
    newest = on.database.rows("SELECT COALESCE(MAX(created_at), 0) AS at FROM oc_operation")[0]["at"]
    on.worker.stop()
    requests(on, ids)["update_pool"]()
    query = "SELECT id FROM oc_operation WHERE created_at > %s AND state = 'QUEUED'"
    until("it is stored", lambda: on.database.rows(query, newest))
    with channel_of(on) as connection:
        assert connection.channel().queue_declare(TOPIC, passive=True).message_count == 0
    on.worker.start()
    on.settled(ids["load_balancer"], within=60)


# -- quotas ------------------------------------------------------------------------------------------------------------
def test_quotas_go_down_by_what_was_removed(on: Stage, clients: Clients) -> None:
    ids = built(on, clients)
    lb = ids["load_balancer"]
    kinds = ("load_balancer", "listener", "pool", "member", "health_monitor", "l7policy", "l7rule")
    columns = [f"in_use_{kind}" for kind in kinds]
    # an API without authentication keeps no counters, so what moves here is the worker's doing alone
    on.database.rows(
        f"INSERT INTO quotas (project_id, {', '.join(columns)}) VALUES (%s{', 5' * len(columns)})", PROJECT
    )
    try:

        def used() -> dict[str, int]:
            (row,) = on.database.rows(f"SELECT {', '.join(columns)} FROM quotas WHERE project_id = %s", PROJECT)
            return {kind: 5 - int(str(row[f"in_use_{kind}"])) for kind in kinds if row[f"in_use_{kind}"] != 5}

        for method in ("delete_l7rule", "delete_l7policy", "delete_member", "delete_pool"):
            requests(on, ids)[method]()
            on.settled(lb)
        assert used() == {"l7rule": 1, "l7policy": 1, "member": 2, "pool": 1, "health_monitor": 1}
        requests(on, ids)["delete_load_balancer"]()
        on.settled(lb, "DELETED")
        assert used() == {
            "l7rule": 1, "l7policy": 1, "member": 2, "pool": 1, "health_monitor": 1, "listener": 1, "load_balancer": 1,
        }  # fmt: skip
    finally:
        on.database.rows("DELETE FROM quotas WHERE project_id = %s", PROJECT)


# -- the row is the truth ----------------------------------------------------------------------------------------------
@pytest.fixture
def sweep(storage: SqlStorage) -> Callable[[], int]:
    """Look for lost requests as the sweep does, however young they are."""
    return Sweep(storage, SweepMode.REPAIR, every=1.0, grace=0.0, own_grace=0.0).look


@pytest.mark.parametrize("method", ["create_load_balancer", "create_member", "update_pool", "delete_load_balancer"])
def test_a_request_whose_message_is_lost_is_found_in_its_rows(
    on: Stage, clients: Clients, sweep: Callable[[], int], method: str
) -> None:
    ids = built(on, clients)
    lb = ids["load_balancer"]
    heard = started(on)
    on.consumer.stop()
    try:
        if method == "create_load_balancer":
            lb = str(on.load_balancer("lost")["id"])
        else:
            requests(on, ids)[method]()
        with channel_of(on) as connection:
            assert connection.channel().queue_purge(TOPIC) == 1
    finally:
        on.consumer.start()
        until("the consumer listens", lambda: started(on) > heard)
    assert on.status(lb).startswith("PENDING")
    until("it is found", lambda: sweep() > 0, within=30)
    on.settled(lb, "DELETED" if method.startswith("delete") else "ACTIVE")
    assert {"ACTIVE", "ALLOCATED", "DELETED"} >= set(statuses(on, lb).values())
    assert on.pending() == []


def test_a_request_while_the_broker_is_away_ends_one_way_or_the_other(
    on: Stage, clients: Clients, sweep: Callable[[], int]
) -> None:
    ids = built(on, clients)
    lb = ids["load_balancer"]
    on.broker.stop()
    answers: list[str] = []

    def ask() -> None:
        try:
            requests(on, ids)["create_member"]()
            answers.append("accepted")
        except (AssertionError, OSError) as refused:
            answers.append(f"refused: {refused}")

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(2)  # the API waits for its broker; when it does not, the better
    on.broker.start()
    asking.join(90)
    assert answers, "the API never answered"

    def over() -> bool:
        sweep()
        return not on.pending()

    until(f"nothing is pending: {answers}", over, within=60)
    on.settled(lb)
    until("requests are taken again", lambda: _taken_again(on, clients), within=90, pause=1.0)


def _taken_again(on: Stage, clients: Clients) -> bool:
    before = len(on.cloud().calls("amphora.update_agent"))
    (amphora, *_) = on.database.rows("SELECT id FROM amphora WHERE status = 'ALLOCATED' LIMIT 1")
    on.ask("PUT", f"/v2/octavia/amphorae/{amphora['id']}/config")
    try:
        until("told", lambda: len(on.cloud().calls("amphora.update_agent")) > before, within=3)
    except AssertionError:
        return False
    return True


def test_a_consumer_that_is_deaf_builds_its_connection_anew(on: Stage) -> None:
    from octavia_oslo.conf import open_conf
    from octavia_oslo.consumer import Consumer  # whose libraries warn about each other when they are imported

    heard = started(on)
    on.consumer.stop()
    messages: list[Message] = []
    listening = Consumer(open_conf([str(on.conf)]), messages.append, echo_every=0.2, deaf_after=1.5)
    listening.start()
    try:
        until("it hears", lambda: _hears(on, messages), pause=0.5)
        with channel_of(on) as connection:
            channel = connection.channel()
            for queue in (TOPIC, f"{TOPIC}.stage.octavia-core"):
                channel.queue_unbind(queue, "octavia", queue)  # the broker goes on as if nothing were
        until("it notices", lambda: listening.rebuilt > 0, within=30)
        until("it hears again", lambda: _hears(on, messages), pause=0.5)
    finally:
        listening.stop()
        on.consumer.start()
        until("the consumer listens", lambda: started(on) > heard)


def _hears(on: Stage, messages: list[Message]) -> bool:
    before = len(messages)
    publish(on, {"oslo.version": "2.0", "oslo.message": json.dumps(message_with("nothing secret"))})
    try:
        until("it comes", lambda: len(messages) > before, within=2)
    except AssertionError:
        return False
    return True


# -- the one column that is pickled ------------------------------------------------------------------------------------
def test_headers_that_we_write_upstreams_api_reads(on: Stage, storage: SqlStorage) -> None:
    headers = {"X-Forwarded-For": "true", "X-Forwarded-Port": "false"}
    wish = NewLoadBalancer(
        name="ours",
        project_id=PROJECT,
        vip_address="192.0.2.77",
        vip_port_id="00000000-0000-4000-8000-000000000077",
        listeners=(NewListener(name="web", protocol="HTTP", protocol_port=80, insert_headers=headers),),
    )
    operation = Acceptor(storage, Topology.SINGLE).create_load_balancer(wish, Asked())
    lb = str(operation.load_balancer_id)
    on.settled(lb)
    (listener,) = on.ask("GET", f"/v2/lbaas/listeners?loadbalancer_id={lb}")["listeners"]
    assert listener["insert_headers"] == headers
    on.ask("DELETE", f"/v2/lbaas/loadbalancers/{lb}?cascade=true")
    on.settled(lb, "DELETED")
