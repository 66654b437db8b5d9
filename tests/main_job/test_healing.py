"""What dies is replaced, whoever dies and whenever: amphorae, agents, HAProxy, controllers, under load and during changes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import text

from octavia_core import Controller, NewLoadBalancer
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning
from tests.main_job.stage import PATIENCE, Stage, behind, http, only_pool, open_stage, processes_of, until
from tests.support.calm import COUNTING
from tests.support.members import ask_quietly
from tests.support.running import Echo


class Load:
    """Steady requests over new connections from a thread; `failed` are the times of those that failed."""

    def __init__(self, at: tuple[str, int]) -> None:
        self.at = at
        self.sent = 0
        self.failed: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self.sent += 1
            if ask_quietly(*self.at) is None:
                self.failed.append(time.monotonic())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def more(self, count: int = 20) -> None:
        """Wait for so many further requests."""
        target = self.sent + count
        until(lambda: self.sent >= target, "further requests")


def serving(stage: Stage, lb_id: str) -> list[str]:
    return [a.id for a in stage.controller.amphorae(lb_id) if a.status is AmphoraStatus.ALLOCATED]


def healed(stage: Stage, lb_id: str, but: str) -> str:
    """Wait until another amphora serves and the load balancer is ACTIVE; its id."""
    until(lambda: serving(stage, lb_id) not in ([], [but]), "another amphora")
    until(lambda: stage.tree(lb_id).provisioning_status is Provisioning.ACTIVE, "ACTIVE")
    (new,) = serving(stage, lb_id)
    return new


def haproxy_of(stage: Stage, amphora_id: str) -> list[int]:
    """Pids of the HAProxy processes of an amphora."""
    agent = stage.agent_pid(amphora_id)
    found = []
    for task in Path(f"/proc/{agent}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def test_a_killed_amphora_is_replaced_under_load(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        (before,) = serving(stage, lb.id)
        with Load(stage.at(lb)) as load:
            load.more()
            assert load.failed == []
            os.kill(stage.agent_pid(before), signal.SIGKILL)
            new = healed(stage, lb.id, before)
            until(lambda: ask_quietly(*load.at), "traffic")
            load.more()
            failed = len(load.failed)
            load.more(50)
            assert len(load.failed) == failed  # no more than while nobody served
        assert stage.tree(lb.id).vip == lb.vip
        assert new != before
        names = [event.name for event in stage.controller.events(load_balancer_id=lb.id)]
        assert names.index("amphora.lost") < names.index("failover.started") < names.index("failover.finished")
        assert stage.controller.amphora(before).status is AmphoraStatus.DELETED
        assert not (stage.state / "amphorae" / before).exists()


def test_an_amphora_killed_with_its_first_breath_is_replaced(stage):
    """At once when it serves: what health saw of it last is from while it was being built."""
    with Echo("one") as one:
        for _ in range(3):
            lb = stage.build(http(*behind(one)))
            (before,) = serving(stage, lb.id)
            os.kill(stage.agent_pid(before), signal.SIGKILL)
            healed(stage, lb.id, before)
            assert stage.ask(lb).member == "one"


def dead(pid: int) -> bool:
    """Whether it has ended; nobody need have noticed yet."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    return True


def test_a_frozen_agent_with_a_dead_haproxy_is_replaced(tmp_path):
    """Nothing has ended that anybody watches: only its silence tells, and soon, by the usual settings."""
    with Echo("one") as one, open_stage(tmp_path / "state") as stage:
        lb = stage.build(http(*behind(one)))
        (before,) = serving(stage, lb.id)
        agent = stage.agent_pid(before)
        killed = haproxy_of(stage, before)
        os.kill(agent, signal.SIGSTOP)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        healed(stage, lb.id, before)
        assert stage.ask(lb).member == "one"
        assert dead(agent)
        lost = next(e for e in stage.controller.events(load_balancer_id=lb.id) if e.name == "amphora.lost")
        assert "heard" in lost.text


