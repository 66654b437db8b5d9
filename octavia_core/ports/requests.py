"""Where requests come from: messages in, operations out. A plugin listens; the controller says what a message means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

__all__ = ["Accept", "Message", "RequestSource"]


@attrs.frozen(kw_only=True)
class Message:
    """One message, as it came. Its content may hold secrets, so it is never shown.

    Attributes:
        unique_id: under which a message that comes twice is recognised; None when the sender gave none.
    """

    method: str
    arguments: Mapping[str, Any] = attrs.field(repr=False)
    unique_id: str | None = None


class Accept(Protocol):
    """Stores what a message asks for. Thread-safe. Once it returns, the message may be forgotten by whoever had it."""

    def __call__(self, message: Message) -> None:
        """Store it; a message that cannot be understood is logged (without its content) and done with.

        Raises:
            TransientError: the database is away; nothing is stored, ask again.
        """


class RequestSource(Protocol):
    """Listens for requests, on threads of its own."""

    def start(self) -> None:
        """Begin to listen; what cannot be reached yet is tried again until `stop`."""

    def stop(self) -> None:
        """Listen no more; returns when every message under way is stored or given back. Twice is harmless."""

    @property
    def deaf_for(self) -> float:
        """Seconds since it last proved that messages reach it."""
