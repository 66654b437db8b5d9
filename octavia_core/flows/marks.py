"""What agents are given that can be changed later (the heartbeat key, the list of controllers), told apart by fingerprints.

Rule: a row says which of them an agent has for certain. It is written when its server was booted with them or its agent has
taken them; before an agent is told something else it is taken away, since nobody knows what it has until that is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from octavia_core.domain.fingerprint import fingerprint
from octavia_core.settings import Settings

if TYPE_CHECKING:
    from octavia_core.domain.amphora import AgentAddress
    from octavia_core.flows.run import Run
    from octavia_core.flows.world import World
    from octavia_core.ports.amphora import BootIdentity

__all__ = ["HEARTBEAT_KEY", "WHAT", "mark_of", "marks_of", "tell"]

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


def tell(run: Run, world: World, at: AgentAddress, identity: BootIdentity) -> None:
    """Inside a step: give an agent its settings, and keep what it has.

    Raises:
        AmphoraUnreachable, AmphoraRefused: as `AmphoraPort.update_agent`; what it has is not known then, unless it had these.
    """
    marks = world.marks
    run.note(lambda tx: tx.doubt_marks([identity.amphora_id], marks))
    world.amphora.update_agent(at, identity)
    run.note(lambda tx: tx.give_marks([identity.amphora_id], marks))
