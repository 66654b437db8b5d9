"""What benchmarks of operations have in common: settings without a cloud, and the worker daemon on them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from octavia_core.certs.authority import create_authorities

__all__ = ["configured", "workers"]

_CONFIGURATION = """
[controller_worker]
compute_driver = "noop"
network_driver = "noop"
amphora_driver = "noop"
workers = {workers}
client_ca = "{folder}/authority/controllers.pem"
[certificates]
cert_manager = "noop"
ca_certificate = "{folder}/authority/agents.pem"
ca_private_key = "{folder}/authority/agents.key"
[engine]
sweep = "off"
{poll}
[database]
connection = "{url}"
"""


def configured(folder: Path, url: str, *, processes: int, poll: float | None = None) -> Path:
    """A file of settings with its authorities: so many worker processes; `poll` seconds between two looks, None: as usual."""
    create_authorities(str(folder / "authority"))
    file = folder / "octavia.toml"
    interval = "" if poll is None else f"poll_interval = {poll}"
    text = _CONFIGURATION.format(folder=folder, url=url, workers=processes, poll=interval)
    file.write_text(text, encoding="utf-8")
    return file


@contextlib.contextmanager
def workers(file: Path) -> Iterator[int]:
    """The worker daemon with these settings, until the end of the block; its pid."""
    words = ["--config-file", str(file), "--state-directory", str(file.parent), "--log-level", "ERROR"]
    process = subprocess.Popen(
        [sys.executable, "-m", "octavia_daemons.worker", *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(90)
