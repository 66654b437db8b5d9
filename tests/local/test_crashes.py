"""Booting and destroying are pulled the plug on at any moment; whoever comes next finishes them, once."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings

import pytest

from octavia_local.compute import _processes_of
from octavia_local.handover import heir_of
from octavia_local.home import amphora_id_of
from octavia_local.processes import every_process
from octavia_local.reservations import Reservations
from tests.local.rig import eventually


def _do(rig, what, amphora_id, begun):
    """In a child: do it, and say when it begins."""
    os.write(begun, b"x")
    name = f"amphora-{amphora_id}"
    try:
        if what == "boot":
            from octavia_core.ports.compute import ServerSpec

            rig.compute.boot(ServerSpec(name=name, amphora_id=amphora_id), lambda: rig.files(amphora_id))
        else:
            rig.compute.destroy(name)
    finally:
        os._exit(0)


def killed_while(rig, what, amphora_id, after):
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; the child takes no lock of theirs and ends without their help
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _do(rig, what, amphora_id, writing)
    os.read(reading, 1)
    time.sleep(after)  # not to wait for anything: this is where the plug is pulled
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def agents_of(rig, amphora_id):
    root = str(rig.home(amphora_id).path)
    return [process for process, _, argv in every_process() if argv[-1:] == [root]]


@pytest.mark.parametrize("seed", range(4))
def test_a_boot_that_was_killed_is_finished_with_one_agent(rig, seed):
    chance = random.Random(seed)
    spec = rig.spec()
    for _ in range(3):
        killed_while(rig, "boot", spec.amphora_id, chance.uniform(0, 0.012))
    found = rig.compute.find(spec.name)
    assert found is None or found.id == amphora_id_of(spec.name)
    rig.compute.boot(spec, lambda: rig.files(spec.amphora_id))
    server = eventually(lambda: rig.active(spec.name))
    assert [process.pid for process in agents_of(rig, spec.amphora_id)] == [rig.process(server).pid]


@pytest.mark.parametrize("seed", range(4))
def test_a_handover_that_was_killed_is_finished_and_the_next_amphora_stays(rig, seed):
    chance = random.Random(seed)
    old, new = rig.boot(), rig.boot()
    home = rig.home(old)
    kept = Reservations(home.path.parents[1] / "network", 5.0)
    with kept.alone("plug both"):
        for one in (old, new):
            kept.remember_plug(one.id, {"load_balancer_id": "lb", "vip": "127.0.0.1"})
    assert heir_of(home, kept) == rig.home(new)
    for _ in range(2):
        killed_while(rig, "destroy", old.id, chance.uniform(0, 0.03))
    rig.compute.destroy(old.id)
    assert _processes_of(home) == []
    assert os.listdir(rig.homes) == [new.id]
    assert rig.active(new.name) is not None


@pytest.mark.parametrize("seed", range(4))
def test_a_destroy_that_was_killed_is_finished_and_leaves_nothing(rig, seed):
    chance = random.Random(seed)
    server = rig.boot()
    home = rig.home(server)
    for _ in range(2):
        killed_while(rig, "destroy", server.id, chance.uniform(0, 0.012))
    rig.compute.destroy(server.id)
    assert _processes_of(home) == []
    assert os.listdir(rig.homes) == []
