"""What exists outside against what the rows say: adopt, remove, or only report.

On one machine everything that looks like ours is ours, so a controller that starts takes over the servers of its rows,
removes those that no row wants, and learns at once which ones are gone. In a cloud nothing is ever removed here:
`orphans` reports.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import attrs

from octavia_core.domain.operation import Event
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import OctaviaError
from octavia_core.flows.catalogue import CLEANUP
from octavia_core.flows.world import World
from octavia_core.ports.compute import Death, ServerState
from octavia_core.ports.storage import Storage

__all__ = ["Adopted", "Orphan", "adopt", "orphans"]

log = logging.getLogger("octavia_core.controller")

_DEAD = {
    ServerState.GONE: "its server is gone",
    ServerState.STOPPED: "its server does not run",
    ServerState.ERROR: "its server failed",
}


@attrs.frozen(kw_only=True)
class Adopted:
    """What a start found: ids of amphorae."""

    kept: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Orphan:
    """Something outside that no row wants, or an undo that goes on trying."""

    kind: str
    id: str
    why: str


def adopt(storage: Storage, world: World, on_death: Callable[[Death], None]) -> Adopted:
    """Bring the servers of this machine and the rows together, once, at the start of a controller.

    A server that cannot be looked at or removed now is left for the next start; it never keeps a controller from
    starting. `on_death` is told of each amphora that should run and does not: health's, which starts the failover.
    """
    try:
        servers = {server.name.removeprefix("amphora-"): server for server in world.compute.list()}
    except OctaviaError as error:
        log.warning("servers cannot be listed, so none is adopted or removed: %s", error)
        return Adopted()
    rows = {a.id: a for a in storage.read(lambda tx: tx.amphorae())}
    removed = []
    for id, server in servers.items():
        if id in rows:
            continue
        try:
            world.compute.destroy(server.id)
        except OctaviaError as error:
            log.warning("server %s, which no amphora wants, cannot be removed now: %s", server.name, error)
            continue
        removed.append(id)
    running = (AmphoraStatus.ALLOCATED, AmphoraStatus.READY)
    serving = [a for a in rows.values() if a.status in running and a.compute_id]
    states = world.compute.servers([a.compute_id for a in serving if a.compute_id])
    dead, kept = [], []
    for amphora in serving:
        found = states.get(amphora.compute_id or "")
        if found is not None and found.state in _DEAD:
            words = f"{_DEAD[found.state]}{f' ({found.fault})' if found.fault else ''}"
            on_death(Death(server_id=found.id, at=time.time(), evidence=f"{words}: found when the controller started"))
            dead.append(amphora.id)
        else:
            kept.append(amphora.id)
    if removed:
        text = f"removed {len(removed)} server(s) that no amphora wants: {', '.join(removed)}"
        storage.transaction(lambda tx: tx.emit(Event(name="controller.removed", text=text, data={"servers": removed})))
    return Adopted(kept=tuple(kept), removed=tuple(removed), dead=tuple(dead))


def orphans(storage: Storage, world: World) -> tuple[Orphan, ...]:
    """What exists outside and belongs to no row, and undos that could not be finished. Nothing is touched.

    Raises:
        TransientError: the outside does not answer.
    """
    servers = world.compute.list()
    reserved = world.network.list()
    rows = storage.read(lambda tx: {a.id: a for a in tx.amphorae(with_deleted=True)})
    live = {id for id, a in rows.items() if a.status is not AmphoraStatus.DELETED}
    balancers = {one.id for one in storage.read(lambda tx: tx.load_balancers())}
    found = []
    for server in servers:
        id = server.name.removeprefix("amphora-")
        if id not in live:
            why = "its amphora is DELETED" if id in rows else "no amphora of that id was ever recorded"
            found.append(Orphan(kind="server", id=server.id, why=why))
    for kind, name in reserved:
        known = live | balancers
        if not any(id in name for id in known):
            found.append(Orphan(kind=kind, id=name, why="no load balancer or amphora that exists has it"))
    for row in storage.read(lambda tx: tx.operations(open_only=True, limit=10_000)):
        if row.flow == CLEANUP:
            path = row.arguments.get("path")
            why = f"undo of {path} of operation {row.arguments.get('operation_id')} goes on: {row.error or row.arguments.get('why')}"
            found.append(Orphan(kind="cleanup", id=row.id, why=why))
    return tuple(found)
