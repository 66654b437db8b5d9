"""The error tree. Each error names the thing, its state and what to do next, and carries them as attributes.

OctaviaError
 ├─ BadRequest            the caller asked for something that cannot be
 │   ├─ NotFound          no such load balancer, listener, amphora, operation, ...
 │   └─ Refused           the thing exists but its state forbids this now
 │       └─ LoadBalancerBusy
 ├─ ConfigurationError    settings, files or programs of this machine are wrong
 │   ├─ DriverNotFound
 │   ├─ DriverUnavailable
 │   └─ StateDirectoryError
 │       └─ StateDirectoryBusy
 ├─ TransientError        the outside did not do it this time; the same call may succeed later
 │   └─ AmphoraUnreachable
 │       └─ AmphoraNotReady
 ├─ PermanentError        the outside will not do it, however often it is asked
 │   ├─ AmphoraRefused    the agent answered, and the answer was no
 │   ├─ SecretMissing
 │   └─ StepTimeout
 └─ OperationFailed       what `Operation.wait` raises when the operation ended in failure

Drivers translate foreign errors at their border (`raise TransientError(...) from error`): the runner retries
`TransientError`, undoes on `PermanentError`, and treats any other exception of a step as permanent.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping

__all__ = [
    "AmphoraNotReady",
    "AmphoraRefused",
    "AmphoraUnreachable",
    "BadRequest",
    "ConfigurationError",
    "DriverNotFound",
    "DriverUnavailable",
    "LoadBalancerBusy",
    "NotFound",
    "OctaviaError",
    "OperationFailed",
    "PermanentError",
    "Refused",
    "SecretMissing",
    "StateDirectoryBusy",
    "StateDirectoryError",
    "StepTimeout",
    "TransientError",
]


class OctaviaError(Exception):
    """Everything this package raises on purpose; `str()` is one sentence for a person."""


class BadRequest(OctaviaError):
    """The request itself is wrong; nothing was stored."""


class NotFound(BadRequest):
    """There is no such thing."""

    def __init__(self, kind: str, id: str) -> None:
        named = repr(id) if len(id) <= _LONGEST_NAME else _SHORT.repr(id)
        super().__init__(f"no {kind} {named}; list what exists with: octavia-admin {_LIST.get(kind, 'lb list')}")
        self.kind, self.id = kind, id


_LONGEST_NAME = 255
"""Characters of the longest name there can be (its column); what is longer is cut in the sentence."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = 80

_LIST = {
    "listener": "listener list",
    "pool": "pool list",
    "member": "member list",
    "health monitor": "monitor list",
    "L7 policy": "l7policy list",
    "L7 rule": "l7rule list",
    "amphora": "amphora list",
    "operation": "operation list",
    "revision": "lb history LB",
    "load balancer, amphora or operation": "lb list (or amphora list, operation list)",
}
"""Kind -> the command that lists such things."""


class Refused(BadRequest):
    """The thing exists, but its state forbids this now."""


class LoadBalancerBusy(Refused):
    """Another operation holds the load balancer, or its status admits no change."""

    def __init__(self, load_balancer_id: str, status: str, operation_id: str | None = None) -> None:
        held = f"held by operation {operation_id}" if operation_id else f"in status {status}"
        super().__init__(
            f"load balancer {load_balancer_id} is {held}; wait, or run: octavia-admin why {load_balancer_id}"
        )
        self.load_balancer_id, self.status, self.operation_id = load_balancer_id, status, operation_id


class ConfigurationError(OctaviaError):
    """A setting, a file or a program of this machine is missing or wrong."""


class DriverNotFound(ConfigurationError):
    """No installed plugin offers a driver of that kind under that name."""

    def __init__(
        self, kind: str, name: str, offered: Iterable[tuple[str, str]], broken: Mapping[str, str] | None = None
    ) -> None:
        known = ", ".join(f"{n} ({package})" for n, package in sorted(offered)) or "none"
        failed = "".join(f"; plugin {plugin} could not be loaded ({why})" for plugin, why in (broken or {}).items())
        super().__init__(f"no {kind} driver named {name!r}; installed: {known}{failed}")
        self.kind, self.name = kind, name


class DriverUnavailable(ConfigurationError):
    """The driver exists, but something it needs is not installed; the message says what to install."""


class StateDirectoryError(ConfigurationError):
    """The state directory cannot be used: permissions, owner, file system, or a newer version wrote it."""


class StateDirectoryBusy(StateDirectoryError):
    """Another controller runs on this state directory."""

    def __init__(self, path: str, pid: int | None) -> None:
        by = f" (process {pid})" if pid else ""
        super().__init__(
            f"a controller already runs on {path}{by}; use octavia-admin beside it, or end it with: octavia-admin down"
        )
        self.path, self.pid = path, pid


class TransientError(OctaviaError):
    """It did not work this time; the same call may succeed later."""


class AmphoraUnreachable(TransientError):
    """The agent of an amphora did not answer."""


class AmphoraNotReady(AmphoraUnreachable):
    """The agent answers, but its machine is not ready for the request: a network card that was plugged is not there yet."""


class PermanentError(OctaviaError):
    """Asking again will not help."""


class AmphoraRefused(PermanentError):
    """The agent answered, and the answer was no.

    Attributes:
        status: the HTTP status of the answer.
        details: the agent's own words.
    """

    def __init__(self, message: str, *, status: int, details: str = "") -> None:
        super().__init__(message)
        self.status, self.details = status, details


class SecretMissing(PermanentError):
    """The secret store answers, but has no such secret, or it cannot be read as what it should be."""


class StepTimeout(PermanentError):
    """A step or wait did not succeed within its time."""


class OperationFailed(OctaviaError):
    """The operation ended without doing what was asked; `reason` is the recorded cause."""

    def __init__(self, operation_id: str, reason: str) -> None:
        super().__init__(f"operation {operation_id} failed: {reason}")
        self.operation_id, self.reason = operation_id, reason
