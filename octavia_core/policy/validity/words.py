"""How a refusal reads: one sentence with the object, the field, the value and what is allowed."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Listener, LoadBalancer, Member, Node, Pool
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.errors import BadRequest

__all__ = ["KIND_OF", "alternatives", "label", "refusal", "show"]

KIND_OF: Final[Mapping[type, Kind]] = {
    LoadBalancer: Kind.LOAD_BALANCER,
    Listener: Kind.LISTENER,
    Pool: Kind.POOL,
    Member: Kind.MEMBER,
    HealthMonitor: Kind.HEALTH_MONITOR,
    L7Policy: Kind.L7POLICY,
    L7Rule: Kind.L7RULE,
}
"""The kind of each class of the tree."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def show(value: object) -> str:
    """The value in a sentence: quoted, cut when long, without control characters."""
    if value is None:
        return "not set"
    if isinstance(value, Enum):
        return str(value.value)
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number with more digits than Python turns into text
        return f"a {type(value).__name__} too long to show"


def label(node: LoadBalancer | Node) -> str:
    """The object as a person knows it: `listener 'web'`, `member 10.0.0.5:80`, otherwise with its id.

    What is yet to be made has an id that nobody else has seen, or ever will when it is refused: `new listener HTTP:80`.
    """
    words = KIND_OF[type(node)].words
    name = getattr(node, "name", None)
    if isinstance(name, str) and name:
        return f"{words} {show(name)}"
    if isinstance(node, Member):
        place: tuple[object, object] = (node.address, node.protocol_port)
        if isinstance(place[0], str) and isinstance(place[1], int):
            return f"{words} {show(place[0])[1:-1]}:{show(place[1])}"
    if node.provisioning_status is Provisioning.PENDING_CREATE:
        return f"new {_nameless(node, words)}"
    return f"{words} {node.id}"


def _nameless(node: LoadBalancer | Node, words: str) -> str:
    match node:
        case Listener():
            return f"{words} {show(node.protocol)}:{show(node.protocol_port)}"
        case Pool():
            return f"{show(node.protocol)} {words}"
        case HealthMonitor():
            return f"{show(node.type)} {words}"
        case L7Policy():
            return f"{words} number {show(node.position)}"
    return words


def refusal(owner: str, field: str, value: object, allowed: str) -> BadRequest:
    """The error for one field. `allowed` continues the sentence '... but must be'."""
    return BadRequest(f"{owner}: {field} is {show(value)}, but must be {allowed}")


def alternatives(values: Iterable[object]) -> str:
    """'A', 'A or B', 'A, B or C'."""
    words = [str(value.value) if isinstance(value, Enum) else str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
