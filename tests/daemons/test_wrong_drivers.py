"""A worker daemon whose settings can never work ends with one sentence, instead of starting processes in vain."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from octavia_core import Controller, NewLoadBalancer
from octavia_core.controller.sources import load_settings
from tests.daemons.test_daemons import PATIENCE, daemon, end, until
from tests.daemons.test_worker_processes import at_work, children, configured

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other: on a busy machine that takes minutes


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ('compute_driver = "noop"', 'compute_driver = "nvoa"', "no compute driver named 'nvoa'"),
        ("/authority/agents.pem", "/authority/none.pem", "none.pem"),
    ],
)
def test_drivers_that_cannot_be_made_end_the_daemon(right: str, wrong: str, words: str, tmp_path: Path) -> None:
    config = configured(tmp_path, f"sqlite:///{tmp_path}/octavia.db", 3)
    config.write_text(config.read_text().replace(right, wrong))
    with daemon("worker", config) as worker:
        _, said = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 5, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("octavia-core-worker: ")
    assert len([line for line in said.splitlines() if words in line]) == 1, said


def test_wrong_drivers_read_on_sighup_leave_those_at_work_who_are(tmp_path: Path) -> None:
    config = configured(tmp_path, f"sqlite:///{tmp_path}/octavia.db", 2)
    good = config.read_text()
    with (
        daemon("worker", config) as worker,
        Controller.open(settings=load_settings([str(config)], state_directory=str(tmp_path)), run=False) as client,
    ):
        client.create_load_balancer(NewLoadBalancer(name="first")).wait(PATIENCE)
        until(lambda: at_work(client) == 2)  # both, so that none begins with what comes now
        before = children(worker.pid)
        config.write_text(good.replace('compute_driver = "noop"', 'compute_driver = "nvoa"'))
        worker.send_signal(signal.SIGHUP)
        assert worker.stderr is not None
        assert any("the workers go on with those they have: no compute driver named" in line for line in worker.stderr)
        until(lambda: children(worker.pid) == before)
        client.create_load_balancer(NewLoadBalancer(name="second")).wait(PATIENCE)
        config.write_text(good)
        worker.send_signal(signal.SIGHUP)
        until(lambda: len(children(worker.pid)) == 2 and not set(children(worker.pid)) & set(before))
        client.create_load_balancer(NewLoadBalancer(name="third")).wait(PATIENCE)
        end(worker)
