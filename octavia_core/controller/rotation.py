"""Giving every agent new settings without a failover: another heartbeat key, or another list of controllers.

Rule 1: nobody is told to sign with a key that a living health manager would refuse. Rule 2: each amphora is told by an
operation of its own whose request names what it is told, so beginning again goes on where it stopped, and an agent that
does not answer changes no status. Rule 3: a worker that still has the old settings tells nobody (the operation carries
the fingerprint of what is to be told). Rule 4: an agent has what it was booted with or told last, by a row of its own that
lives as long as it does (`octavia_core.flows.marks`): operations expire. Going back is a rotation like any other.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

import attrs

from octavia_core.controller.holder import living
from octavia_core.domain.operation import Event, Operation, OperationState
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import ConfigurationError, Refused
from octavia_core.policy.marks import mark_of
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
        amphorae: that serve now; `told`: this is what they have; `under_way`; `failed`: could not be told; the rest is not asked for.
        unknown: of that rest, those of which nobody has kept what they have: somebody else has built them, or it was
            interrupted; told once, they have it.
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
    unknown: int
    failures: Mapping[str, str]
    refusing: tuple[str, ...]
    heard: Mapping[str, int] = attrs.field(factory=dict)
    otherwise: Mapping[str, int] = attrs.field(factory=dict)
    still: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether everybody has it and nobody is heard with another."""
        return self.told == self.amphorae and not any(self.otherwise.values())

    @property
    def confirmed(self) -> bool:
        """Whether a health manager hears as many with it as serve: being told is not yet sending. Always, for a list."""
        return self.what is not What.HEARTBEAT_KEY or max(self.heard.values(), default=0) >= self.amphorae


def progress(storage: Storage, settings: Settings, what: What) -> Progress:
    """How far the rotation to what these settings say is. Raises ConfigurationError when they say nothing."""
    mark = _mark(settings, what)
    return storage.read(lambda tx: _progress(tx, what, mark))


def rotate(storage: Storage, settings: Settings, what: What, *, actor: str) -> int:
    """Store what is not stored yet, and what failed again; how many operations this call has stored.

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
    storage.transaction(
        lambda tx: tx.set_rotation(what, mark)
    )  # first: who has other settings tells nobody from now on
    wanted, stored = storage.read(lambda tx: _missing(tx, what, mark)), 0
    for start in range(0, len(wanted), _TOGETHER):
        some = wanted[start : start + _TOGETHER]
        stored += storage.transaction(lambda tx, some=some: _store(tx, some, what, actor))  # type: ignore[misc]
    return stored


def last_marks(tx: Transaction) -> Mapping[str, str]:
    """What agents were last told, or are being told -> its fingerprint; left out is what was never rotated, or what no worker had
    when it was, so that nobody was told: a mistake that is over.
    """
    return {what: mark for what, mark in tx.rotations().items() if tx.is_had(what, mark) or _under_way(tx, what, mark)}


def _under_way(tx: Transaction, what: str, mark: str) -> bool:
    return any(not one.state.final for one in tx.requests(FLOW, _prefix(what, mark)))


def _mark(settings: Settings, what: What) -> str:
    mark = mark_of(settings, what)
    if mark is None:
        raise ConfigurationError("[health_manager] heartbeat_key is not set, so there is nothing to tell")
    return mark


def _prefix(what: str, mark: str) -> str:
    return f"{what}/{mark}/"


class _State(StrEnum):
    """What is to be said of one agent."""

    HAS_IT = "has it"
    UNDER_WAY = "is told"
    FAILED = "could not be told"
    OTHER = "is told, or has, something else"
    UNKNOWN = "may have anything"


@attrs.frozen
class _Agents:
    """What is known of agents: the mark that each has for certain, and the operations that tell them `what`, oldest first."""

    mark: str
    has: Mapping[str, str]
    asked: Mapping[str, Sequence[Operation]]

    def last(self, id: str) -> Operation | None:
        """The last that tells this agent this."""
        return next((one for one in reversed(self.asked.get(id, ())) if one.arguments.get("mark") == self.mark), None)

    def state(self, id: str) -> _State:
        """What is under way counts before what it has, since that is about to change."""
        last, now = self.last(id), [one for one in self.asked.get(id, ()) if not one.state.final]
        if now:
            return _State.UNDER_WAY if now[-1] is last else _State.OTHER
        if self.has.get(id) == self.mark:
            return _State.HAS_IT
        if last is not None and last.state is not OperationState.SUCCEEDED:
            return _State.FAILED
        return _State.OTHER if id in self.has else _State.UNKNOWN


def _agents(tx: Transaction, what: What, mark: str) -> _Agents:
    asked: dict[str, list[Operation]] = {}
    for one in sorted(tx.requests(FLOW, f"{what}/"), key=lambda one: one.created_at):
        asked.setdefault(str(one.amphora_id), []).append(one)
    return _Agents(mark, tx.marked(what), asked)


def _progress(tx: Transaction, what: What, mark: str) -> Progress:
    agents = _agents(tx, what, mark)
    states = {a.id: agents.state(a.id) for a in tx.amphorae() if a.status in _SERVING}
    many = Counter(states.values())
    failed = {id: agents.last(id) for id, state in states.items() if state is _State.FAILED}
    now = tx.governing().now
    alive = [one for one in tx.observers() if living(one, now)]
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
        amphorae=len(states),
        told=many[_State.HAS_IT],
        under_way=many[_State.UNDER_WAY],
        failed=len(failed),
        unknown=many[_State.UNKNOWN],
        failures={id: (one and one.error) or "no reason recorded" for id, one in list(failed.items())[:10]},
        refusing=tuple(refusing) if what is What.HEARTBEAT_KEY else (),
        heard=heard,
        otherwise=otherwise,
        still=tuple(sorted(still)),
    )


def _missing(tx: Transaction, what: What, mark: str) -> Sequence[Operation]:
    agents = _agents(tx, what, mark)
    found = []
    for amphora in tx.amphorae():
        if amphora.status not in _SERVING or agents.state(amphora.id) in (_State.HAS_IT, _State.UNDER_WAY):
            continue
        last = agents.last(amphora.id)
        again = "" if last is None else f"/{last.created_at}"
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


def _store(tx: Transaction, operations: Sequence[Operation], what: What, actor: str) -> int:
    """How many of them nobody else had stored, which an event tells in the same transaction."""
    many = sum(tx.add_operation(operation).id == operation.id for operation in operations)
    if many:
        told = "heartbeat key" if what is What.HEARTBEAT_KEY else "list of controllers"
        data = {"what": str(what), "amphorae": many, "actor": actor}
        tx.emit(Event(name="rotation.begun", text=f"{many} agents are told another {told}", data=data))
    return many
