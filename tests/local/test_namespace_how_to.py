"""docs/how-to/amphorae-in-namespaces.md, run as it stands: as root, and as an ordinary user would, in a user namespace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.namespaces.rig import NETWORK
from tests.support.system import require

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "amphorae-in-namespaces.md"
BASH = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.external
@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(("unshare", "--user", "--map-root-user", "--net"), id="user-namespace"),
        pytest.param(("unshare", "--net"), id="root", marks=pytest.mark.slow),
    ],
)
def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path, form: tuple[str, ...]) -> None:
    """In a network namespace of its own, so that nothing of the machine is touched, whatever the page does."""
    require("ip")
    require("keepalived")
    if subprocess.run([*form, "true"], check=False, capture_output=True, timeout=20).returncode:
        pytest.skip(f"this machine forbids it; it can when this works: {' '.join(form)} true")
    script = tmp_path / "page.sh"
    blocks = BASH.findall(PAGE.read_text(encoding="utf-8"))
    left = "ip -oneline link > left.log\n"
    script.write_text("set -eux -o pipefail\n" + "\n".join([*blocks, left]), encoding="utf-8")
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONPATH": ":".join(str(ROOT / part) for part in (".", "daemons", "plugins")),
        "NETWORK": NETWORK,
    }
    log = tmp_path / "page.log"
    with log.open("w") as output:
        page = subprocess.Popen(
            [*form, "--kill-child", "--fork", "--pid", "--mount-proc", "bash", str(script)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        ended: int | str
        try:
            ended = page.wait(240)
        except subprocess.TimeoutExpired:
            ended = "did not end"
        finally:
            page.kill()  # with everything in its pid namespace
            page.wait()
    logs = "\n".join(f"--- {one.name}\n{one.read_text(errors='replace')[-3000:]}" for one in tmp_path.glob("*.log"))
    assert ended == 0, logs
    assert "hello from a member" in log.read_text()
    assert "no orphans" in log.read_text()
    assert not re.findall(r": oc[0-9a-f]{6}[mv]", (tmp_path / "left.log").read_text())
