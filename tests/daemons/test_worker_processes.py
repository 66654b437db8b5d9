"""Worker processes under their supervisor: killed, replaced, told to read settings anew, ended with what they do."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core import Controller, NewLoadBalancer
from octavia_core.controller.sources import load_settings
from octavia_core.controller.supervisor import BACKOFF, Program, Supervisor
from octavia_core.db.storage import prepare
from octavia_core.domain.operation import OperationState
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.testing.outside import FaultKind, SimulatedCloud
from tests.daemons.test_daemons import daemon, end, until
from tests.support.databases import copy_to

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other: on a busy machine that takes minutes


def configured(tmp_path: Path, url: str, workers: int) -> Path:
    from octavia_core.certs.authority import create_authorities

    authority = tmp_path / "authority"
    create_authorities(str(authority))
    file = tmp_path / "octavia.toml"
    file.write_text(f"""
[controller_worker]
compute_driver = "noop"
network_driver = "noop"
amphora_driver = "noop"
workers = {workers}
client_ca = "{authority}/controllers.pem"
[certificates]
cert_manager = "noop"
ca_certificate = "{authority}/agents.pem"
ca_private_key = "{authority}/agents.key"
[engine]
poll_interval = 0.1
lease = 60.0
[database]
connection = "{url}"
""")
    prepare(load_settings([str(file)]))
    return file


@pytest.fixture
def config(ready_database_url: str, tmp_path: Path) -> Path:
    return configured(tmp_path, ready_database_url, 2)


@pytest.fixture
def client(config: Path) -> Iterator[Controller]:
    settings = load_settings([str(config)], state_directory=str(config.parent))
    with Controller.open(settings=settings, run=False) as opened:
        yield opened


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def at_work(client: Controller) -> int:
    """How many processes have said that they work: these have read their settings."""
    return len(client.storage.read(lambda tx: tx.attendance()).workers)


def test_a_killed_worker_process_is_replaced_and_its_operation_taken_over(config: Path, client: Controller) -> None:
    cloud = SimulatedCloud(config.parent / "simulator.db")
    cloud.fail("network.plug_vip", kind=FaultKind.KILL)
    with daemon("worker", config) as supervisor:
        until(lambda: len(children(supervisor.pid)) == 2)
        before = set(children(supervisor.pid))
        operation = client.create_load_balancer(NewLoadBalancer(name="web"))
        until(lambda: bool(before - set(children(supervisor.pid))))
        client.storage.end_leases(but="nobody")  # the minute of the one that was killed is over
        operation.wait(60)
        assert client.load_balancer("web").provisioning_status is Provisioning.ACTIVE
        assert operation.row.attempts == 2
        until(lambda: len(children(supervisor.pid)) == 2)
        assert len(before - set(children(supervisor.pid))) == 1
        end(supervisor)
    assert cloud.made_twice() == []


def test_sigterm_finishes_what_runs(config: Path, client: Controller) -> None:
    with daemon("worker", config) as supervisor:
        operations = [client.create_load_balancer(NewLoadBalancer(name=f"lb{n}")) for n in range(12)]
        until(lambda: any(o.state is not OperationState.QUEUED for o in operations))
        family = children(supervisor.pid)
        end(supervisor)
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    states = {o.state for o in operations}
    assert states <= {OperationState.SUCCEEDED, OperationState.QUEUED, OperationState.WAITING}


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    config = configured(tmp_path, copy_to(tmp_path / "octavia.db"), 2)
    with daemon("worker", config) as supervisor:
        until(lambda: len(children(supervisor.pid)) == 2)
        family = children(supervisor.pid)
        supervisor.kill()
        until(lambda: not any(alive(pid) for pid in family))


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_sighup_reads_the_settings_anew(tmp_path: Path) -> None:
    config = configured(tmp_path, f"sqlite:///{tmp_path}/octavia.db", 1)
    text = config.read_text()
    with (
        daemon("worker", config) as supervisor,
        Controller.open(settings=load_settings([str(config)], state_directory=str(tmp_path)), run=False) as watcher,
    ):
        until(lambda: at_work(watcher) == 1)
        (first,) = children(supervisor.pid)
        config.write_text("[engine]\nno such thing")
        supervisor.send_signal(signal.SIGHUP)  # what cannot be read changes nothing
        assert supervisor.stderr is not None
        assert any("the workers go on with those they have" in line for line in supervisor.stderr)
        config.write_text(text.replace("workers = 1", "workers = 3"))
        supervisor.send_signal(signal.SIGHUP)
        until(lambda: len(children(supervisor.pid)) == 3 and first not in children(supervisor.pid))
        end(supervisor)


def test_a_child_that_dies_at_once_is_started_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    stop, starts = threading.Event(), list[float]()

    def environment(number: int) -> dict[str, str]:
        starts.append(time.monotonic())
        if len(starts) == 4:
            stop.set()
        return dict(os.environ)

    command = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    program = Program(command=command, environment=environment, grace=1.0)
    Supervisor(program, count=1, look=lambda: None, poll=0.05).run(stop)
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)), pauses
    said = [record.getMessage() for record in caplog.records if "ended with 3" in record.getMessage()]
    assert "another one is started in 0.1 s" in said[0]
    assert "ended with 3, 2 times in a row; another one is started in 0.2 s" in said[1]
    assert BACKOFF.delay(9) < BACKOFF.delay(10) == BACKOFF.delay(1000) == 30.0


def test_a_child_that_does_not_end_is_killed_after_the_grace() -> None:
    stop = threading.Event()
    stop.set()
    command = [sys.executable, "-S", "-c", "import time\nwhile True: time.sleep(60)"]
    program = Program(command=command, environment=lambda _: dict(os.environ), grace=0.2)
    supervisor = Supervisor(program, count=1, look=lambda: None, poll=0.05)
    supervisor.run(stop)
    assert supervisor.pids == []
