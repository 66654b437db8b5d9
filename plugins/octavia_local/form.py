"""In which form local amphorae run here: on loopback, or each in a network namespace of its own. A probe decides.

The form counts for compute, network and heartbeats alike, so all of them ask here.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
from typing import Literal

import attrs

from octavia_core.errors import ConfigurationError, DriverUnavailable
from octavia_core.settings import Settings

__all__ = ["Form", "form_of", "keepalived"]

_HOW = "run the controller as root, or as an ordinary user by: unshare --user --map-root-user --net"


@attrs.frozen
class Form:
    """Which form, and why, in a sentence for people."""

    name: Literal["process", "namespace"]
    why: str

    @property
    def namespaces(self) -> bool:
        """Whether each amphora has a network namespace of its own."""
        return self.name == "namespace"


def form_of(settings: Settings) -> Form:
    """What `[local] amphora` asks for, and what this machine allows.

    Raises:
        ConfigurationError: the setting has another value.
        DriverUnavailable: namespaces were asked for and cannot be had; the message says what to do.
    """
    wanted = settings.local.amphora
    where = settings.origin("local.amphora")
    if wanted not in ("process", "namespace", "auto"):
        raise ConfigurationError(f"{where}: [local] amphora {wanted!r} must be process, namespace or auto")
    if wanted == "process":
        return Form("process", "local amphorae are processes on loopback, because [local] amphora is process")
    obstacle = _obstacle()
    if obstacle is None:
        return Form(
            "namespace", f"local amphorae have network namespaces: [local] amphora is {wanted}, and this user may"
        )
    if wanted == "auto":
        return Form("process", f"local amphorae are processes on loopback: {obstacle}")
    raise DriverUnavailable(f"{where}: [local] amphora is namespace, but {obstacle}; or set it to auto or process")


def keepalived() -> str | None:
    """Where keepalived is, or None. An ordinary user's PATH may lack the folders for administrators."""
    return shutil.which("keepalived") or shutil.which("keepalived", path="/usr/local/sbin:/usr/sbin:/sbin")


@functools.lru_cache(maxsize=1)
def _obstacle() -> str | None:
    """Why there can be no namespaces, or None: tried out in a throw-away one, and asked once in the life of a process."""
    from octavia_local.links import Links, in_namespace, new_namespace

    def try_out() -> None:
        with Links() as links:
            bridge = links.add_bridge("probe0", "02:00:00:00:00:01")
            other = new_namespace()
            try:
                links.add_veth("probe1", bridge, "probe2", "02:00:00:00:00:02", other)
            finally:
                os.close(other)

    namespace = -1
    try:
        namespace = new_namespace()
        in_namespace(namespace, try_out)
        with Links() as here:  # the bridges stand where the controller is
            here.all()
        if not _may_change_here():
            return f"this process may not change interfaces (CAP_NET_ADMIN is missing); {_HOW}"
    except DriverUnavailable as error:
        return str(error)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return f"this process may not make network namespaces ({error.strerror}); {_HOW}"
        return f"this kernel lacks what they need, namespaces, veth and bridge ({error.strerror})"
    finally:
        if namespace >= 0:
            os.close(namespace)
    return None


def _may_change_here() -> bool:
    """CAP_NET_ADMIN (12 in linux/capability.h), which `try_out` proved only for namespaces that it made itself."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 12 & 1)
    return False
