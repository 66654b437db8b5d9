"""What flows wait for, as values, and how many waits of one kind are checked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs

from octavia_core.domain.amphora import AgentAddress
from octavia_core.domain.codec import from_json, to_json
from octavia_core.errors import AmphoraUnreachable, OctaviaError, PermanentError, TransientError
from octavia_core.flows.world import World
from octavia_core.ports.compute import Server, ServerState

__all__ = ["CHECKS", "AgentAnswers", "ServerActive", "Wait", "check", "limit_of", "wait_from_json", "wait_to_json"]


@attrs.frozen
class ServerActive:
    """Over when compute says that the server runs and has a management address. Gives the `Server`."""

    server_id: str


@attrs.frozen
class AgentAnswers:
    """Over when the agent answers as the amphora it should be. Gives the `AgentInfo` as JSON."""

    at: AgentAddress


Wait = ServerActive | AgentAnswers
Outcome = Any | OctaviaError | None
"""The result (JSON), the error that ends the wait for good, or None: not yet."""


def _servers(world: World, waits: Sequence[ServerActive]) -> list[Outcome]:
    try:
        found = world.compute.servers([w.server_id for w in waits])
    except TransientError:
        return [None] * len(waits)
    return [_server_outcome(wait, found.get(wait.server_id)) for wait in waits]


def _server_outcome(wait: ServerActive, server: Server | None) -> Outcome:
    if server is None or server.state is ServerState.GONE:
        return PermanentError(f"server {wait.server_id} disappeared while it was being built")
    if server.state in (ServerState.ERROR, ServerState.STOPPED):
        return PermanentError(f"server {wait.server_id} is {server.state} instead of running")
    if server.state is ServerState.ACTIVE and server.management_ip:
        return to_json(server)
    return None


def _agents(world: World, waits: Sequence[AgentAnswers]) -> list[Outcome]:
    def ask(wait: AgentAnswers) -> Outcome:
        try:
            return to_json(world.amphora.info(wait.at, limit=LOOK))
        except AmphoraUnreachable:
            return None
        except OctaviaError as error:
            return None if isinstance(error, TransientError) else error

    if len(waits) < 2:
        return [ask(wait) for wait in waits]
    # each agent is a machine of its own, and one that is not there yet costs a connection's time limit
    with ThreadPoolExecutor(max_workers=min(SIDE_BY_SIDE, len(waits)), thread_name_prefix="octavia-ask") as pool:
        return list(pool.map(ask, waits))


LOOK = 5.0
"""Seconds within which an agent that is looked at answers, or has not answered yet."""
SIDE_BY_SIDE = 16
"""Agents that are asked at the same time."""


CHECKS: Mapping[str, tuple[type[Any], Callable[[World, Any], list[Outcome]]]] = {
    "server-active": (ServerActive, _servers),
    "agent-answers": (AgentAnswers, _agents),
}


def _kind(wait: Wait) -> str:
    return next(kind for kind, (type_, _) in CHECKS.items() if isinstance(wait, type_))


def check(world: World, waits: Sequence[Wait]) -> list[Outcome]:
    """The outcomes of waits of one kind, in their order, with one port call where the port allows it."""
    return CHECKS[_kind(waits[0])][1](world, waits) if waits else []


def limit_of(world: World, wait: Wait) -> float:
    """Seconds that one look at such a thing may take."""
    return world.compute.time_limit if isinstance(wait, ServerActive) else min(LOOK, world.amphora.time_limit)


def wait_to_json(wait: Wait) -> dict[str, Any]:
    """As stored with a parked operation."""
    return {"kind": _kind(wait), "value": to_json(wait)}


def wait_from_json(data: Mapping[str, Any]) -> Wait:
    """The reverse of `wait_to_json`."""
    value: Wait = from_json(data["value"], CHECKS[data["kind"]][0])
    return value
