"""Telling agents where heartbeats go to now, when a controller could not have the port that they know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import OctaviaError
from octavia_core.flows.world import World
from octavia_core.ports.amphora import BootIdentity
from octavia_core.ports.storage import Storage

__all__ = ["tell_agents"]

log = logging.getLogger("octavia_core.controller")

AT_ONCE = 16
"""Agents that are told at the same time."""
PATIENCE = 2.0
"""Seconds that a start waits for them; who has not answered by then is told meanwhile, or found silent by health."""


def tell_agents(storage: Storage, world: World, patience: float = PATIENCE) -> Sequence[str]:
    """Give every amphora that serves its agent's settings again; ids of those that have them within `patience` seconds.

    Called before anybody is judged by silence. Raises nothing: an agent that cannot be told is health's to deal with.
    """
    found = [a for a in storage.read(lambda tx: tx.amphorae()) if a.status is AmphoraStatus.ALLOCATED]
    if not found:
        return ()
    marks = world.marks
    storage.transaction(lambda tx: tx.doubt_marks([amphora.id for amphora in found], marks))
    pool = ThreadPoolExecutor(min(AT_ONCE, len(found)), thread_name_prefix="octavia-tell")
    asked = {pool.submit(_tell, world, amphora): amphora.id for amphora in found}
    done, late = wait(asked, timeout=patience)
    pool.shutdown(wait=False)
    told = [asked[future] for future in done if future.result()]
    storage.transaction(lambda tx: tx.give_marks(told, marks))
    log.info("heartbeats come to another port than before: %s amphorae know it, %s do not yet", len(told), len(late))
    return told


def _tell(world: World, amphora: Amphora) -> bool:
    if amphora.agent is None:
        return False
    # Its certificate stays: only settings are sent, so no key has to be made for this.
    identity = BootIdentity(
        amphora_id=amphora.id,
        topology=amphora.topology,
        server_pem=Secret(b""),
        controller_ca_pem=world.issuer.controller_ca(),
    )
    try:
        world.amphora.update_agent(amphora.agent, identity)
    except OctaviaError as error:
        log.warning("amphora %s cannot be told where heartbeats go to now: %s", amphora.id, error)
        return False
    return True
