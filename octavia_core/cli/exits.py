"""Exit codes, and which error gives which."""

from __future__ import annotations

from enum import IntEnum

from octavia_core.errors import (
    BadRequest,
    ConfigurationError,
    LoadBalancerBusy,
    NotFound,
    OctaviaError,
    StateDirectoryBusy,
)

__all__ = ["Exit", "TimeIsOver", "exit_of"]


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    OK = 0
    FAILED = 1
    """The operation was carried out and failed, or something outside did not answer."""
    BAD_REQUEST = 2
    """The request or the command line is wrong, or the thing's state forbids it; nothing was changed."""
    NOT_FOUND = 3
    BUSY = 4
    """Another operation holds the load balancer, or another controller the state directory."""
    CONFIGURATION = 5
    """Settings, the state directory, a driver or a program of this machine."""
    TIMEOUT = 6
    """The time given by --timeout is over; the operation goes on."""
    BUG = 70
    """A mistake of ours (EX_SOFTWARE of sysexits.h); the traceback is in a file."""
    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT)."""
    PIPE_CLOSED = 141
    """Whoever read the output went away (128 + SIGPIPE)."""


class TimeIsOver(OctaviaError):
    """What `--timeout` allowed is used up."""


def exit_of(error: OctaviaError) -> Exit:
    """The code for an error of the product."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Exit.FAILED


_CODES: tuple[tuple[type[OctaviaError], Exit], ...] = (
    (TimeIsOver, Exit.TIMEOUT),
    (NotFound, Exit.NOT_FOUND),
    (LoadBalancerBusy, Exit.BUSY),
    (StateDirectoryBusy, Exit.BUSY),
    (BadRequest, Exit.BAD_REQUEST),
    (ConfigurationError, Exit.CONFIGURATION),
)
