"""The main job on real HAProxy: wished for, built, serving, healed, changed, deleted, with nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from octavia_core import Controller, NewListener, NewLoadBalancer, NewMember, NewPool
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, ListenerProtocol, Provisioning
from tests.support.calm import write_settings
from tests.support.members import ask, member

PATIENCE = 60.0
"""Seconds within which anything here happens on the slowest machine."""


def wish(*members: NewMember, name: str = "web") -> NewLoadBalancer:
    listener = NewListener(
        name="plain", protocol=ListenerProtocol.HTTP, protocol_port=8080, default_pool=NewPool(members=members)
    )
    return NewLoadBalancer(name=name, listeners=[listener])


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "state"
    write_settings(directory)
    yield directory
    with Controller.open(directory) as controller:
        for row in controller.load_balancers():
            controller.delete_load_balancer(row.id, wait=PATIENCE).wait(PATIENCE)


def url_of(controller: Controller, name: str = "web") -> str:
    lb = controller.load_balancer(name)
    return f"http://{controller.reachable_at(lb, lb.listeners[0])}/"


def test_a_load_balancer_is_built_serves_and_leaves_nothing_behind(state: Path) -> None:
    with member("one") as one, member("two") as two, Controller.open(state) as controller:
        operation = controller.create_load_balancer(wish(one, two))
        operation.wait(PATIENCE)
        assert controller.load_balancer("web").provisioning_status is Provisioning.ACTIVE
        assert {ask(url_of(controller)) for _ in range(4)} == {"one", "two"}
        (amphora,) = controller.amphorae()
        assert amphora.status is AmphoraStatus.ALLOCATED
        controller.delete_load_balancer(operation.load_balancer_id).wait(PATIENCE)
        assert controller.load_balancers() == []
        assert controller.world.compute.list() == []
        assert controller.world.network.list() == []
        assert list((state / "amphorae").iterdir()) == []


def test_a_killed_amphora_is_replaced_by_a_new_one(state: Path) -> None:
    with member("one") as one, Controller.open(state) as controller:
        controller.create_load_balancer(wish(one)).wait(PATIENCE)
        (before,) = controller.amphorae()
        os.kill(agent_pid(state, before.id), signal.SIGKILL)
        wait_for(
            lambda: (
                [a.id for a in controller.amphorae() if a.status is AmphoraStatus.ALLOCATED] not in ([], [before.id])
            )
        )
        wait_for(lambda: controller.load_balancer("web").provisioning_status is Provisioning.ACTIVE)
        assert ask(url_of(controller)) == "one"


def test_traffic_goes_on_while_the_controller_is_away_and_it_finds_its_amphorae_again(state: Path) -> None:
    with member("one") as one, member("two") as two:
        with Controller.open(state) as controller:
            controller.create_load_balancer(wish(one)).wait(PATIENCE)
            url = url_of(controller)
            (before,) = controller.amphorae()
        assert ask(url) == "one"
        with Controller.open(state) as controller:
            (after,) = controller.amphorae()
            assert after.id == before.id
            (pool,) = controller.load_balancer("web").pools
            controller.create_member(pool.id, two).wait(PATIENCE)
            assert {ask(url) for _ in range(4)} == {"one", "two"}
            (pool,) = controller.load_balancer("web").pools
            first = next(m for m in pool.members if m.name == "one")
            controller.delete(Kind.MEMBER, first.id).wait(PATIENCE)
            assert {ask(url) for _ in range(4)} == {"two"}


def agent_pid(state: Path, amphora_id: str) -> int:
    return int(json.loads((state / "amphorae" / amphora_id / "agent.json").read_text())["pid"])


def wait_for(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come true in time")
