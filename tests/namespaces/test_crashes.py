"""The plug is pulled while namespaces and links are made or removed; whoever comes next finishes it, and nothing is left."""

from __future__ import annotations

import os
import random

import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import PermanentError
from octavia_core.ports.network import VipRequest
from octavia_core.settings import Settings
from octavia_local.compute import LocalCompute, _processes_of
from octavia_local.namespace_network import NamespaceNetwork
from tests.local.rig import LocalRig, eventually
from tests.local.test_crashes import agents_of, killed_while
from tests.namespaces.rig import NETWORK, links_of


@pytest.fixture
def rig(tmp_path):
    with LocalRig(tmp_path / "state", amphora="namespace", namespace_network=NETWORK) as rig:
        rig.boot()  # so that everything is loaded, and the children below get far in their short lives
        yield rig


@pytest.mark.parametrize("seed", range(3))
def test_a_boot_that_was_killed_is_finished_with_one_agent_in_one_namespace(rig, seed):
    chance = random.Random(seed)
    spec = rig.spec()
    for _ in range(3):
        killed_while(rig, "boot", spec.amphora_id, chance.uniform(0, 0.08))
    rig.compute.boot(spec, lambda: rig.files(spec.amphora_id))
    server = eventually(lambda: rig.active(spec.name))
    assert [process.pid for process in agents_of(rig, spec.amphora_id)] == [rig.process(server).pid]
    assert len(links_of(rig.settings)) == 3  # the bridge, and a link for each of two amphorae


@pytest.mark.parametrize("seed", range(3))
def test_a_destroy_that_was_killed_is_finished_and_leaves_nothing(rig, seed):
    chance = random.Random(seed)
    server = rig.compute.list()[0]
    for _ in range(2):
        killed_while(rig, "destroy", server.id, chance.uniform(0, 0.08))
    rig.compute.destroy(server.id)
    assert _processes_of(rig.home(server)) == []
    assert os.listdir(rig.homes) == []
    assert links_of(rig.settings) == []


def test_a_form_that_was_changed_leaves_no_links_and_is_not_served_by_halves(rig):
    server = rig.compute.list()[0]
    back = Settings.load(
        ("test", {"local": {"network": rig.settings.local.network, "amphora": "process"}}),
        state_directory=rig.settings.state_directory,
    )
    network = NamespaceNetwork(rig.settings)
    vip = network.reserve_vip(VipRequest(load_balancer_id="lb")).vip
    other = Settings.load(
        ("test", {"local": {"amphora": "namespace", "namespace_network": "198.19.252.0/23"}}),
        state_directory=rig.settings.state_directory,
    )
    amphora = Amphora(id=server.id, status=AmphoraStatus.ALLOCATED, compute_id=server.id)
    with pytest.raises(PermanentError, match="made with other settings"):
        NamespaceNetwork(other).plug_vip(LoadBalancer(id="lb", vip=vip), amphora)
    network.release_vip("lb", vip)
    LocalCompute(back).destroy(server.id)
    assert links_of(rig.settings) == []
