"""Agents are told what can be changed later, and what each has is kept (`octavia_core.policy.marks`).

Rule: a row says which of them an agent has for certain. It is written when its server was booted with them or its agent has
taken them; before an agent is told something else it is taken away, since nobody knows what it has until that is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavia_core.domain.amphora import AgentAddress
    from octavia_core.flows.run import Run
    from octavia_core.flows.world import World
    from octavia_core.ports.amphora import BootIdentity

__all__ = ["tell"]


def tell(run: Run, world: World, at: AgentAddress, identity: BootIdentity) -> None:
    """Inside a step: give an agent its settings, and keep what it has.

    Raises:
        AmphoraUnreachable, AmphoraRefused: as `AmphoraPort.update_agent`; what it has is not known then, unless it had these.
    """
    marks = world.marks
    run.note(lambda tx: tx.doubt_marks([identity.amphora_id], marks))
    world.amphora.update_agent(at, identity)
    run.note(lambda tx: tx.give_marks([identity.amphora_id], marks))
