"""Giving every agent new settings without a failover: another heartbeat key, or another list of controllers.

Rule 1: nobody is told to sign with a key that a living health manager would refuse. Rule 2: each amphora is told by an
operation of its own whose request names what it is told, so beginning again goes on where it stopped, and an agent that
does not answer changes no status. Rule 3: a worker that still has the old settings tells nobody (the operation carries
the fingerprint of what is to be told). Rule 4: an agent has what it was told last: being told once, before it was told
something else, counts for nothing, so that going back is a rotation like any other.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

import attrs

from octavia_core.controller.governing import STALE
from octavia_core.domain.operation import Event, Operation, OperationState
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import ConfigurationError, Refused
from octavia_core.flows.single import mark_of
from octavia_core.ports.storage import Storage, Transaction
from octavia_core.settings import Settings

__all__ = ["Progress", "What", "last_marks", "progress", "rotate"]

FLOW = "configure-agent"
_SERVING = (AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED, AmphoraStatus.READY)
_TOGETHER = 200
"""Operations that are stored in one transaction."""


class What(StrEnum):
    """What agents are told."""

    HEARTBEAT_KEY = "heartbeat-key"
    CONTROLLERS = "controllers"


@attrs.frozen(kw_only=True)
class Progress:
    """How far it is.

    Attributes:
        mark: fingerprint of what is told.
        amphorae: that serve now; `told`: this is what they were told last; `under_way`; `failed`: could not be told; the rest is not asked for.
        failures: amphora -> why, of some of those that failed.
        refusing: living health managers that would refuse heartbeats signed with it (for a key).
        heard: living health manager -> amphorae whose newest heartbeat that it heard lately is signed with it (for a key);
            `otherwise`: with another key, `still` some of these amphorae.
    """

    what: What
    mark: str
    amphorae: int
    told: int
    under_way: int
    failed: int
    failures: Mapping[str, str]
    refusing: tuple[str, ...]
    heard: Mapping[str, int] = attrs.field(factory=dict)
    otherwise: Mapping[str, int] = attrs.field(factory=dict)
    still: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether everybody has it and nobody is heard with another, so that the old key may be dropped."""
        return self.told == self.amphorae and not any(self.otherwise.values())


def progress(storage: Storage, settings: Settings, what: What) -> Progress:
    """How far the rotation to what these settings say is. Raises ConfigurationError when they say nothing."""
    mark = _mark(settings, what)
    return storage.read(lambda tx: _progress(tx, what, mark))


def rotate(storage: Storage, settings: Settings, what: What, *, actor: str) -> int:
    """Store what is not stored yet, and what failed again; how many operations.

    Raises:
        Refused: a living health manager does not accept the new key; the message names it.
        ConfigurationError: there is no key.
    """
    mark = _mark(settings, what)
    found = storage.read(lambda tx: _progress(tx, what, mark))
    if found.refusing:
        raise Refused(
            f"{len(found.refusing)} health manager(s) do not accept the new key yet ({', '.join(found.refusing[:3])}); "
            "name it in their [health_manager] heartbeat_keys_accepted first, and start them again"
        )
    wanted = storage.read(lambda tx: _missing(tx, what, mark))
    for start in range(0, len(wanted), _TOGETHER):
        some = wanted[start : start + _TOGETHER]
        storage.transaction(lambda tx, some=some: _store(tx, some))  # type: ignore[misc]
    if wanted:
        text = f"{len(wanted)} agents are told another {'heartbeat key' if what is What.HEARTBEAT_KEY else 'list of controllers'}"
        event = Event(
            name="rotation.begun", text=text, data={"what": str(what), "amphorae": len(wanted), "actor": actor}
        )
        storage.transaction(lambda tx: tx.emit(event))
    return len(wanted)


def last_marks(tx: Transaction) -> dict[str, str]:
    """What agents were last told, or are being told -> its fingerprint; what was never rotated is left out."""
    newest = {what: tx.last_request(FLOW, f"{what}/") for what in What}
    return {str(what): str(one.arguments["mark"]) for what, one in newest.items() if one is not None}


