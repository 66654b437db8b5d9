"""The same with everything around it failing: nothing stays PENDING, and nothing is done twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from octavia_core.policy.requests import METHODS
from octavia_core.testing.outside import FaultKind
from tests.peers.octavia_api.clients import Clients
from tests.peers.octavia_api.programs import Process, until
from tests.peers.octavia_api.stage import Stage
from tests.peers.octavia_api.test_outcomes import built, requests, statuses

KILLED_AT = {
    "create_load_balancer": "compute.boot",
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
LIKE_OTHERS = dict.fromkeys(sorted(METHODS - set(KILLED_AT)), "amphora.push")
"""The rest of the 26: their operations are of the same kinds."""


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"])
@pytest.mark.parametrize(
    ("method", "call"),
    [*KILLED_AT.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in LIKE_OTHERS.items())],
    ids=[*KILLED_AT, *LIKE_OTHERS],
)
def test_a_worker_that_dies_in_the_middle_loses_nothing(
    on: Stage, clients: Clients, settled: Callable[[], None], method: str, call: str, late: bool
) -> None:
    on.worker.stop()  # a supervisor whose children die again and again takes its time: each death here is the first
    on.worker.start()
    ids = built(on, clients)
    lb = ids["load_balancer"]
    if method == "delete_amphora":
        on.database.rows("UPDATE amphora SET status = 'ERROR' WHERE id = %s", ids["amphora"])
    cloud = on.cloud()
    before = len(cloud.calls(call))
    # a health monitor is asked for on a pool made first, whose push goes well
    cloud.fail(call, kind=FaultKind.KILL, late=late, skip=1 if method == "create_health_monitor" else 0)
    if method == "create_load_balancer":
        lb = str(on.load_balancer("killed")["id"])
    else:
        requests(on, ids)[method]()
    until("the call is made", lambda: len(cloud.calls(call)) > before)
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
        until("it says so", lambda: "it cannot begin yet" in on.consumer.said()[-2000:])
    finally:
        on.database.start()
    before = len(on.cloud().calls("amphora.update_agent", amphora))
    until("the agent is told", lambda: len(on.cloud().calls("amphora.update_agent")) > before)
    settled()


@pytest.fixture
def stopped(on: Stage) -> Iterator[None]:
    """With everything but the API stopped; afterwards it runs again, also after a failure."""
    for program in (on.worker, on.consumer, on.database, on.broker):
        program.stop()
    yield
    for server in (on.database, on.broker):
        if not server.server.running():
            server.stop()
            server.start()
    for program in (on.worker, on.consumer):
        if not program.running():
            program.start()


def test_daemons_whose_servers_are_away_at_their_start_say_so_and_come_by_themselves(
    on: Stage, clients: Clients, stopped: None, settled: Callable[[], None]
) -> None:
    logs = {program.name: len(program.log.read_text(encoding="utf-8")) for program in (on.worker, on.consumer)}

    def said(program: Process) -> str:
        return program.log.read_text(encoding="utf-8")[logs[program.name] :]

    on.worker.start()
    on.consumer.start()
    for program in (on.worker, on.consumer):
        until(f"{program.name} waits", lambda program=program: "it cannot begin yet" in said(program))  # type: ignore[misc]
        assert "database mysql+pymysql://root@localhost/octavia" in said(program)
    on.database.start()
    until("the worker comes", lambda: "worker 0 is process" in said(on.worker))
    away = f"the broker at 127.0.0.1:{on.broker.port} is not reached yet"
    until("the consumer waits for its broker", lambda: away in said(on.consumer))
    assert "guest:guest" not in said(on.consumer)
    on.broker.start()
    until("the consumer comes", lambda: "listening for" in said(on.consumer))
    until("requests are taken again", lambda: _arrives(on), within=90, pause=1.0)
    assert on.status(clients.load_balancer("after both")) == "ACTIVE"
    settled()


def test_a_consumer_that_dies_while_it_stores_a_message_leaves_it_to_the_broker(
    on: Stage, clients: Clients, settled: Callable[[], None]
) -> None:
    lb = clients.load_balancer("mid-accept")
    (amphora,) = [a.id for a in clients.sdk.amphorae(loadbalancer_id=lb)]
    told = len(on.cloud().calls("amphora.update_agent", amphora))
    on.worker.stop()  # its looks would wait for the same lock
    import pymysql

    with pymysql.connect(unix_socket=str(on.database.socket), user="root", database="octavia") as connection:
        connection.cursor().execute("LOCK TABLES oc_operation WRITE")
        on.ask("PUT", f"/v2/octavia/amphorae/{amphora}/config")
        until("it is being stored", lambda: _waiting_for_a_lock(on))
        on.consumer.kill()
        connection.cursor().execute("UNLOCK TABLES")
    assert on.open_operations() == []
    on.consumer.start()
    on.worker.start()
    until("the agent is told", lambda: len(on.cloud().calls("amphora.update_agent", amphora)) > told)
    settled()
    assert len(on.cloud().calls("amphora.update_agent", amphora)) == told + 1


def _waiting_for_a_lock(on: Stage) -> bool:
    query = "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE state LIKE 'Waiting for table%%lock'"
    return bool(on.database.rows(query.replace("%%", "%"))[0]["n"])


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
