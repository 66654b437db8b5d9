"""The ten situations that people ask about, each brought about for real, asked by library and command alike."""

from __future__ import annotations

import gc
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from octavia_core import Controller, NewLoadBalancer
from octavia_core.controller.explain import Situation
from octavia_core.db.storage import SqlStorage
from octavia_core.db.tables.own import oc_journal, oc_operation
from octavia_core.db.transaction import SqlTransaction
from octavia_core.domain.operation import Operation, OperationState, Outcome, Subject
from octavia_core.domain.vocabulary import Kind
from octavia_core.errors import OperationFailed, TransientError
from octavia_core.testing.outside import FaultKind
from tests.explain.stage import PATIENCE, STEADY, Stage, until
from tests.support.databases import ready_on
from tests.support.servers import killed, server

ALWAYS = 1_000_000
SELDOM = "step_retry_first = 600.0\nstep_retry_longest = 600.0"
"""What is tried again is looked at meanwhile, however long that takes."""


def steady(folder: Path) -> Stage:
    """One whose worker counts as alive until it says that it ends."""
    return Stage(folder, f"sqlite:///{folder}/octavia.db", lease=STEADY)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = steady(tmp_path)
    made.make()
    return made


@pytest.fixture
def client(stage: Stage) -> Iterator[Controller]:
    with stage.client() as opened:
        yield opened


def create(client: Controller) -> str:
    return client.create_load_balancer(NewLoadBalancer(name="web")).id


def parked(client: Controller, id: str) -> None:
    until(lambda: client.operation(id).state is OperationState.WAITING, "it is parked")


def done(client: Controller, id: str) -> None:
    client.operation(id).wait(PATIENCE)


def test_nothing_is_wrong(stage: Stage, client: Controller) -> None:
    with stage.worker():
        id = create(client)
        done(client, id)
        until(lambda: client.why("web").situation is Situation.FINE, "the worker has said that it lives")
        said = stage.why(client, "web")
        assert said.situation is Situation.FINE
        assert said.summary.startswith("nothing is wrong")
        stage.shown("Nothing is wrong")
        assert stage.why(client, id).summary == "it is done"
        assert said.advice == ()
        client.storage.transaction(lambda tx: tx.forget_observer("elsewhere:1:abcd"))
        for about in (*(one.id for one in client.amphorae()), "web"):
            said = stage.why(client, about)
            assert said.situation is Situation.UNHEARD
            assert said.advice[0].startswith("start one: octavia-core-health-manager")
        stage.shown("Nobody hears it")
    stage.heard()
    until(lambda: not client.storage.read(lambda tx: tx.attendance()).workers, "the worker has said that it ends")
    said = stage.why(client, "web")
    assert "no worker is alive" in said.summary
    stage.shown("Nobody looks after it")
    assert "octavia-core-worker" in said.advice[0]


def test_a_dead_worker(tmp_path: Path) -> None:
    stage = Stage(tmp_path, f"sqlite:///{tmp_path}/octavia.db")
    stage.make()
    with stage.client() as client:
        a_worker_dies(stage, client)
    assert stage.cloud.made_twice() == []


def a_worker_dies(stage: Stage, client: Controller) -> None:
    stage.cloud.fail("network.plug_vip", kind=FaultKind.KILL)
    id = create(client)
    with stage.worker(OCTAVIA_WORKER_NUMBER="0") as worker:
        worker.wait(PATIENCE)
    said = until(lambda: (found := client.why(id)).situation is Situation.SILENT and found, "its lease is over")
    holder = client.operation(id).row.holder or ""
    assert f":{worker.pid}:" in holder
    said = stage.why(client, "web")
    assert (said.situation, said.status) == (Situation.SILENT, "PENDING_CREATE")
    assert said.holder is not None
    assert said.holder.startswith(f"process {worker.pid} on ")
    assert said.step == "giving the amphora its address (standalone)"
    assert re.search(r"its holder stopped renewing \d+ s ago while giving the amphora its address", said.summary)
    assert said.age is not None
    assert 0 < said.age < 2 * PATIENCE
    until(lambda: "no worker is alive" in (client.why(id).next or ""), "its word is over, too")
    assert "octavia-core-worker" in stage.why(client, id).advice[0]
    stage.why(client, "web")
    stage.shown("A dead worker")
    with stage.worker():
        done(client, id)