def test_a_haproxy_killed_inside_its_amphora_refuses_nobody(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        (before,) = serving(stage, lb.id)
        for _ in range(3):
            (pid,) = until(lambda: haproxy_of(stage, before), "HAProxy")
            os.kill(pid, signal.SIGKILL)
            # connecting works at any moment, since the agent holds the socket; the answer comes from the next HAProxy
            assert stage.ask(lb).member == "one"
        assert serving(stage, lb.id) == [before]
        names = [event.name for event in stage.controller.events(load_balancer_id=lb.id)]
        assert "amphora.lost" not in names


def test_counters_only_grow_when_a_haproxy_dies_and_when_its_amphora_is_replaced(tmp_path):
    seen = []

    def counted() -> int:
        with stage.controller.storage._engine.connect() as connection:
            query = text("SELECT SUM(total_connections) FROM listener_statistics WHERE listener_id = :id")
            seen.append(connection.execute(query, {"id": lb.listeners[0].id}).scalar() or 0)
        return seen[-1]

    with Echo("one") as one, open_stage(tmp_path / "state", COUNTING) as stage:
        lb = stage.build(http(*behind(one)))
        (before,) = serving(stage, lb.id)
        stage.served(lb, 10)
        until(lambda: counted() == 10, "ten connections")
        (pid,) = until(lambda: haproxy_of(stage, before), "HAProxy")
        os.kill(pid, signal.SIGKILL)
        assert stage.ask(lb).member == "one"
        until(lambda: counted() == 11, "one more, of a HAProxy that began at nothing")
        os.kill(stage.agent_pid(before), signal.SIGKILL)
        healed(stage, lb.id, before)
        until(lambda: ask_quietly(*stage.at(lb)), "traffic")
        until(lambda: counted() >= 12, "more, of another amphora")
        stage.served(lb, 5)
        until(lambda: counted() >= 17, "five more")
        assert seen == sorted(seen)


def test_a_change_whose_amphora_died_replaces_it_and_comes_true(stage):
    """The amphora is killed at the very moment of each change, again and again."""
    control = stage.controller
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one)))
        for number in range(3):
            (before,) = serving(stage, lb.id)
            pid = stage.agent_pid(before)
            os.kill(pid, signal.SIGSTOP)  # the push hangs ...
            operation = control.set_members(only_pool(lb).id, behind(two, weight=number + 1), wait=PATIENCE)
            until(lambda op=operation: op.state is not OperationState.QUEUED, "a beginning")
            os.kill(pid, signal.SIGKILL)  # ... and then there is nobody
            operation.wait(PATIENCE)
            assert set(stage.served(lb, 3)) == {"two"}
            assert stage.find(lb.id, "two").weight == number + 1
            until(lambda: not control.operations(load_balancer_id=lb.id, open_only=True), "quiet")
            assert serving(stage, lb.id) != [before]
            assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def test_an_amphora_that_dies_while_it_is_built_is_no_end(stage):
    """A creation whose amphora is killed fails or comes true, and leaves nothing; a rebuild makes it serve."""
    control = stage.controller
    with Echo("one") as one:
        operation = control.create_load_balancer(NewLoadBalancer(listeners=[http(*behind(one))]))
        id = operation.load_balancer_id
        (victim,) = until(lambda: control.amphorae(id), "an amphora")
        process = stage.state / "amphorae" / victim.id / "process.json"
        until(process.exists, "a process")
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int(json.loads(process.read_text())["pid"]), signal.SIGKILL)
        until(lambda: operation.state.final, "the end")
        if operation.state is not OperationState.SUCCEEDED:
            assert "ended" in str(operation.row.error) or "STOPPED" in str(operation.row.error) or operation.row.error
            assert stage.tree(id).provisioning_status is Provisioning.ERROR
            assert serving(stage, id) == []
            control.failover_load_balancer(id).wait(PATIENCE)
        healed(stage, id, victim.id)  # should it have been quicker, its death is still to be noticed
        until(lambda: not control.operations(load_balancer_id=id, open_only=True), "quiet")
        assert stage.ask(stage.tree(id)).member == "one"
        assert stage.statuses(id) == {Provisioning.ACTIVE}


def test_an_amphora_killed_while_no_controller_ran_is_replaced_by_the_next_one(own_stage):
    with Echo("one") as one:
        lb = own_stage.build(http(*behind(one)))
        other = own_stage.build(http(*behind(one)))
        (before,), (unhurt,) = serving(own_stage, lb.id), serving(own_stage, other.id)
        pid, at = own_stage.agent_pid(before), own_stage.at(other)
        with own_stage.away():
            os.kill(pid, signal.SIGKILL)
            assert ask_quietly(*at) is not None
        healed(own_stage, lb.id, before)
        assert own_stage.ask(lb).member == "one"
        assert serving(own_stage, other.id) == [unhurt]
        assert own_stage.ask(other).member == "one"


