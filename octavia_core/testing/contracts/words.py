"""How a law says that it is broken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from octavia_core.errors import OctaviaError

__all__ = ["ContractBroken", "eventually", "must", "raises"]

T = TypeVar("T")

_PATIENCE = 60.0
"""Seconds that a law waits for something that must come."""


class ContractBroken(AssertionError):
    """A driver does not do what its port promises."""


def must(condition: object, sentence: str) -> None:
    """Break the law with that sentence unless something holds."""
    if not condition:
        raise ContractBroken(sentence)


def raises(kind: type[OctaviaError], do: Callable[[], object], sentence: str) -> OctaviaError:
    """The error of that kind that it raises; anything else breaks the law."""
    try:
        do()
    except kind as error:
        return error
    raise ContractBroken(sentence)


def eventually(see: Callable[[], T | None], sentence: str) -> T:
    """What is seen at last; the law is broken when nothing is."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if (seen := see()) is not None:
            return seen
        time.sleep(0.005)
    raise ContractBroken(f"{sentence} (waited {_PATIENCE:.0f} s)")
