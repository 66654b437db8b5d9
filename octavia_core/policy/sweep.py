"""What becomes of a load balancer that is pending and that no operation is about: facts in, a decision out.

The queue is a hint, the row is the truth: somebody asked for something, the row says so, and the request for it was
lost. Rule 1: only what our providers own. Rule 2: PENDING_CREATE builds, PENDING_DELETE deletes (what is below it
goes with it: whoever allowed that status had made sure). Rule 3: PENDING_UPDATE is rendered again, and its pending
children settle with it; where an amphora is not in service, the amphorae are rebuilt instead. Rule 4: a repair that
has failed for good leaves ERROR, which is not pending, so nothing is repeated for ever.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning

__all__ = ["GRACE", "OWN_GRACE", "PROVIDERS", "Repair", "SweepMode", "repair"]

PROVIDERS = frozenset({"amphora", "octavia"})
"""Providers whose load balancers are ours to build; `octavia` is upstream's old name of `amphora`."""
GRACE = 300.0
"""Seconds that a row must have been pending: the API stores it before it sends the message."""
OWN_GRACE = 10.0
"""The same where our own accept made the row: it stores the operation in the same transaction."""


class SweepMode(StrEnum):
    """What the sweep may do."""

    OFF = "off"
    REPORT = "report"
    """Say what it would do: while upstream's workers may still run on the same database."""
    REPAIR = "repair"


@attrs.frozen
class Repair:
    """The operation that a row lacks.

    Attributes:
        flow: what carries it out.
        subjects: what turns ERROR when that fails.
        words: what it will do, for a person.
    """

    flow: str
    subjects: tuple[Subject, ...]
    words: str


def repair(tree: LoadBalancer, amphorae: tuple[Amphora, ...]) -> Repair | None:
    """What to store for that row; None when it is not ours, or nothing is pending any more.

    Args:
        tree: the rows as they are.
        amphorae: its amphorae that are not DELETED.
    """
    if tree.provider not in PROVIDERS:
        return None
    whole = (Subject(Kind.LOAD_BALANCER, tree.id),)
    match tree.provisioning_status:
        case Provisioning.PENDING_CREATE:
            return Repair("create", whole, "it is built from its row")
        case Provisioning.PENDING_DELETE:
            return Repair("delete", whole, "it is deleted with everything below it")
        case Provisioning.PENDING_UPDATE:
            pass
        case _:
            return None
    if not amphorae or any(amphora.status is not AmphoraStatus.ALLOCATED for amphora in amphorae):
        return Repair("failover", whole, "its amphorae are rebuilt, since not all of them are in service")
    children = tuple(
        Subject(kind, node.id)
        for kind, node in tree.nodes()
        if kind is not Kind.LOAD_BALANCER and node.provisioning_status.pending
    )
    if children:
        return Repair("configure", children, f"it is rendered again, which settles {len(children)} pending object(s)")
    return Repair("configure", whole, "it is rendered again and becomes ACTIVE")
