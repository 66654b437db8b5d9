"""What upstream's API asks of a worker: from (method, arguments) of a message to what is to be done, and when. Pure.

The 26 methods are those of upstream Octavia 19's RPC (namespace `controller`, version 2.0). A message says which object
it is about; what the object is to be stands in the rows, since the API stores it there. The API sends before it
commits, so a message can be early (its rows are not there, or not PENDING yet), late (its rows are settled), repeated,
or about something that was rolled back: `verdict` tells these apart from what the rows say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import attrs

from octavia_core.domain.operation import Subject
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, Provisioning
from octavia_core.errors import BadRequest

__all__ = ["METHODS", "Action", "Request", "Verdict", "request_of", "verdict", "verdict_on_amphora"]


class Action(StrEnum):
    """What is asked. Stable words: operations hold them."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    FAILOVER = "failover"
    BATCH = "batch"
    CONFIGURE = "configure"
    """Of an amphora's agent; nothing was moved for it."""


class Verdict(StrEnum):
    """What a message means now. Stable words: journals hold them."""

    GO = "go"
    """Its rows are as the API leaves them for a worker."""
    WAIT = "wait"
    """Nothing of it can be seen (yet)."""
    OVER = "over"
    """It was carried out, rolled back, or something else has taken its place: there is nothing to do."""


@attrs.frozen(kw_only=True)
class Request:
    """One message, understood.

    Attributes:
        flow: the flow that carries it out.
        subjects: what it is about.
        load_balancer_id: as the message says; None when it says only `parent`.
        parent: a row that is committed already and belongs to the load balancer.
        amphora_id: for what is about one amphora.
        cascade: delete_load_balancer with everything below.
    """

    method: str
    action: Action
    flow: str
    subjects: tuple[Subject, ...]
    load_balancer_id: str | None = None
    parent: Subject | None = None
    amphora_id: str | None = None
    cascade: bool = False


@attrs.frozen
class _Method:
    """How a method's message is read: the argument that holds the object, and where in it the ids stand."""

    action: Action
    kind: Kind
    argument: str
    id: str = ""
    parent: tuple[Kind, str] | None = None


def _methods() -> Iterable[tuple[str, _Method]]:
    below: tuple[tuple[str, Kind, str, str, tuple[Kind, str]], ...] = (
        ("listener", Kind.LISTENER, "listener", "listener_id", (Kind.LOAD_BALANCER, "loadbalancer_id")),
        ("pool", Kind.POOL, "pool", "pool_id", (Kind.LOAD_BALANCER, "loadbalancer_id")),
        ("member", Kind.MEMBER, "member", "member_id", (Kind.POOL, "pool_id")),
        ("health_monitor", Kind.HEALTH_MONITOR, "health_monitor", "healthmonitor_id", (Kind.POOL, "pool_id")),
        ("l7policy", Kind.L7POLICY, "l7policy", "l7policy_id", (Kind.LISTENER, "listener_id")),
        ("l7rule", Kind.L7RULE, "l7rule", "l7rule_id", (Kind.L7POLICY, "l7policy_id")),
        ("load_balancer", Kind.LOAD_BALANCER, "loadbalancer", "loadbalancer_id", (Kind.LOAD_BALANCER, "loadbalancer_id")),
    )  # fmt: skip
    for name, kind, argument, id, parent in below:
        yield f"create_{name}", _Method(Action.CREATE, kind, argument, id, parent)
        yield f"update_{name}", _Method(Action.UPDATE, kind, f"original_{name}", id, parent)
        yield f"delete_{name}", _Method(Action.DELETE, kind, argument, id, parent)
    yield "batch_update_members", _Method(Action.BATCH, Kind.MEMBER, "old_members")
    yield "failover_load_balancer", _Method(Action.FAILOVER, Kind.LOAD_BALANCER, "load_balancer_id")
    yield "failover_amphora", _Method(Action.FAILOVER, Kind.AMPHORA, "amphora_id")
    yield "delete_amphora", _Method(Action.DELETE, Kind.AMPHORA, "amphora_id")
    yield "update_amphora_agent_config", _Method(Action.CONFIGURE, Kind.AMPHORA, "amphora_id")


_METHODS: Mapping[str, _Method] = MappingProxyType(dict(_methods()))
METHODS: frozenset[str] = frozenset(_METHODS)
"""All 26 names."""


