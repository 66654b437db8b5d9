"""docs/how-to/drop-in-on-one-machine.md, run as it stands: no simulator, curl gets answers through the VIP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavia_core.settings import Local, Settings
from octavia_local.compute import LocalCompute
from tests.peers.environment import peer
from tests.peers.octavia_api.programs import Broker, Database, Process, free_port
from tests.peers.octavia_api.stage import ROOT
from tests.support import system

PAGE = ROOT / "docs" / "how-to" / "drop-in-on-one-machine.md"
BASH = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def servers() -> Iterator[dict[str, str]]:
    """A MariaDB and a RabbitMQ, and where they are."""
    with tempfile.TemporaryDirectory(prefix="octavia-page-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        broker, database = Broker(folder / "rabbit"), Database(folder / "maria")
        try:
            broker.start()
            database.start()
            database.make()
            yield {"BROKER_URL": broker.url, "DATABASE_URL": database.url}
        finally:
            database.stop()
            broker.close()


@pytest.mark.timeout(700)
def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path, servers: dict[str, str]) -> None:
    system.require("curl")
    system.require("pgrep")
    upstream = peer()
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "upstream").symlink_to(upstream.parent)
    script = tmp_path / "page.sh"
    script.write_text(
        "set -eux -o pipefail\n" + "\n".join(BASH.findall(PAGE.read_text(encoding="utf-8"))), encoding="utf-8"
    )
    half = 2 * (os.getpid() % 4096)  # of the networks that tests use, one that is seldom another's
    octets = f"127.{96 + half // 256}.{half % 256}"
    environment = {
        **servers,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        "PYTHONPATH": ":".join(str(ROOT / part) for part in (".", "daemons", "plugins")),
        "PYTHONWARNINGS": "ignore",
        "API_PORT": str(free_port()),
        "HEARTBEAT_PORT": str(free_port()),
        "MEMBER_PORT": str(free_port()),
        "NETWORK": f"{octets}.0/23",
        "VIP": f"{octets}.10",
    }
    page = Process("page", home, ["/bin/bash", str(script)], environment)
    page.start()
    assert page.guard is not None
    try:
        ended = page.guard.wait(600)
    except subprocess.TimeoutExpired:
        ended = -1
    finally:
        page.kill() if page.running() else page.stop()
        for amphora in home.glob("state/amphorae/*"):  # nobody's children: there are some only when the page failed
            local = Local(network=environment["NETWORK"])
            LocalCompute(Settings(state_directory=str(home / "state"), local=local)).destroy(amphora.name)
    logs = "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in home.glob("*.log"))
    assert ended == 0, logs
