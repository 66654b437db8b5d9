"""What agents are given that can be changed later (the heartbeat key, the list of controllers), told apart by fingerprints."""

from __future__ import annotations

from collections.abc import Mapping

from octavia_core.domain.fingerprint import fingerprint
from octavia_core.settings import Settings

__all__ = ["HEARTBEAT_KEY", "WHAT", "mark_of", "marks_of"]

HEARTBEAT_KEY = "heartbeat-key"
WHAT = (HEARTBEAT_KEY, "controllers")
"""What agents are told."""


def mark_of(settings: Settings, what: str) -> str | None:
    """The fingerprint of what agents are told of one of `WHAT`; None when there is nothing. It costs some milliseconds."""
    health = settings.health_manager
    if what == HEARTBEAT_KEY:
        return fingerprint(health.heartbeat_key.reveal()) if health.heartbeat_key else None
    places = health.controller_ip_port_list or (health.bind_ip,)  # a port of its own choice is told by whoever has it
    return fingerprint(" ".join(places).encode())


def marks_of(settings: Settings) -> Mapping[str, str]:
    """What agents are told -> its fingerprint; without what the settings do not say."""
    return {what: mark for what in WHAT if (mark := mark_of(settings, what)) is not None}
