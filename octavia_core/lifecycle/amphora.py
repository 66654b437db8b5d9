"""The life of one amphora.

Rule 1: the status changes only through TRANSITIONS; a pair that is not listed is refused. Rule 2: a replacement is a
new amphora with a new id; nothing comes back from PENDING_DELETE except ERROR, and nothing from DELETED. Rule 3: rows
are born PENDING_CREATE. Rule 4: no driver, no SQL, no clock in this file.

The statuses are those of upstream Octavia 19. READY belongs to spares, which upstream has given up and this product has.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from octavia_core.domain.vocabulary import AmphoraStatus, Kind
from octavia_core.lifecycle.refusal import TransitionRefused

__all__ = ["INITIAL", "MEANING", "TRANSITIONS", "AmphoraEvent", "after", "allowed"]

PENDING_CREATE = AmphoraStatus.PENDING_CREATE
BOOTING = AmphoraStatus.BOOTING
READY = AmphoraStatus.READY
ALLOCATED = AmphoraStatus.ALLOCATED
PENDING_DELETE = AmphoraStatus.PENDING_DELETE
DELETED = AmphoraStatus.DELETED
ERROR = AmphoraStatus.ERROR
FAILOVER_STOPPED = AmphoraStatus.FAILOVER_STOPPED

INITIAL = PENDING_CREATE
"""The status that every row is born with."""


class AmphoraEvent(StrEnum):
    """What can happen to an amphora. Stable words: journals and events may hold them."""

    BOOT = "boot"
    SPARE = "spare"
    ALLOCATE = "allocate"
    STOP = "stop"
    RESUME = "resume"
    DELETE = "delete"
    DELETED = "deleted"
    FAIL = "fail"


MEANING: Mapping[AmphoraEvent, str] = MappingProxyType(
    {
        AmphoraEvent.BOOT: "its server was asked for",
        AmphoraEvent.SPARE: "its agent answers, and it waits in the pool of spares",
        AmphoraEvent.ALLOCATE: "its agent answers, and it serves a load balancer",
        AmphoraEvent.STOP: "it is silent, but so many are that no failover is started",
        AmphoraEvent.RESUME: "it is heard again",
        AmphoraEvent.DELETE: "it is to go",
        AmphoraEvent.DELETED: "its server and ports are gone",
        AmphoraEvent.FAIL: "something was asked of it or for it, and failed",
    }
)
"""One line for each event, for docs and messages."""

TRANSITIONS: Mapping[tuple[AmphoraStatus, AmphoraEvent], AmphoraStatus] = MappingProxyType(
    {
        (PENDING_CREATE, AmphoraEvent.BOOT): BOOTING,
        (BOOTING, AmphoraEvent.ALLOCATE): ALLOCATED,
        (BOOTING, AmphoraEvent.SPARE): READY,
        (READY, AmphoraEvent.ALLOCATE): ALLOCATED,
        (ALLOCATED, AmphoraEvent.STOP): FAILOVER_STOPPED,
        (FAILOVER_STOPPED, AmphoraEvent.RESUME): ALLOCATED,
        (PENDING_CREATE, AmphoraEvent.DELETE): PENDING_DELETE,
        (BOOTING, AmphoraEvent.DELETE): PENDING_DELETE,
        (READY, AmphoraEvent.DELETE): PENDING_DELETE,
        (ALLOCATED, AmphoraEvent.DELETE): PENDING_DELETE,
        (FAILOVER_STOPPED, AmphoraEvent.DELETE): PENDING_DELETE,
        (ERROR, AmphoraEvent.DELETE): PENDING_DELETE,
        (PENDING_DELETE, AmphoraEvent.DELETE): PENDING_DELETE,  # upstream's API marks it before it sends the message
        (PENDING_DELETE, AmphoraEvent.DELETED): DELETED,  # the row stays until housekeeping purges it
        (PENDING_CREATE, AmphoraEvent.FAIL): ERROR,
        (BOOTING, AmphoraEvent.FAIL): ERROR,
        (READY, AmphoraEvent.FAIL): ERROR,
        (ALLOCATED, AmphoraEvent.FAIL): ERROR,
        (FAILOVER_STOPPED, AmphoraEvent.FAIL): ERROR,
        (PENDING_DELETE, AmphoraEvent.FAIL): ERROR,
        (ERROR, AmphoraEvent.FAIL): ERROR,  # a second failure, perhaps of its cleaning up
    }
)
"""Everything an amphora may do."""


def after(status: AmphoraStatus, event: AmphoraEvent, *, id: str = "") -> AmphoraStatus:
    """The status that follows. `id` is for the message of the error alone.

    Raises:
        TransitionRefused: the table does not list it.
    """
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise TransitionRefused(Kind.AMPHORA, id, status, event, allowed(event)) from None


def allowed(event: AmphoraEvent) -> frozenset[AmphoraStatus]:
    """The statuses in which the event may happen: what a compare-and-set asks for."""
    return frozenset(status for status, listed in TRANSITIONS if listed is event)