def _mark(settings: Settings, what: What) -> str:
    mark = mark_of(settings, what)
    if mark is None:
        raise ConfigurationError("[health_manager] heartbeat_key is not set, so there is nothing to tell")
    return mark


def _prefix(what: What, mark: str) -> str:
    return f"{what}/{mark}/"


@attrs.frozen
class _Asked:
    """The last operation that tells an agent this, and whether it was told something else since: then it is to be told anew."""

    last: Operation
    outdated: bool


def _asked(tx: Transaction, what: What, mark: str) -> dict[str, _Asked]:
    """By amphora; those that nobody asked for are left out."""
    asked: dict[str, Operation] = {}
    others: dict[str, list[Operation]] = {}
    for one in sorted(tx.requests(FLOW, f"{what}/"), key=lambda one: one.created_at):
        if one.arguments.get("mark") == mark:
            asked[str(one.amphora_id)] = one
        else:
            others.setdefault(str(one.amphora_id), []).append(one)
    return {id: _Asked(last, any(_since(last, one) for one in others.get(id, ()))) for id, last in asked.items()}


def _since(last: Operation, other: Operation) -> bool:
    """Whether the agent may have been told, or is to be told, the other thing after the last successful telling."""
    if last.state is not OperationState.SUCCEEDED or other.state is OperationState.CANCELLED:
        return False
    if other.state.final:  # one that failed may have reached the agent before it did
        return (other.finished_at or 0) >= (last.finished_at or 0)
    return other.created_at >= last.created_at


def _progress(tx: Transaction, what: What, mark: str) -> Progress:
    serving = [a.id for a in tx.amphorae() if a.status in _SERVING]
    asked = _asked(tx, what, mark)
    states = Counter(asked[id].last.state for id in serving if id in asked and not asked[id].outdated)
    failed = [id for id in serving if id in asked and asked[id].last.state in _ENDED_BADLY]
    now = tx.governing().now
    alive = [one for one in tx.observers() if now - one.written_at <= STALE * 1_000_000]
    refusing = [one.name for one in alive if mark not in str(one.figures.get("accepts"))]
    heard, otherwise, still = dict[str, int](), dict[str, int](), set[str]()
    for one in alive if what is What.HEARTBEAT_KEY else ():
        signed = one.figures.get("signed")
        if isinstance(signed, Mapping):  # it is as new as that
            heard[one.name] = sum(key["amphorae"] for name, key in signed.items() if name == mark)
            otherwise[one.name] = sum(key["amphorae"] for name, key in signed.items() if name != mark)
            still |= {id for name, key in signed.items() if name != mark for id in key["some"]}
    return Progress(
        what=what,
        mark=mark,
        amphorae=len(serving),
        told=states[OperationState.SUCCEEDED],
        under_way=sum(many for state, many in states.items() if not state.final),
        failed=len(failed),
        failures={id: asked[id].last.error or "no reason recorded" for id in failed[:10]},
        refusing=tuple(refusing) if what is What.HEARTBEAT_KEY else (),
        heard=heard,
        otherwise=otherwise,
        still=tuple(sorted(still)),
    )


_ENDED_BADLY = (OperationState.FAILED, OperationState.CANCELLED)


def _missing(tx: Transaction, what: What, mark: str) -> Sequence[Operation]:
    asked = _asked(tx, what, mark)
    found = []
    for amphora in tx.amphorae():
        one = asked.get(amphora.id)
        has_it = one is not None and not one.outdated and one.last.state not in _ENDED_BADLY  # or will
        if amphora.status not in _SERVING or has_it:
            continue
        again = "" if one is None else f"/{one.last.created_at}"
        found.append(
            Operation(
                id=str(uuid.uuid4()),
                flow=FLOW,
                load_balancer_id=amphora.load_balancer_id,
                amphora_id=amphora.id,
                internal=True,
                actor="rotation",
                request_id=f"{_prefix(what, mark)}{amphora.id}{again}",
                arguments={"tell": str(what), "mark": mark},
            )
        )
    return found


def _store(tx: Transaction, operations: Sequence[Operation]) -> None:
    for operation in operations:
        tx.add_operation(operation)
