"""JSON as it is stored."""

from __future__ import annotations

import json
from typing import Any

from octavia_core.domain.codec import to_json

__all__ = ["from_text", "to_text"]


def to_text(value: Any) -> str | None:
    """JSON as it is stored: ASCII, so that no database refuses a character; None as NULL. Values become JSON on the way.

    Raises:
        TypeError: something in it is a secret, or has no JSON form.
    """
    return None if value is None else _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=to_json)


def from_text(text: str | None) -> Any:
    """The reverse of `to_text`."""
    return None if text is None else json.loads(text)
