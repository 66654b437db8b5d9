"""Keepalived through the agent: sent once, started each time, stopped also where it never ran."""

from __future__ import annotations

import attrs
import pytest

from octavia_core.errors import AmphoraRefused, PermanentError
from octavia_core.settings import Settings
from octavia_haproxy.driver import HaproxyDriver
from octavia_haproxy.pair import APPLIED_VRRP
from octavia_haproxy.render.keepalived import configure_vrrp
from tests.haproxy.agent import Agent, Reply, controller_settings
from tests.haproxy.test_keepalived import DELIVERY, LB, PAIR

PREFIX = f"/1.0/loadbalancer/{LB}/certificates/{APPLIED_VRRP}"


@pytest.fixture
def agent():
    with Agent() as agent:
        yield agent


@pytest.fixture
def driver(agent, tmp_path):
    driver = HaproxyDriver(controller_settings(agent, tmp_path / "controller"))
    yield driver
    driver.close()


def told(agent):
    """What keepalived was told, oldest first."""
    return [str(asked) for asked in agent.asked if "/vrrp/" in asked.path]


def test_it_is_given_what_was_rendered_and_started(agent, driver):
    driver.start_vrrp(agent.at, DELIVERY)
    assert told(agent) == ["PUT /1.0/vrrp/upload", "PUT /1.0/vrrp/start"]
    (upload,) = [asked for asked in agent.asked if asked.path.endswith("vrrp/upload")]
    assert upload.body.decode() == configure_vrrp(DELIVERY, Settings())


def test_what_it_has_is_not_sent_again_and_what_changed_is(agent, driver):
    driver.start_vrrp(agent.at, DELIVERY)
    agent.asked.clear()
    driver.start_vrrp(agent.at, DELIVERY)
    assert told(agent) == ["PUT /1.0/vrrp/start"]
    agent.asked.clear()
    driver.start_vrrp(agent.at, attrs.evolve(DELIVERY, peers=()))
    assert told(agent) == ["PUT /1.0/vrrp/upload", "PUT /1.0/vrrp/start"]


def test_a_controller_that_died_between_sending_and_starting_sends_again(agent, driver):
    driver.start_vrrp(agent.at, DELIVERY)
    agent.answers["PUT /1.0/vrrp/start"] = Reply(500, {"message": "Failed to start octavia-keepalived service"})
    changed = attrs.evolve(DELIVERY, peers=())
    with pytest.raises(AmphoraRefused, match="octavia-keepalived"):
        driver.start_vrrp(agent.at, changed)
    agent.answers.clear()
    agent.asked.clear()
    driver.start_vrrp(agent.at, changed)
    assert told(agent) == ["PUT /1.0/vrrp/upload", "PUT /1.0/vrrp/start"]


def test_the_fence_goes_with_it(agent, driver):
    driver.start_vrrp(agent.at, attrs.evolve(DELIVERY, fence=("op", 7)))
    assert {asked.headers.get("X-Octavia-Fence") for asked in agent.asked} == {"op:7"}


def test_nothing_is_asked_for_one_whose_interface_is_not_known(agent, driver):
    bare = attrs.evolve(DELIVERY, amphora=attrs.evolve(PAIR[0], vrrp_interface=None))
    with pytest.raises(PermanentError, match="interface"):
        driver.start_vrrp(agent.at, bare)
    assert agent.asked == []


def test_stopping_one_that_never_ran_is_success(agent, driver):
    driver.stop_vrrp(agent.at)
    agent.answers["PUT /1.0/vrrp/stop"] = Reply(
        500,
        {
            "message": "Failed to stop octavia-keepalived service",
            "details": "Failed to stop octavia-keepalived.service: Unit octavia-keepalived.service not loaded.",
        },
    )
    driver.stop_vrrp(agent.at)
    agent.answers["PUT /1.0/vrrp/stop"] = Reply(500, {"message": "Failed", "details": "Job timed out"})
    with pytest.raises(AmphoraRefused, match="Job timed out"):
        driver.stop_vrrp(agent.at)


def test_the_interface_of_an_address_is_found_or_it_is_nobodys(agent, driver):
    agent.interfaces["10.0.0.5"] = "eth1"
    assert driver.interface(agent.at, "10.0.0.5") == "eth1"
    assert driver.interface(agent.at, "10.0.0.9") is None
