"""Provisioning status: is what was asked for in place?

Rule 1: it changes only through the two tables below; a pair that is not listed is refused. Rule 2: a load balancer is
the lock of everything below it, so it is moved first when a wish is accepted and last when the wish ends. Rule 3: rows
are born PENDING_CREATE. Rule 4: no driver, no SQL, no clock in this file; whoever asks SQL for "may this happen now"
makes the list of statuses from `allowed`.

The statuses and who may change from which are those of upstream Octavia 19 (its mutable set is {ACTIVE}, its deletable
and failoverable sets are {ACTIVE, ERROR}; a child in ERROR may be updated).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.lifecycle.refusal import TransitionRefused

__all__ = ["CHILD", "INITIAL", "LOAD_BALANCER", "MEANING", "Event", "after", "allowed", "ending", "table"]

ACTIVE = Provisioning.ACTIVE
PENDING_CREATE = Provisioning.PENDING_CREATE
PENDING_UPDATE = Provisioning.PENDING_UPDATE
PENDING_DELETE = Provisioning.PENDING_DELETE
DELETED = Provisioning.DELETED
ERROR = Provisioning.ERROR

INITIAL = PENDING_CREATE
"""The status that every row is born with."""


class Event(StrEnum):
    """What can happen to a provisioning status. Stable words: journals and events may hold them."""

    ACCEPT_UPDATE = "accept_update"
    ACCEPT_DELETE = "accept_delete"
    ACCEPT_FAILOVER = "accept_failover"
    LOCK = "lock"
    SUCCEED = "succeed"
    FAIL = "fail"
    RESTORE = "restore"


MEANING: Mapping[Event, str] = MappingProxyType(
    {
        Event.ACCEPT_UPDATE: "a change of it was accepted",
        Event.ACCEPT_DELETE: "its deletion was accepted",
        Event.ACCEPT_FAILOVER: "the rebuilding of its amphorae was accepted",
        Event.LOCK: "a wish about something below it was accepted",
        Event.SUCCEED: "the wish came true",
        Event.FAIL: "the wish was about it, and failed",
        Event.RESTORE: "the wish was about something else, and failed; this is as it was",
    }
)
"""One line for each event, for docs and messages."""

Table = Mapping[tuple[Provisioning, Event], Provisioning]

LOAD_BALANCER: Table = MappingProxyType(
    {
        (ACTIVE, Event.ACCEPT_UPDATE): PENDING_UPDATE,  # the whole tree is locked from here ...
        (ACTIVE, Event.LOCK): PENDING_UPDATE,
        (ACTIVE, Event.ACCEPT_FAILOVER): PENDING_UPDATE,
        (ERROR, Event.ACCEPT_FAILOVER): PENDING_UPDATE,  # rebuilding is the repair of an ERROR
        (ACTIVE, Event.ACCEPT_DELETE): PENDING_DELETE,
        (ERROR, Event.ACCEPT_DELETE): PENDING_DELETE,
        (PENDING_CREATE, Event.SUCCEED): ACTIVE,
        (PENDING_UPDATE, Event.SUCCEED): ACTIVE,  # ... to here
        (PENDING_UPDATE, Event.RESTORE): ACTIVE,
        (PENDING_DELETE, Event.SUCCEED): DELETED,  # the row stays until housekeeping purges it
        (PENDING_CREATE, Event.FAIL): ERROR,
        (PENDING_UPDATE, Event.FAIL): ERROR,
        (PENDING_DELETE, Event.FAIL): ERROR,
    }
)
"""The load balancer itself."""

CHILD: Table = MappingProxyType(
    {
        (ACTIVE, Event.ACCEPT_UPDATE): PENDING_UPDATE,
        (ERROR, Event.ACCEPT_UPDATE): PENDING_UPDATE,  # the user mends it
        (ACTIVE, Event.LOCK): PENDING_UPDATE,  # not from ERROR: success below it would not mend it
        (ACTIVE, Event.ACCEPT_DELETE): PENDING_DELETE,
        (ERROR, Event.ACCEPT_DELETE): PENDING_DELETE,
        (PENDING_CREATE, Event.SUCCEED): ACTIVE,
        (PENDING_UPDATE, Event.SUCCEED): ACTIVE,
        (PENDING_UPDATE, Event.RESTORE): ACTIVE,
        (PENDING_DELETE, Event.SUCCEED): DELETED,  # never stored: the row is removed at once
        (PENDING_CREATE, Event.FAIL): ERROR,
        (PENDING_UPDATE, Event.FAIL): ERROR,
        (PENDING_DELETE, Event.FAIL): ERROR,
    }
)
"""Listeners, pools, members, health monitors, L7 policies and rules. DELETED means: remove the row."""


def table(kind: Kind) -> Table:
    """The table that a kind lives by.

    Raises:
        ValueError: an amphora, which has a table of its own (`lifecycle.amphora`).
    """
    if kind is Kind.AMPHORA:
        raise ValueError("amphorae have a table of their own: octavia_core.lifecycle.amphora")
    return LOAD_BALANCER if kind is Kind.LOAD_BALANCER else CHILD


def after(kind: Kind, status: Provisioning, event: Event, *, id: str = "") -> Provisioning:
    """The status that follows. `id` is for the message of the error alone.

    Raises:
        TransitionRefused: the table does not list it.
    """
    try:
        return table(kind)[status, event]
    except KeyError:
        raise TransitionRefused(kind, id, status, event, allowed(kind, event)) from None


def allowed(kind: Kind, event: Event) -> frozenset[Provisioning]:
    """The statuses in which the event may happen: what a compare-and-set asks for. Empty when it never may."""
    return frozenset(status for status, listed in table(kind) if listed is event)


def ending(status: Provisioning, *, succeeded: bool, asked_for: bool) -> Event:
    """How a wish ends for one pending row of its load balancer; total, so that no end of a wish is ever refused.

    Args:
        status: the row's status, which is pending.
        succeeded: the wish came true.
        asked_for: the wish was about this row, rather than one that was only locked.

    Only PENDING_UPDATE can be restored: what was to be created is not there, and what was to be deleted may be half
    gone, so these fail together with the wish they came from.
    """
    if not status.pending:
        raise ValueError(f"{status} is not pending, so nothing ends for it")
    if succeeded:
        return Event.SUCCEED
    return Event.FAIL if asked_for or status is not PENDING_UPDATE else Event.RESTORE
