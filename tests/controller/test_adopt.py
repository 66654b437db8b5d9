"""What a controller finds when it starts on a machine where one ran before."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from octavia_core import Controller, NewLoadBalancer
from octavia_core.controller.state import prepare_state
from octavia_core.domain.vocabulary import Provisioning
from octavia_core.ports.compute import ServerSpec

PATIENCE = 60.0
NOOP = """
[controller_worker]
compute_driver = "noop"
network_driver = "noop"
amphora_driver = "noop"
[certificates]
cert_manager = "noop"
[health_manager]
heartbeat_timeout = 600
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = Path(prepare_state(tmp_path / "state").path)
    (path / "octavia.toml").write_text(NOOP)
    return path


def test_its_amphorae_are_kept_and_what_nobody_wants_is_removed(state: Path) -> None:
    stray = str(uuid.uuid4())
    with Controller.open(state) as controller:
        controller.create_load_balancer(NewLoadBalancer(name="web")).wait(PATIENCE)
        (kept,) = controller.amphorae()
        controller.world.compute.boot(ServerSpec(name=f"amphora-{stray}", amphora_id=stray), dict)
        assert [orphan.id for orphan in controller.orphans()] == [
            server.id for server in controller.world.compute.list() if stray in server.name
        ]
    with Controller.open(state) as controller:
        assert controller.services is not None
        adopted = controller.services.adopted
        assert (adopted.kept, adopted.removed, adopted.dead) == ((kept.id,), (stray,), ())
        assert controller.orphans() == ()
        (said,) = [event.text for event in controller.events() if event.name == "controller.removed"]
        assert "removed 1 server(s)" in said


def _failover(controller: Controller) -> str:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for row in controller.operations():
            if row.flow == "failover":
                return row.id
        time.sleep(0.05)
    raise AssertionError("no failover was asked for")


def test_an_amphora_that_is_gone_is_rebuilt_at_once(state: Path) -> None:
    with Controller.open(state) as controller:
        lb = controller.create_load_balancer(NewLoadBalancer(name="web")).load_balancer_id
        controller.operations(load_balancer_id=lb)
        controller.operation(controller.operations()[0].id).wait(PATIENCE)
        (lost,) = controller.amphorae()
    with Controller.open(state, run=False) as client:
        client.world.compute.destroy(lost.compute_id or "")
    with Controller.open(state) as controller:
        assert controller.services is not None
        assert controller.services.adopted.dead == (lost.id,)
        failover = _failover(controller)  # deaths are judged by a thread of their own
        controller.operation(failover).wait(PATIENCE)
        (rebuilt,) = controller.amphorae()
        assert rebuilt.id != lost.id
        assert controller.load_balancer("web").provisioning_status is Provisioning.ACTIVE


def test_a_client_wakes_the_controller(state: Path) -> None:
    toml = state / "octavia.toml"
    toml.write_text(toml.read_text() + "[engine]\npoll_interval = 1000\n")
    with Controller.open(state), Controller.open(state, run=False) as client:
        client.create_load_balancer(NewLoadBalancer(name="web")).wait(PATIENCE)
