"""Words of the vocabulary as callers write them: `protocol="HTTP"` is `ListenerProtocol.HTTP`, for type checkers, too.

A word that there is not stays as it was given, so that it is refused with its place and the words there are when the
wish is accepted. One function per vocabulary, since type checkers read the parameter of a converter.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar, cast

from octavia_core.domain.vocabulary import (
    Algorithm,
    ClientAuthentication,
    CompareType,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
    PoolProtocol,
    Topology,
)

__all__ = [
    "action",
    "algorithm",
    "client_authentication",
    "compare_type",
    "listener_protocol",
    "monitor_type",
    "pool_protocol",
    "rule_type",
    "topology",
]

E = TypeVar("E", bound=StrEnum)


def _known(kind: type[E], given: E | str) -> E:
    try:
        return kind(given)
    except (ValueError, TypeError):
        return cast("E", given)


def action(given: L7Action | str) -> L7Action:
    """A `L7Action`."""
    return _known(L7Action, given)


def algorithm(given: Algorithm | str) -> Algorithm:
    """A `Algorithm`."""
    return _known(Algorithm, given)


def client_authentication(given: ClientAuthentication | str) -> ClientAuthentication:
    """A `ClientAuthentication`."""
    return _known(ClientAuthentication, given)


def compare_type(given: CompareType | str) -> CompareType:
    """A `CompareType`."""
    return _known(CompareType, given)


def listener_protocol(given: ListenerProtocol | str) -> ListenerProtocol:
    """A `ListenerProtocol`."""
    return _known(ListenerProtocol, given)


def monitor_type(given: MonitorType | str) -> MonitorType:
    """A `MonitorType`."""
    return _known(MonitorType, given)


def pool_protocol(given: PoolProtocol | str | None) -> PoolProtocol | None:
    """A `PoolProtocol`, or None."""
    return None if given is None else _known(PoolProtocol, given)


def rule_type(given: L7RuleType | str) -> L7RuleType:
    """A `L7RuleType`."""
    return _known(L7RuleType, given)


def topology(given: Topology | str | None) -> Topology | None:
    """A `Topology`, or None."""
    return None if given is None else _known(Topology, given)
