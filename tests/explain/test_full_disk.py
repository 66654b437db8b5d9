"""A disk that fills up under a running controller: `why` says so, not that all is well, and all goes on when there is room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
from octavia_core import NewLoadBalancer
from tests.explain.stage import Stage, until

folder = Path(sys.argv[1])
stage = Stage(folder, f"sqlite:///{folder}/octavia.db")
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
    done = subprocess.run(
        [
            *unshare,
            "sh",
            "-c",
            f"mount -t tmpfs -o size=8m,mode=700 tmpfs {folder} && {sys.executable} {script} {folder}",
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