def request_of(method: str, arguments: Mapping[str, Any]) -> Request:
    """Understand a message. Everything in it but ids and `cascade` is left aside: the rows have it.

    Raises:
        BadRequest: no such method, or an id is missing; one sentence, without the message's content.
    """
    if method not in _METHODS:
        raise BadRequest(f"no method {method[:64]!r} is known; upstream's API sends: {', '.join(sorted(METHODS))}")
    how = _METHODS[method]
    if how.action is Action.BATCH:
        return _batch(method, arguments)
    if not how.id:
        return _by_id(method, how, _text(method, arguments, how.argument))
    content = arguments.get(how.argument)
    if not isinstance(content, Mapping):
        raise BadRequest(f"message {method}: {how.argument} is missing")
    subject = Subject(how.kind, _text(method, content, how.id))
    assert how.parent is not None
    parent = Subject(how.parent[0], _text(method, content, how.parent[1]))
    known = parent.id if parent.kind is Kind.LOAD_BALANCER else None
    whole = how.kind is Kind.LOAD_BALANCER and how.action is not Action.UPDATE
    return Request(
        method=method,
        action=how.action,
        flow=how.action.value if whole else "configure",
        subjects=(subject,),
        load_balancer_id=known,
        parent=None if known else parent,
        cascade=how.kind is Kind.LOAD_BALANCER and bool(arguments.get("cascade")),
    )


def _by_id(method: str, how: _Method, id: str) -> Request:
    if how.kind is Kind.LOAD_BALANCER:
        subject = Subject(how.kind, id)
        return Request(method=method, action=how.action, flow="failover", subjects=(subject,), load_balancer_id=id)
    flow = {
        Action.FAILOVER: "failover",
        Action.DELETE: "delete-amphora",
        Action.CONFIGURE: "configure-agent",
    }[how.action]
    amphora = Subject(Kind.AMPHORA, id)
    return Request(method=method, action=how.action, flow=flow, subjects=(amphora,), parent=amphora, amphora_id=id)


def _batch(method: str, arguments: Mapping[str, Any]) -> Request:
    """Three lists in three formats; which is which is of no interest, since each row's own status says what it waits for."""
    ids: dict[str, None] = {}
    pools: dict[str, None] = {}
    for name in ("old_members", "new_members", "updated_members"):
        entries = arguments.get(name) or ()
        if not isinstance(entries, list | tuple) or not all(isinstance(entry, Mapping) for entry in entries):
            raise BadRequest(f"message {method}: {name} is no list of members")
        for entry in entries:
            ids[_text(method, entry, "member_id" if "member_id" in entry else "id")] = None
            pools[_text(method, entry, "pool_id")] = None
    if len(pools) != 1:
        raise BadRequest(f"message {method}: members of {len(pools)} pools; it must be one")
    return Request(
        method=method,
        action=Action.BATCH,
        flow="configure",
        subjects=tuple(Subject(Kind.MEMBER, id) for id in ids),
        parent=Subject(Kind.POOL, next(iter(pools))),
    )


def _text(method: str, content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 36 or not (value.isascii() and value.isprintable()):
        raise BadRequest(f"message {method}: {name} is missing or no id")
    return value


_WAITS_FOR: Mapping[Action, frozenset[Provisioning]] = MappingProxyType(
    {
        Action.CREATE: frozenset({Provisioning.PENDING_CREATE}),
        Action.UPDATE: frozenset({Provisioning.PENDING_UPDATE}),
        Action.DELETE: frozenset({Provisioning.PENDING_DELETE}),
        Action.FAILOVER: frozenset({Provisioning.PENDING_UPDATE}),
        Action.BATCH: frozenset(status for status in Provisioning if status.pending),
    }
)


def verdict(
    action: Action, statuses: Mapping[Subject, Provisioning], subjects: Iterable[Subject], lock: Provisioning | None
) -> Verdict:
    """What a message about a load balancer, or something below one, means now.

    Args:
        action: what it asks.
        statuses: of its subjects, on one snapshot; one that is not there has no row.
        subjects: all that it is about.
        lock: status of the load balancer on the same snapshot, None without a row.

    The load balancer is the lock: the API moves it to PENDING and the object with it in one transaction. So when it is
    pending and the object is not, another request holds it, and ours was carried out or rolled back.
    """
    wanted = list(subjects)
    if any(statuses.get(subject) in _WAITS_FOR[action] for subject in wanted):
        return Verdict.OVER if lock is Provisioning.DELETED else Verdict.GO
    if lock is Provisioning.DELETED or (lock is None and action is not Action.CREATE):
        return Verdict.OVER
    if lock is not None and lock.pending:
        return Verdict.OVER
    there = [subject for subject in wanted if subject in statuses]
    if action is Action.CREATE and there:
        return Verdict.OVER  # rows are born PENDING_CREATE, so this one has been settled
    if action in (Action.UPDATE, Action.DELETE) and not there:
        return Verdict.OVER  # what is to be changed was there before the message: now it is gone
    return Verdict.WAIT


def verdict_on_amphora(status: AmphoraStatus | None) -> Verdict:
    """The same for `delete_amphora`, which moves the amphora's row alone."""
    if status is None or status is AmphoraStatus.DELETED:
        return Verdict.OVER
    return Verdict.GO if status is AmphoraStatus.PENDING_DELETE else Verdict.WAIT
