"""How a run leaves a flow, and what it hands to those who go on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from octavia_core.domain.operation import JournalEntry
from octavia_core.errors import OctaviaError
from octavia_core.ports.storage import Transaction

__all__ = ["FlowChanged", "Parked", "Probe", "Undo", "Unwind", "no_probe"]


class Parked(BaseException):
    """The operation lets go of its worker until something happens or time has passed."""

    def __init__(
        self, wake_in: float, wait: Mapping[str, Any] | None, error: str | None, entry: JournalEntry | None
    ) -> None:
        super().__init__(f"parked for {wake_in:.3f} s")
        self.wake_in, self.wait, self.error, self.entry = wake_in, wait, error, entry


class Unwind(BaseException):
    """A step failed for good, now or in an earlier run: leave the flow and undo."""


class FlowChanged(OctaviaError):
    """The flow's code no longer matches the journal of an operation that is under way."""


class Probe(Protocol):
    """Where tests stop a run: called before a step, after its effect, and after its entry is committed."""

    def __call__(self, point: str, path: str) -> None: ...


@attrs.frozen
class Undo:
    """How to take a step back. `path` is the step's; `limit` is how many seconds `work` may take."""

    path: str
    sequence: int
    work: Callable[[], None] | None
    record: Callable[[Transaction], None] | None
    limit: float = 0.0


def no_probe(point: str, path: str) -> None:
    """The probe of production: nothing."""
