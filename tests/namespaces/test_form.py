"""Which form local amphorae have, and that it never touches what is not its own."""

from __future__ import annotations

import shutil
import subprocess
import sys

import attrs
import pytest

from octavia_core.errors import ConfigurationError, DriverUnavailable, PermanentError
from octavia_core.settings import Settings
from octavia_local.compute import LocalCompute
from octavia_local.form import form_of
from octavia_local.links import Links
from octavia_local.namespace_network import NamespaceNetwork
from octavia_local.namespaces import Namespaces, plan_of
from octavia_local.plugin import octavia_heartbeat_address
from tests.local.rig import LocalRig
from tests.namespaces.rig import NETWORK, links_of


def settings_with(state, **local):
    return Settings.load(
        ("test", {"local": local, "controller_worker": {"compute_driver": "local"}}), state_directory=str(state)
    )


def test_a_process_on_loopback_is_the_default(tmp_path):
    assert form_of(Settings()).name == "process"
    assert octavia_heartbeat_address(settings_with(tmp_path)) is None
    assert (
        octavia_heartbeat_address(attrs.evolve(settings_with(tmp_path, amphora="namespace"), state_directory=""))
        is None
    )


def test_an_unknown_form_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="'vm' must be process, namespace or auto"):
        form_of(settings_with(tmp_path, amphora="vm"))


def test_auto_takes_namespaces_where_they_can_be_had(tmp_path):
    settings = settings_with(tmp_path, amphora="auto", namespace_network=NETWORK)
    assert form_of(settings).namespaces
    assert octavia_heartbeat_address(settings) == str(plan_of(settings).agents[1])


_ASK = """
from octavia_core.settings import Settings
from octavia_core.errors import DriverUnavailable
from octavia_local.form import form_of
print(form_of(Settings.load(("test", {"local": {"amphora": "auto"}}))).why)
try:
    form_of(Settings.load(("test", {"local": {"amphora": "namespace"}})))
except DriverUnavailable as error:
    print(error)
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_without_privileges_auto_stays_on_loopback_and_says_why():
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*without, sys.executable, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60
    )
    auto, wanted = done.stdout.splitlines()
    assert auto.startswith("local amphorae are processes on loopback: this process may not make network namespaces")
    assert "unshare --user --map-root-user --net" in wanted


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("namespace_network", "10.0.0.0/30", "32 addresses or more"),
        ("namespace_network", "127.0.0.0/8", "32 addresses or more"),
        ("namespace_network", "ten", "is no IPv4 network"),
        ("namespace_network_ipv6", "fd00::/64", "a /63 or larger"),
        ("namespace_network_ipv6", "198.18.0.0/15", "is no IPv6 network"),
    ],
)
def test_a_network_that_cannot_be_is_one_sentence(tmp_path, option, value, words):
    with pytest.raises(ConfigurationError, match=words):
        plan_of(settings_with(tmp_path, **{"namespace_network": NETWORK, option: value}))


def test_state_directories_have_names_and_networks_of_their_own(tmp_path):
    plans = [plan_of(settings_with(tmp_path / name)) for name in ("one", "two", "three")]
    assert len({plan.tag for plan in plans}) == 3
    assert len({plan.vips6 for plan in plans}) == 3
    assert plan_of(settings_with(tmp_path / "one")) == plans[0]
    for plan in plans:
        for kind in ("m", "v"):
            assert len(plan.bridge(kind)) <= 15
            assert len(plan.link(kind, "5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11")) <= 15


def test_an_interface_that_somebody_else_made_is_never_touched(tmp_path):
    with LocalRig(tmp_path / "state", amphora="namespace", namespace_network=NETWORK) as rig:
        plan = plan_of(rig.settings)
        with Links() as links:
            index = links.add_bridge(plan.bridge("m"), "02:00:00:00:00:07")
            links.change(index, ifalias="somebody else's")
            try:
                spec = rig.spec()
                with pytest.raises(PermanentError, match="was not made for this"):
                    rig.compute.boot(spec, lambda: rig.files(spec.amphora_id))
                with pytest.raises(PermanentError, match="was not made for this"):
                    Namespaces(plan, tmp_path / "state" / "network").remove(spec.amphora_id)
                assert links.find(plan.bridge("m")) is not None
            finally:
                links.delete(index)


def test_a_network_that_is_in_use_is_refused_with_the_way_out(tmp_path):
    first = LocalRig(tmp_path / "first", amphora="namespace", namespace_network=NETWORK)
    second = LocalRig(tmp_path / "second", amphora="namespace", namespace_network=NETWORK)
    with first, second:
        first.boot()
        spec = second.spec()
        with pytest.raises(PermanentError, match=r"uses 198\.18\..* already.*\[local\] namespace_network"):
            second.compute.boot(spec, lambda: second.files(spec.amphora_id))


def test_orphans_lists_what_a_controller_left_behind_and_destroy_removes_it(tmp_path):
    with LocalRig(tmp_path / "state", amphora="namespace", namespace_network=NETWORK) as rig:
        network = NamespaceNetwork(rig.settings)
        namespaces = Namespaces(plan_of(rig.settings), tmp_path / "state" / "network")
        namespaces.boot("0a1b2c", str(plan_of(rig.settings).agents[9]), network.list)
        # nothing lives in that namespace, so the kernel takes it and its link away by itself; the bridge stays
        left = [kind for kind, _ in network.list()]
        assert left in (["bridge"], ["link"])
        rig.compute.destroy("0a1b2c")
        namespaces.remove("0a1b2c")
        assert network.list() == []


def test_what_is_missing_is_said_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(DriverUnavailable, match=r"pip install 'octavia-core\[namespaces\]'"):
        Links()


def test_a_dead_amphora_leaves_no_link(tmp_path):
    with LocalRig(tmp_path / "state", amphora="namespace", namespace_network=NETWORK) as rig:
        server = rig.boot()
        plan = plan_of(rig.settings)
        assert set(links_of(rig.settings)) == {plan.bridge("m"), plan.link("m", server.id)}
        rig.kill(server)
        LocalCompute(rig.settings).destroy(server.id)
        assert links_of(rig.settings) == []
