"""The environment that upstream's programs are installed in: made once, from PyPI, in `.nox/peer-octavia`."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.support import system

__all__ = ["PEER", "peer"]

ROOT = Path(__file__).parents[2]
PEER = ("octavia==19.0.0", "pymysql", "python-octaviaclient", "pyroute2")
"""What it holds. The amphora agent imports pyroute2, which upstream's package does not ask for."""


def peer() -> Path:
    """The `bin` folder of the environment, made or completed when need be; without a package index the test is skipped."""
    home = ROOT / ".nox" / "peer-octavia"
    home.parent.mkdir(exist_ok=True)
    stamp = home / "installed"
    with (home.parent / "peer-octavia.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text(encoding="ascii") != " ".join(PEER):
            python = home / "bin" / "python"
            if not python.exists():
                made = subprocess.run([sys.executable, "-m", "venv", str(home)], check=False, capture_output=True)
                if made.returncode:  # Debian's Python without its venv package
                    subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", str(home)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            done = subprocess.run([*pip, *PEER], check=False, capture_output=True, text=True)
            if done.returncode:
                system.unavailable(f"upstream Octavia cannot be installed: {done.stderr[-500:]}")
            stamp.write_text(" ".join(PEER), encoding="ascii")
    return home / "bin"