def test_a_server_that_is_waited_for(stage: Stage, client: Controller) -> None:
    stage.cloud.fail("compute.servers", times=ALWAYS)
    with stage.worker():
        id = create(client)
        parked(client, id)
        until(lambda: "looks every" in (client.why("web").next or ""), "workers look at it")
        said = stage.why(client, "web")
        assert said.situation is Situation.WAITING
        assert re.search(r"create load balancer: it waits for server \S+ to run", said.summary)
        assert said.step == "waiting for the server to run (standalone)"
        assert said.holder is None
        assert said.next_attempt == pytest.approx(0.05), "workers look in bulk, long before the deadline"
        match = re.search(r"looks every 0.05 s; it fails for good, and is undone, .* within (\d+) s", said.next or "")
        assert match is not None
        assert 500 < int(match[1]) <= 600
        stage.shown("A server that is waited for")
        stage.cloud.heal()
        done(client, id)


def test_parked_until_the_agent_answers_and_it_fails_at_its_deadline(tmp_path: Path) -> None:
    stage = steady(tmp_path)
    stage.make()
    stage.cloud.fail("amphora.info", kind=FaultKind.UNREACHABLE, times=ALWAYS)
    with stage.client() as client, stage.worker():
        id = create(client)
        parked(client, id)
        until(lambda: "looks every" in (client.why(id).next or ""), "workers look at it")
        said = stage.why(client, id)
        assert said.situation is Situation.WAITING
        assert re.search(r"it waits for the agent of amphora \S+ at \S+:\d+ to answer", said.summary)
        match = re.search(r"within (\d+) s", said.next or "")
        assert match is not None
        assert 480 < int(match[1]) <= 600
        stage.shown("An operation that is parked")
        long_ago(client, id, 600)
        with pytest.raises(OperationFailed, match="did not come true within 600 s"):
            done(client, id)
        said = stage.why(client, "web")
        assert (said.situation, said.status) == (Situation.FAILED, "ERROR")
        assert "did not come true within 600 s" in (said.cause or "")


def long_ago(client: Controller, id: str, seconds: int) -> None:
    """As if it had been parked so much earlier."""
    earlier = seconds * 1_000_000
    begun = oc_journal.c.operation_id == id, oc_journal.c.outcome == str(Outcome.INTENT)
    assert isinstance(client.storage, SqlStorage)

    def move(tx: SqlTransaction) -> None:
        assert tx.write(update(oc_journal).where(*begun).values(started_at=oc_journal.c.started_at - earlier)) == 1
        due = update(oc_operation).where(oc_operation.c.id == id).values(wake_at=oc_operation.c.wake_at - earlier)
        assert tx.write(due) == 1

    client.storage.write(move)


def test_an_error_that_may_pass_is_tried_again(tmp_path: Path) -> None:
    stage = steady(tmp_path)
    stage.make(engine=SELDOM)
    stage.cloud.fail("network.plug_vip", message="the network is being upgraded")
    with stage.client() as client, stage.worker():
        id = create(client)
        parked(client, id)
        said = stage.why(client, "web")
        assert said.situation is Situation.RETRYING
        assert said.cause == "network.plug_vip: the network is being upgraded"
        assert said.step == "giving the amphora its address (standalone)"
        assert "failed in a way that may pass" in said.summary
        assert said.next_attempt is not None
        assert 0 < said.next_attempt <= 600
        assert "tries again (attempt 2 of 5)" in (said.next or "")
        stage.shown("An error that may pass")
        assert stage.admin("operation", "retry", id).code == 0
        done(client, id)


def test_queued_behind_another(stage: Stage, client: Controller) -> None:
    with stage.worker():
        id = create(client)
        done(client, id)
        stage.cloud.fail("compute.servers", times=ALWAYS)
        first = client.failover_load_balancer(client.load_balancer("web").id).id
        parked(client, first)
        (amphora, *_) = client.amphorae(client.load_balancer("web").id)
        second = client.failover_amphora(amphora.id).id
        said = stage.why(client, second)
        assert said.situation is Situation.QUEUED
        assert f"it waits behind operation {first} (failover)" in said.summary
        assert said.advice == (f"see what that one does: octavia-admin why {first}",)
        stage.shown("An operation behind another")
        above = stage.why(client, "web")
        assert above.situation is Situation.WAITING
        assert f"behind it: {second}" in above.summary
        stage.cloud.heal()
        done(client, first)
        client.storage.read(lambda tx: tx.operation(second))