def test_a_heartbeat_port_that_somebody_took_is_exchanged_and_nobody_is_failed_over(own_stage):
    with Echo("one") as one:
        lbs = [own_stage.build(http(*behind(one))) for _ in range(2)]
        before = [serving(own_stage, lb.id) for lb in lbs]
        port = own_stage.controller.settings.health_manager.bind_port
        own_stage.controller.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.bind(("127.0.0.1", port))
            own_stage.controller = Controller.open(own_stage.state)
            control = own_stage.controller
            assert control.settings.health_manager.bind_port != port
            heard = control.services.health.counters
            first = {id: 0 for (id,) in before}

            def all_heard() -> bool:
                rows = control.storage.read(lambda tx: tx.liveness())
                return all(row.last_heard and row.last_heard > first[row.amphora_id] for row in rows)

            first = {row.amphora_id: control.storage.now() for row in control.storage.read(lambda tx: tx.liveness())}
            until(all_heard, "heartbeats at the new port")
            assert heard["accepted"] > 0
            assert [serving(own_stage, lb.id) for lb in lbs] == before
            # what they say counts again: a member's death is seen
            names = [event.name for event in control.events(limit=10_000)]
            assert "amphora.lost" not in names
        with own_stage.away():
            pass
        until(lambda: own_stage.controller.services.health.counters["accepted"] > 0, "heartbeats")
        assert [serving(own_stage, lb.id) for lb in lbs] == before


CONTROLLER = """
import sys
from octavia_core import Controller
with Controller.open(sys.argv[1]) as controller:
    print("open", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def controller_process(state: Path) -> Iterator[subprocess.Popen[str]]:
    """A controller of its own, which is killed at the end at the latest."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("moment", ["booting", "allocated"])
def test_a_controller_killed_in_the_middle_is_carried_on_by_the_next_one(own_stage, moment):
    """A creation, then a change, each under a controller that gets SIGKILL; a client elsewhere asks for them."""
    state = own_stage.state
    own_stage.controller.close()
    try:
        with Echo("one") as one, Echo("two") as two, Controller.open(state, run=False) as client:
            with controller_process(state) as process:
                operation = client.create_load_balancer(NewLoadBalancer(name="x", listeners=[http(*behind(one))]))
                id = operation.load_balancer_id
                # A look every few milliseconds may miss a short state: a later one will do, it was passed.
                reached = [AmphoraStatus.BOOTING, AmphoraStatus.ALLOCATED][moment == "allocated" :]
                until(lambda: any(a.status in reached for a in client.amphorae(id)), moment)
                process.kill()
            with controller_process(state) as process:
                operation.wait(PATIENCE)
                assert len(list((state / "amphorae").iterdir())) == 1
                lb = client.load_balancer("x")
                assert own_stage.ask(lb).member == "one"
                change = client.set_members(only_pool(lb).id, behind(two))
                if moment == "booting":
                    until(lambda: change.state is not OperationState.QUEUED, "a beginning")
                process.kill()
            assert own_stage.ask(lb).status == 200  # traffic needs no controller
            with controller_process(state):
                change.wait(PATIENCE)
                assert set(own_stage.served(lb)) == {"two"}
                assert len(client.amphorae(id)) == 1
                assert client.load_balancer("x").provisioning_status is Provisioning.ACTIVE
                deletion = client.delete_load_balancer(id)
                until(lambda: deletion.state is not OperationState.QUEUED, "a beginning")
    finally:
        own_stage.controller = Controller.open(state)
    until(lambda: deletion.id and own_stage.controller.operation(deletion.id).state.final, "the end")
    assert own_stage.controller.load_balancers() == []
    assert processes_of(state) == {}


def test_the_death_of_a_member_is_no_death_of_an_amphora(stage):
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one, two)))
        before = serving(stage, lb.id)
        with one.away():
            assert {stage.ask(lb).member for _ in range(6)} == {"two"}  # connections are tried again elsewhere
        assert serving(stage, lb.id) == before
        stage.update(Kind.MEMBER, stage.find(lb.id, "one").id, weight=2)
