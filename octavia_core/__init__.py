"""A load-balancer controller as a library.

Importing this package starts no thread, opens no socket, reads no file and loads no cloud SDK; the public names below
are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavia_core.controller.facade import Controller
    from octavia_core.controller.handle import Operation
    from octavia_core.domain.tree import AdditionalVip
    from octavia_core.domain.wishes import (
        NewHealthMonitor,
        NewL7Policy,
        NewL7Rule,
        NewListener,
        NewLoadBalancer,
        NewMember,
        NewPool,
    )
    from octavia_core.errors import OctaviaError

__version__ = "0.1.0"

_HOME = {
    "AdditionalVip": "octavia_core.domain.tree",
    "Controller": "octavia_core.controller.facade",
    "Operation": "octavia_core.controller.handle",
    "OctaviaError": "octavia_core.errors",
    "NewHealthMonitor": "octavia_core.domain.wishes",
    "NewL7Policy": "octavia_core.domain.wishes",
    "NewL7Rule": "octavia_core.domain.wishes",
    "NewListener": "octavia_core.domain.wishes",
    "NewLoadBalancer": "octavia_core.domain.wishes",
    "NewMember": "octavia_core.domain.wishes",
    "NewPool": "octavia_core.domain.wishes",
}

__all__ = [
    "AdditionalVip",
    "Controller",
    "NewHealthMonitor",
    "NewL7Policy",
    "NewL7Rule",
    "NewListener",
    "NewLoadBalancer",
    "NewMember",
    "NewPool",
    "OctaviaError",
    "Operation",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'octavia_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