def test_a_flow_version_that_nobody_knows(stage: Stage, client: Controller) -> None:
    """As a newer controller stores it, of which no worker is alive any more."""
    with stage.worker():
        done(client, create(client))
        lb = client.load_balancer("web").id
        until(lambda: client.why("web").situation is Situation.FINE, "the worker has said that it lives")
        newer = Operation(
            id=str(uuid.uuid4()),
            flow="failover",
            flow_version=99,
            load_balancer_id=lb,
            subjects=(Subject(Kind.LOAD_BALANCER, lb),),
        )
        client.storage.transaction(lambda tx: tx.add_operation(newer))
        said = stage.why(client, "web")
        assert said.situation is Situation.STUCK
        assert "none of the 1 worker(s) alive knows flow failover version 99; they know version 1" in said.summary
        assert "as soon as a worker of a version that knows it runs" in (said.next or "")
        stage.shown("A flow version that nobody knows")
        assert stage.admin("operation", "release", newer.id, "--yes").code == 0
        assert stage.why(client, "web").situation is Situation.FINE


def test_an_undo_under_way(tmp_path: Path) -> None:
    stage = steady(tmp_path)
    stage.make(engine=SELDOM)
    stage.cloud.fail("amphora.plug_vip", kind=FaultKind.REFUSED, message="no such option")
    stage.cloud.fail("compute.destroy", message="compute is away")
    with stage.client() as client, stage.worker():
        id = create(client)
        parked(client, id)
        said = stage.why(client, "web")
        assert said.situation is Situation.UNDOING
        assert said.step is not None
        assert said.step.startswith("taking back: ")
        assert "no such option" in (said.cause or "")
        assert "a cleanup goes on with that undo" in (said.next or "")
        stage.shown("What was done is being undone")
        stage.admin("operation", "retry", id)
        with pytest.raises(OperationFailed, match="no such option"):
            done(client, id)
        assert stage.why(client, "web").situation is Situation.FAILED
        assert stage.cloud.leftovers() == []


def test_a_governor_that_was_paused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, f"sqlite:///{tmp_path}/octavia.db")
    health = "bind_port = 0\nheartbeat_timeout = 1\nheartbeat_interval = 1\nhealth_check_interval = 1"
    stage.make(engine="boot_deadline = 1", health=health)
    with Controller.open(settings=stage.settings) as controller:
        assert controller.services is not None
        assert controller.services.health is not None
        controller.services.health.pause("an operator, for the upgrade of the network")
        done(controller, create(controller))
        until(lambda: controller.why("web").situation is Situation.HELD, "its amphora is silent for too long")
        said = until(lambda: (found := controller.why("web")).cause and found, "the governor has said so")
        assert "its failover is held back: an operator, for the upgrade of the network" in said.summary
        (amphora,) = controller.amphorae()
        about = controller.why(amphora.id)
        assert (about.situation, about.cause) == (Situation.HELD, said.cause)
        assert "silent" in about.summary or "never heard from" in about.summary
        assert f"octavia-admin amphora failover {amphora.id}" in about.advice[0]
        stage.why(controller, "web")
        stage.shown("A failover that is held back")
        controller.services.health.pause(None)
        until(lambda: controller.amphorae()[0].id != amphora.id, "it is replaced once nobody holds that back")


@pytest.mark.external
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_database_that_is_away(kind: str, tmp_path: Path) -> None:
    real = server(kind, durable=True)
    with ready_on(real) as url:
        stage = Stage(tmp_path, url)
        stage.make(database="max_retries = 2\nretry_interval = 0.05")
        with stage.client() as client:
            id = create(client)
            with killed(kind):
                with pytest.raises(TransientError, match="does not answer"):
                    client.why(id)
                for words in (("why", id), ("operation", "release", id, "--yes"), ("timeline", "web", "--json")):
                    said = stage.admin(*words)
                    assert said.code == 1
                    sentence = said.err.splitlines()[-1]
                    assert "does not answer" in sentence
                stage.table = re.sub("answer: .*?; nothing", "answer: ...; nothing", stage.admin("why", "web").err)
                stage.shown("A database that is away")
            until(lambda: stage.why(client, id).situation is Situation.UNCLAIMED, "it answers again")
    gc.collect()  # PyMySQL leaves its socket open when nobody listens: said here, where it is known
