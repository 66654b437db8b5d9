"""A pair with real keepalived: who holds the VIP, what each death does, and a failover that no client notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.vocabulary import Role
from tests.main_job.stage import PATIENCE, until
from tests.namespaces.pair import Client, Pair, pair_on
from tests.namespaces.rig import inside, links_of, open_stage_inside
from tests.support.system import require

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One pair for all stories: each begins by waiting until it is a whole one."""
    require("keepalived")
    with open_stage_inside(tmp_path_factory.mktemp("pair") / "state") as stage, pair_on(stage) as pair:
        yield pair


@pytest.mark.feature("load_balancer.topology")
def test_one_has_the_vip_and_both_listen_for_it(pair):
    assert pair.settled().role in (Role.MASTER, Role.BACKUP)
    assert {a.role for a in pair.amphorae()} == {Role.MASTER, Role.BACKUP}
    for amphora in pair.amphorae():
        listening = inside(pair.agent(amphora), "ss", "-tlnH")
        assert f"{pair.vip}:80" in listening
    assert len(links_of(pair.stage.controller.settings)) == 6  # two bridges, two links for each


def test_a_dead_haproxy_is_started_again_where_it_was(pair):
    master = pair.settled()
    (other,) = (amphora for amphora in pair.amphorae() if amphora.id != master.id)
    known = len(vrrp_log(pair, other))
    with Client(pair.vip, limit=20.0) as client:
        client.wait_for(20)
        os.kill(pair.child(master, "haproxy"), signal.SIGKILL)
        client.wait_for(50)
    # the agent was quicker than keepalived's check; one that stood still itself for seconds is no master any more
    if pair.settled().id != master.id:
        assert "Receive advertisement timeout" in vrrp_log(pair, other)[known:]
    assert len(client.failures) <= 1, client.failures  # what was inside the dead process


def vrrp_log(pair: Pair, amphora: Amphora) -> str:
    """What its keepalived has said."""
    return (pair.stage.state / "amphorae" / amphora.id / "var/log/octavia/keepalived.log").read_text()


def test_a_dead_keepalived_is_started_again_and_one_amphora_has_the_vip(pair):
    master = pair.settled()
    old = pair.child(master, "keepalived")
    with Client(pair.vip) as client:
        client.wait_for(20)
        os.kill(old, signal.SIGKILL)
        until(lambda: [pid for pid in pair.children(master, "keepalived") if pid != old], "another keepalived")
        client.wait_for(50)
    pair.settled()


def test_a_dead_agent_takes_its_amphora_along_the_other_serves_and_a_new_pair_forms(pair):
    master = pair.settled()
    with Client(pair.vip) as client:
        client.wait_for(20)
        os.kill(pair.agent(master), signal.SIGKILL)
        client.wait_for(50)
    pair.healed(master.id)
    assert pair.settled().id != master.id
    assert len(links_of(pair.stage.controller.settings)) == 6


def test_a_failover_of_both_loses_no_request(pair):
    before = {a.id for a in pair.amphorae()}
    with Client(pair.vip, limit=20.0) as client:
        client.wait_for(20)
        pair.stage.controller.failover_load_balancer(pair.lb.id).wait(PATIENCE)
        client.wait_for(50)
    assert not before & {a.id for a in pair.amphorae()}
    assert len(pair.amphorae()) == 2
    pair.settled()
    assert client.failures == []
