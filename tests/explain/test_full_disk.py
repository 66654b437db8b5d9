"""A database that stores nothing under a running controller: `why` says so, not that all is well, and names the right place;
all goes on when there is room.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from octavia_core import NewLoadBalancer
from tests.explain.stage import Stage, until
from tests.support.servers import server

PROGRAM = """
import json, sys
from pathlib import Path
from octavia_core import NewLoadBalancer
from tests.explain.stage import Stage, until

folder, state = map(Path, sys.argv[1:])
stage = Stage(state, f"sqlite:///{folder}/octavia.db")
stage.make()
with stage.client() as client, stage.worker():
    client.create_load_balancer(NewLoadBalancer(name="web")).wait(60)
    until(lambda: client.why("web").situation == "fine")
    with (folder / "filling").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    full = [stage.admin("why", "web"), stage.admin("why", "web", "--json")]
    (folder / "filling").unlink()
    until(lambda: client.why("web").situation == "fine")
    client.delete_load_balancer(client.load_balancer("web").id).wait(60)
print(json.dumps([[said.code, said.out, said.err] for said in full]))
"""


def test_a_disk_that_is_full_is_said_and_everything_goes_on_when_there_is_room(tmp_path: Path) -> None:
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs a mount namespace; as root, or: sudo sysctl kernel.unprivileged_userns_clone=1")
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    folder = tmp_path / "disk"
    folder.mkdir()
    state = tmp_path / "state"  # on another file system than the database
    state.mkdir(mode=0o700)
    done = subprocess.run(
        [
            *unshare,
            "sh",
            "-c",
            f"mount -t tmpfs -o size=8m,mode=700 tmpfs {folder} && {sys.executable} {script} {folder} {state}",
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    (code, table, _), (_, answered, _) = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert "nothing is wrong" not in table
    assert f"the file system of {folder} is full" in table
    assert "make room there" in table
    said = json.loads(answered)
    assert said["situation"] == "unserved"
    assert "so nothing can be stored" in said["cause"]


@pytest.mark.external
def test_a_server_that_stores_nothing_is_quoted(tmp_path: Path) -> None:
    real = server("postgresql")
    with real.new_database() as url:
        stage = Stage(tmp_path, url)
        stage.make()
        name = str(make_url(url).database)
        with stage.client() as client:
            operation = client.create_load_balancer(NewLoadBalancer(name="web"))
        real.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with stage.client() as client:
            said = client.why(operation.id).next or ""
            assert "nothing can be stored: database " in said
            assert f"/{name}" in said
            assert "read-only transaction" in said
            real.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            real.disconnect(name)
            until(lambda: not real.connections(name), "whoever was connected is not any more")
            assert "no worker is alive" in (client.why(operation.id).next or ""), "it stores again"
